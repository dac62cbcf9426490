"""The scheduler half of the series, clause by clause: the penalty of v1 and v2, the lag credit of v3.

Queues set by hand, times in ms; runqueue.py has the conventions. Slice 3 ms, so a gran is 3 ms at weight 1024. Unless a
test is about the forfeit it is off, so that a yielder moves by the penalty alone.
"""

from __future__ import annotations

import pytest
from entities import change
from runqueue import BUSY, MS, NOBODY, average, computing, numbers, protect, put, queue
from stories import Story, us, user, work

from kvmgym.core import layout
from kvmgym.core.host import directed_yield, eevdf
from kvmgym.params import Block, Vm

BOTH = pytest.mark.parametrize("version", ["v1", "v2"])
FAR_BEHIND = 100.0  # a target this far ahead in virtual time asks for more than any cap


def deboosting(n: int, version: str = "v2", **host) -> Story:
    """n equal vCPUs of one VM on one pCPU; entity 0 runs."""
    return queue(n, **{"yield_deboost": version, "forfeit": "none", **host})


def yield_to(s: Story, me: int, target: int, at_ms: float = 1) -> int:
    """vCPU me yields to target at that time; nothing is charged for the time before."""
    now = round(at_ms * MS)
    s.world.host[0]["now_ns"] = now
    s.world.pcpu["exec_start_ns"] = now
    return int(directed_yield.yield_to(s.world, me, target, now))


def penalty_of(s: Story, me: int, target: int, at_ms: float = 1) -> float:
    """By how much virtual time, in ms, the yield pushes the yielder back."""
    before = numbers(s, me)[0]
    assert yield_to(s, me, target, at_ms) == layout.YIELD_OK
    return round(numbers(s, me)[0] - before, 6)


def group(s: Story, g: int, p: int = 0) -> int:
    """The entity of VM g's group on pCPU p."""
    return s.blueprint.vcpus + g * s.blueprint.pcpus + p


def lag(s: Story, k: int) -> float:
    """V - vruntime of a queued entity now, in ms."""
    return average(s, int(s.world.se[k]["rq"])) - numbers(s, k)[0]


def runs_next(s: Story, p: int = 0) -> str:
    return s.name(int(eevdf.pick_vcpu(s.world, p, int(s.world.host[0]["now_ns"]))))


# --- v1 and v2: the penalty -----------------------------------------------------------------------------------------


@BOTH
def test_a_yielder_that_is_ahead_pays_a_gran(version):
    """need = max(0, 0 - 1) = 0, so the penalty is gran, 3: v = 1 + 3, deadline = 4 + 3. The target is not touched."""
    s = deboosting(2, version)
    put(s, 0, 1, 2)
    put(s, 1, 0, 9)
    assert yield_to(s, 0, 1) == layout.YIELD_OK
    assert (numbers(s, 0), numbers(s, 1)) == ((4, 7), (0, 9))


def test_without_a_debooster_nobody_moves():
    s = deboosting(2, "none")
    put(s, 0, 1, 2)
    assert yield_to(s, 0, 1) == layout.YIELD_OK
    assert numbers(s, 0) == (1, 2)


@BOTH
def test_a_yielder_that_is_behind_pays_what_it_needs_and_a_tenth_more(version):
    """need = 1 ms: 3 + 1.1 = 4.1 ms."""
    s = deboosting(2, version)
    put(s, 0, 0, 2)
    put(s, 1, 1, 2)
    yield_to(s, 0, 1)
    assert numbers(s, 0) == (4.1, 7.1)


def test_the_tenth_is_rounded_down():
    """need = 1,000,009 ns: 3,000,000 + 1,000,009 + 100,000."""
    s = deboosting(2)
    put(s, 0, 0, 2)
    change(s.world, 1, vruntime_ns=1_000_009)
    yield_to(s, 0, 1)
    assert int(s.world.se[0]["vruntime_ns"]) == 4_100_009


@pytest.mark.parametrize(
    "queued, cap",
    [(2, 18), (3, 12), (4, 7.5), (5, 7.5), (6, 7.5), (7, 6), (8, 6), (9, 4.5), (10, 4.5), (12, 4.5), (13, 3), (14, 3)],
)
def test_the_cap_shrinks_with_the_queue(queued, cap):
    """6, 4, 2.5, 2, 1.5 and 1 grans of 3 ms for 2, 3, 4-6, 7-8, 9-12 and more; 3 + 110 ms were asked for."""
    s = deboosting(queued)
    put(s, 0, 0, 2)
    put(s, 1, FAR_BEHIND, 101)
    assert penalty_of(s, 0, 1) == cap


def test_a_gran_is_the_base_slice_by_the_yielders_weight():
    """Weight 2048: gran = 3 / 2 = 1.5. The deadline is its own slice, 2 ms, by weight on: + 1. The target's weight
    and slice do not count."""
    s = deboosting(2)
    put(s, 0, 0, 2, weight=2048, slice_ms=2)
    put(s, 1, 0, 2, weight=512, slice_ms=5)
    yield_to(s, 0, 1)
    assert numbers(s, 0) == (1.5, 2.5)


def test_the_cap_is_in_weighted_grans_too():
    """Weight 2048, two queued: 6 * 1.5 = 9 ms of virtual time."""
    s = deboosting(2)
    put(s, 0, 0, 2, weight=2048)
    put(s, 1, FAR_BEHIND, 101)
    assert penalty_of(s, 0, 1) == 9


def test_the_penalty_comes_before_the_forfeit():
    """need 100, so the penalty is the cap, 18: v = 18, deadline 21. V = (18 + 100) / 2, so the yielder is still
    eligible and forfeits: v = 21, deadline 24. The other way round it would be 5 + 18 = 23 and 26."""
    s = deboosting(2, forfeit="6.19")
    put(s, 0, 0, 5)
    put(s, 1, FAR_BEHIND, 101)
    yield_to(s, 0, 1)
    assert numbers(s, 0) == (21, 24)


def test_who_is_pushed_past_v_forfeits_nothing_more():
    """v = 3 against V = 1.5. Without the debooster it forfeits up to its deadline, 1."""
    for version, expected in (("v2", (3, 6)), ("none", (1, 4))):
        s = deboosting(2, version, forfeit="6.19")
        put(s, 0, 0, 1)
        put(s, 1, 0, 2)
        yield_to(s, 0, 1)
        assert numbers(s, 0) == expected


# --- v1 and v2: when ------------------------------------------------------------------------------------------------


@BOTH
def test_nobody_pays_for_a_target_on_another_pcpu(version):
    """p0: a0 runs, c0 waits; p1: b0 runs, a1 waits (vCPUs 0 to 3 are b0, a0, a1, c0)."""
    vms = (Vm("b", 1, work(BUSY, name="work-b"), pin=(1,)), Vm("a", 2, work(BUSY), pin=(0, 1)),
           Vm("c", 1, work(BUSY, name="work-c"), pin=(0,)))  # fmt: skip
    s = computing(*vms, pcpus=2, group_scheduling=False, forfeit="none", yield_deboost=version)
    put(s, 1, 1, 2)
    assert yield_to(s, 1, 2) == layout.YIELD_OK
    assert numbers(s, 1) == (1, 2)


def test_nobody_pays_for_a_target_that_sleeps():
    """a0 blocks at 100 µs with negative lag, so it is still queued; a1 runs and yields to it: result 0."""
    a = Vm("a", 2, work((user(100), Block(us(10**6))), BUSY), pin=(0, 0))
    s = computing(a, group_scheduling=False, forfeit="none", yield_deboost="v2", until_us=600)
    assert (s.vcpu("a0")["state"], s.entity("a0")["on_rq"], s.entity("a0")["delayed"]) == (layout.BLOCKED, 1, 1)
    before = numbers(s, 1)
    assert yield_to(s, 1, 0, at_ms=0.6) == layout.YIELD_FREE
    assert numbers(s, 1) == before


@BOTH
@pytest.mark.parametrize("second_ms, pays", [(6.999, 0), (7, 0), (7.000_001, 3)])
def test_at_most_once_within_6_ms(version, second_ms, pays):
    """The first at 1 ms. The yield itself succeeds all the same. 6 ms to the ns are too early."""
    s = deboosting(2, version)
    assert penalty_of(s, 0, 1, at_ms=1) == 3
    assert penalty_of(s, 0, 1, at_ms=second_ms) == pays


@pytest.mark.parametrize("version, pays", [("v1", [3, 0, 0, 0, 0, 0, 3]), ("v2", [3, 0, 0, 3, 0, 3, 3])])
def test_whether_a_yield_that_came_too_early_puts_off_the_next(version, pays):
    """v1's 6 ms begin anew with every yield, v2's with one that acted."""
    s = deboosting(2, version)
    assert [penalty_of(s, 0, 1, at_ms=t) for t in (1, 3, 6.5, 7.001, 12, 13.002, 19.003)] == pays


@BOTH
def test_a_yield_to_another_pcpu_uses_up_the_6_ms(version):
    """The patches look at the clock before they look at the target. p0: a0 runs, a1 waits; p1: b0 runs, a2 waits (vCPUs
    0 to 3 are b0, a0, a1, a2)."""
    vms = (Vm("b", 1, work(BUSY, name="work-b"), pin=(1,)), Vm("a", 3, work(BUSY), pin=(0, 0, 1)))
    s = computing(*vms, pcpus=2, group_scheduling=False, forfeit="none", yield_deboost=version)
    assert [penalty_of(s, 1, target, at_ms=t) for target, t in ((3, 1), (2, 6.999), (2, 13))] == [0, 0, 3]


def test_each_queue_has_its_own_6_ms():
    """p0: a0 runs and a1 waits; p1: a2 runs and a3 waits."""
    s = computing(Vm("a", 4, work(BUSY), pin=(0, 0, 1, 1)), pcpus=2, group_scheduling=False, forfeit="none",
                  yield_deboost="v2")  # fmt: skip
    assert [penalty_of(s, 0, 1), penalty_of(s, 2, 3), penalty_of(s, 0, 1), penalty_of(s, 2, 3)] == [3, 3, 0, 0]


def test_it_acts_where_the_chains_meet():
    """Groups a (two vCPUs) and b (one) on one pCPU. a0 yields to its sibling, so the level is a's own queue: two
    queued there, a cap of 6 grans (with the three tasks of the pCPU it would be 4). The groups' entities stay."""
    vms = (Vm("a", 2, work(BUSY), pin=(0, 0)), Vm("b", 1, work(BUSY, name="work-b"), pin=(0,)))
    s = computing(*vms, forfeit="none", yield_deboost="v2")
    put(s, 0, 0, 2)
    put(s, 1, FAR_BEHIND, 101)
    groups = [s.world.se[group(s, g)].tolist() for g in (0, 1)]
    assert penalty_of(s, 0, 1) == 18
    assert [s.world.se[group(s, g)].tolist() for g in (0, 1)] == groups


# --- v1 and v2: the reverse pair ------------------------------------------------------------------------------------


def last_pair(s: Story, source: int, target: int, at_ms: float) -> None:
    s.world.pcpu[0]["pair_from"], s.world.pcpu[0]["pair_to"] = source, target
    s.world.pcpu[0]["pair_ns"] = round(at_ms * MS)


@pytest.mark.parametrize(
    "need, source, target, age_us, penalty",
    [
        (10, 1, 0, 600, 10),  # the reverse: min(3 + 11, max(10, 3))
        (10, 1, 0, 601, 14),  # too long ago
        (10, 0, 1, 100, 14),  # the same pair again
        (10, 2, 0, 100, 12),  # from a third: 14, but the cap of 3 queued is 12
        (10, NOBODY, NOBODY, 100, 14),
        (1, 1, 0, 100, 3),  # min(4.1, max(1, 3))
        (0, 1, 0, 100, 3),
    ],
)
def test_a_yield_straight_back_costs_no_more_than_the_need(need, source, target, age_us, penalty):
    """The pair is set by hand: in a run the 6 ms between two acts are longer than the 600 µs of this clause, and a pair
    is remembered with an act only, so in the patches it never decides anything."""
    s = deboosting(3 if source == 2 else 2)
    put(s, 0, 0, 2)
    put(s, 1, need, 20)
    last_pair(s, source, target, 5 - age_us / 1000)
    assert penalty_of(s, 0, 1, at_ms=5) == penalty


def test_an_act_remembers_its_pair():
    s = deboosting(2)
    penalty_of(s, 0, 1, at_ms=1)
    record = s.world.pcpu[0]
    assert [int(record[name]) for name in ("pair_from", "pair_to", "pair_ns")] == [0, 1, 1 * MS]


# --- v3: the credit -------------------------------------------------------------------------------------------------


def crediting(n: int, **host) -> Story:
    """n equal vCPUs under v3; entity 0 runs at v = 0, entity 1, the target, is at 6 and so not eligible."""
    s = deboosting(n, "v3", **host)
    for k in range(n):
        put(s, k, 0, 3)
    put(s, 1, 6, 9)
    return s


@pytest.mark.parametrize(
    "queued, host, credit",
    [
        (2, {}, 0.75),  # 3 ms * 0.25 * 1
        (3, {}, 1.5),
        (5, {}, 3.0),
        (2, {"lag_credit_scale": 1.0}, 3.0),
        (2, {"lag_credit_scale": 0.0}, 0.0),
        (7, {}, 4.0),  # 4.5 asked for; the most that is legal is a slice and a tick, 3 + 1
        (2, {"lag_credit_scale": 4.0}, 4.0),
        (2, {"lag_credit_scale": 4.0, "hz": 250}, 7.0),  # 12 asked for, 3 + 4 legal
    ],
)
def test_the_credit(queued, host, credit):
    """The target's lag afterwards, to the rounding of V; the yielder and the others stay where they were."""
    s = crediting(queued, **host)
    assert yield_to(s, 0, 1) == layout.YIELD_OK
    assert lag(s, 1) == pytest.approx(credit, abs=2e-6)
    assert [numbers(s, k) for k in range(queued) if k != 1] == [(0, 3)] * (queued - 1)
    assert eevdf.eligible(s.world, 1)


def test_the_credit_and_its_limit_are_weighted():
    """Weight 2048: a slice is 1.5 of virtual time. 1.5 * 0.25 = 0.375; at most (3 + 1) / 2 = 2."""
    for scale, credit in ((0.25, 0.375), (4.0, 2.0)):
        s = crediting(2, lag_credit_scale=scale)
        put(s, 1, 6, 9, weight=2048)
        yield_to(s, 0, 1)
        assert lag(s, 1) == pytest.approx(credit, abs=2e-6)


def test_the_largest_slice_of_the_queue_sets_the_limit():
    """Entity 0 asks for 9 ms, so up to 9 + 1 is legal: 3 * 4 * 1 = 12 becomes 10."""
    s = crediting(2, lag_credit_scale=4.0)
    put(s, 0, 0, 3, slice_ms=9)
    yield_to(s, 0, 1)
    assert lag(s, 1) == pytest.approx(10, abs=2e-6)


def test_an_eligible_target_gets_nothing():
    s = crediting(2)
    put(s, 0, 1, 4)
    put(s, 1, 1, 5)  # V = 1
    yield_to(s, 0, 1)
    assert (numbers(s, 0), numbers(s, 1)) == ((1, 4), (1, 5))


def test_the_buddy_is_picked_only_with_the_credit():
    for version, runs in (("none", "a0"), ("v1", "a1"), ("v2", "a1"), ("v3", "a1")):
        s = crediting(2, yield_deboost=version)
        put(s, 1, 2, 9)  # v2's penalty of 3 + 2.2 puts a0 past it
        yield_to(s, 0, 1)
        assert runs_next(s) == runs, version


def test_every_yield_credits():
    """0.1 ms after the first the target has used up its lag again: no limit of 6 ms here."""
    s = crediting(2)
    for at_ms in (1, 1.1, 1.2):
        put(s, 1, 6, 9)
        yield_to(s, 0, 1, at_ms)
        assert lag(s, 1) == pytest.approx(0.75, abs=2e-6)


def two_groups(**host) -> Story:
    """p0 has a0 (runs), b0 and b1 in the groups a and b: entities 0, 1, 2."""
    vms = (Vm("a", 1, work(BUSY), pin=(0,)), Vm("b", 2, work(BUSY, name="work-b"), pin=(0, 0)))
    s = computing(*vms, **{"forfeit": "none", "yield_deboost": "v3", **host})
    for k in (0, 1, 2, group(s, 0), group(s, 1)):
        put(s, k, 0, 3)
    return s


@pytest.mark.parametrize("leaf, above", [(6, 0), (0, 6), (6, 6)])
def test_each_level_that_is_not_eligible_is_credited(leaf, above):
    """b1 in its group, and the group b in the root queue: two queued at each level, so 0.75 at each. A level that was
    eligible (all at 0, lag 0) stays. (A yield between VMs, which KVM never asks for, to have two levels apart.)"""
    s = two_groups()
    put(s, 2, leaf, leaf + 3)
    put(s, group(s, 1), above, above + 3)
    yield_to(s, 0, 2)
    assert lag(s, 2) == pytest.approx(0.75 if leaf else 0, abs=2e-6)
    assert lag(s, group(s, 1)) == pytest.approx(0.75 if above else 0, abs=2e-6)
    assert runs_next(s) == "b1"


def test_without_the_credit_the_hint_is_lost_at_the_group():
    s = two_groups(yield_deboost="none")
    put(s, group(s, 1), 6, 9)
    yield_to(s, 0, 2)
    assert runs_next(s) == "a0"


def test_a_group_that_runs_is_credited_in_place():
    """b0 (entity 0) yields to its sibling b1 while their group, past V, is the one that runs beside c: it stays the
    current one, with 0.75 of lag."""
    vms = (Vm("b", 2, work(BUSY), pin=(0, 0)), Vm("c", 1, work(BUSY, name="work-c"), pin=(0,)))
    s = computing(*vms, forfeit="none", yield_deboost="v3")
    put(s, group(s, 0), 2, 5)
    put(s, group(s, 1), 0, 9)
    assert int(s.world.rq[0]["curr"]) == group(s, 0)
    yield_to(s, 0, 1)
    assert int(s.world.rq[0]["curr"]) == group(s, 0)
    assert int(s.world.se[group(s, 0)]["on_rq"]) == 1
    assert lag(s, group(s, 0)) == pytest.approx(0.75, abs=2e-6)
    assert runs_next(s) == "b1"


def test_the_forfeit_goes_on_as_usual():
    """The target is eligible and gets no credit; the yielder (0 <= V = 0) forfeits up to its deadline, 3."""
    s = crediting(2, forfeit="6.19")
    put(s, 1, 0, 5)
    yield_to(s, 0, 1)
    assert numbers(s, 0) == (3, 6)


def test_a_yielder_that_the_credit_makes_ineligible_forfeits_nothing():
    """An inference: the credit comes first, as v2's penalty does. V falls to -0.75, below the yielder's 0."""
    s = crediting(2, forfeit="6.19")
    yield_to(s, 0, 1)
    assert numbers(s, 0) == (0, 3)


# --- v3: the yielder's pCPU -----------------------------------------------------------------------------------------


def protected_yielder(version: str, **host) -> Story:
    """a0 runs, protected to v = 3, beside its sibling a1 and c0, whose deadline is the earliest; no buddies, who would
    come before all that. vCPUs 0 to 2 are a0, a1, c0."""
    vms = (Vm("a", 2, work(BUSY), pin=(0, 0)), Vm("c", 1, work(BUSY, name="work-c"), pin=(0,)))
    s = computing(*vms, forfeit="none", yield_deboost=version, pick_buddy=False, **host)
    protect_again(s)
    return s


def protect_again(s: Story) -> None:
    for k, deadline in ((0, 3), (1, 9), (2, 1), (group(s, 0), 3), (group(s, 1), 1)):
        put(s, k, 0, deadline)
    for k in (0, group(s, 0)):
        protect(s, k, 3)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("version, runs", [("none", "a0"), ("v3", "c0")])
def test_the_yielders_protection_is_cancelled_up_its_chain(grouped, version, runs):
    """In groups it is the protection of the group a that decides."""
    s = protected_yielder(version, group_scheduling=grouped)
    assert runs_next(s) == "a0"
    assert yield_to(s, 0, 1) == layout.YIELD_OK
    assert runs_next(s) == runs


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("second_ms, runs", [(6.999, "a0"), (7.001, "c0")])
def test_the_protection_is_cancelled_at_most_once_within_6_ms(grouped, second_ms, runs):
    s = protected_yielder("v3", group_scheduling=grouped)
    yield_to(s, 0, 1, at_ms=1)
    assert runs_next(s) == "c0"
    protect_again(s)
    yield_to(s, 0, 1, at_ms=second_ms)
    assert runs_next(s) == runs


def on_two_pcpus(**host) -> Story:
    """p0: a0 runs, c0 waits; p1: b0 runs, a1 waits (vCPUs 0 to 3 are b0, a0, a1, c0)."""
    vms = (Vm("b", 1, work(BUSY, name="work-b"), pin=(1,)), Vm("a", 2, work(BUSY), pin=(0, 1)),
           Vm("c", 1, work(BUSY, name="work-c"), pin=(0,)))  # fmt: skip
    return computing(*vms, pcpus=2, group_scheduling=False, forfeit="none", yield_deboost="v3", **host)


@pytest.mark.parametrize("across, credit", [(False, -2.0), (True, 0.75)])
def test_the_credit_reaches_another_pcpu_only_when_told(across, credit):
    """On p1 V = (0 + 4) / 2."""
    s = on_two_pcpus(lag_credit_across=across)
    put(s, 0, 0, 3)
    put(s, 2, 4, 7)
    assert yield_to(s, 1, 2) == layout.YIELD_OK
    assert lag(s, 2) == pytest.approx(credit, abs=2e-6)


@pytest.mark.parametrize("second_ms, credit", [(6.999, -2.0), (7.001, 0.75)])
def test_a_pcpu_is_credited_from_others_at_most_once_within_6_ms(second_ms, credit):
    s = on_two_pcpus(lag_credit_across=True)
    put(s, 0, 0, 3)
    put(s, 2, 4, 7)
    assert yield_to(s, 1, 2, at_ms=1) == layout.YIELD_OK
    assert lag(s, 2) == pytest.approx(0.75, abs=2e-6)
    put(s, 0, 0, 3)
    put(s, 2, 4, 7)
    assert yield_to(s, 1, 2, at_ms=second_ms) == layout.YIELD_OK
    assert lag(s, 2) == pytest.approx(credit, abs=2e-6)


def test_a_yield_that_needs_no_credit_does_not_use_it_up():
    s = on_two_pcpus(lag_credit_across=True)
    put(s, 0, 4, 7)
    put(s, 2, 0, 3)
    assert yield_to(s, 1, 2, at_ms=1) == layout.YIELD_OK
    put(s, 0, 0, 3)
    put(s, 2, 4, 7)
    assert yield_to(s, 1, 2, at_ms=2) == layout.YIELD_OK
    assert lag(s, 2) == pytest.approx(0.75, abs=2e-6)
