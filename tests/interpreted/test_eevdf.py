"""EEVDF against hand-computed numbers: virtual time, the pick, protection, placement, lag, delayed dequeue, weights.

Flat run queue of one pCPU unless a test says otherwise: vCPU i of VM a is entity i. Slice 3 ms, tick 1 ms, so a lag is
clamped to 4 ms at weight 1024. Times in ms in the tests, in ns in the records.
"""

from __future__ import annotations

import pytest
from stories import Story, plain_host, us, user, work

from kvmgym.core import eevdf, layout, sched
from kvmgym.params import Block, Host, Scenario, Vm

MS = 1_000_000
BUSY = (user(10**6),)
NOBODY = layout.NONE
NOW = 0


def story(*vms: Vm, until_us: float = 0, pcpus: int = 1, **host) -> Story:
    return Story(Scenario("eevdf", plain_host(pcpus, **host), vms), "none").until(until_us)


def queue(n: int, **host) -> Story:
    """n equal vCPUs of one VM in the root queue of the only pCPU; entity 0 runs."""
    vm = Vm("a", n, work(BUSY), pin=(0,) * n)
    return story(vm, **{"group_scheduling": False, **host})


def put(s: Story, k: int, v: float, deadline: float = 0, *, weight: int = 1024, slice_ms: float = 3) -> None:
    """Give entity k its numbers; its protection is over."""
    se = s.world.se[k]
    se["vruntime_ns"], se["deadline_ns"] = round(v * MS), round(deadline * MS)
    se["weight"], se["slice_ns"], se["vprot_ns"] = weight, round(slice_ms * MS), round(v * MS)


def protect(s: Story, k: int, until_v: float) -> None:
    s.world.se[k]["vprot_ns"] = round(until_v * MS)


def numbers(s: Story, k: int) -> tuple[float, float]:
    """vruntime and deadline of entity k, in ms."""
    return int(s.world.se[k]["vruntime_ns"]) / MS, int(s.world.se[k]["deadline_ns"]) / MS


def lag(s: Story, k: int) -> float:
    return int(s.world.se[k]["vlag_ns"]) / MS


def average(s: Story, rq: int = 0) -> float:
    return int(eevdf.weigh(s.world, rq)[1]) / MS


def pick(s: Story, rq: int = 0) -> int:
    return int(eevdf.pick(s.world, rq, NOBODY))


def take_off(s: Story, v: int, *, sleep: bool) -> None:
    """Dequeue vCPU v, which neither runs nor is anybody's current."""
    if s.world.rq[0]["curr"] == v:
        s.world.rq[0]["curr"] = NOBODY
    eevdf.dequeue(s.world, v, layout.YES if sleep else layout.NO, NOW)


# --- virtual time and eligibility -----------------------------------------------------------------------------------


def test_v_is_the_weighted_mean_with_the_current_included():
    """(2048*1 + 1024*4 + 1024*10) / 4096 = 4."""
    s = queue(3)
    put(s, 0, 1, weight=2048)
    put(s, 1, 4)
    put(s, 2, 10)
    assert average(s) == 4
    assert [bool(eevdf.eligible(s.world, k)) for k in range(3)] == [True, True, False]


def test_an_entity_at_v_is_eligible_and_one_just_past_it_is_not():
    """Exact at the ns: (0 + 1) / 2 = 0.5, so 1 ns is past V although V rounds either way."""
    s = queue(2)
    for k, v in enumerate((0, 1)):
        s.world.se[k]["vruntime_ns"] = v
    assert [bool(eevdf.eligible(s.world, k)) for k in range(2)] == [True, False]
    s.world.se[1]["vruntime_ns"] = 0
    assert [bool(eevdf.eligible(s.world, k)) for k in range(2)] == [True, True]


@pytest.mark.parametrize("base", [0, -(10**15), 10**15])
def test_v_does_not_depend_on_where_virtual_time_began(base):
    """-7 and +2 about the base, weights 1024 and 512: V = base + (-14 + 2) / 3 = base - 4."""
    s = queue(2)
    put(s, 0, 0)
    put(s, 1, 0, weight=512)
    s.world.se[0]["vruntime_ns"], s.world.se[1]["vruntime_ns"] = base - 7, base + 2
    assert int(eevdf.weigh(s.world, 0)[1]) == base - 4
    assert [bool(eevdf.eligible(s.world, k)) for k in range(2)] == [True, False]


def test_runtime_counts_by_weight():
    """3 ms at weight 1024, 2048 and 512 are 3, 1.5 and 6 ms of virtual time."""
    assert [int(eevdf.fair(3 * MS, weight)) / MS for weight in (1024, 2048, 512)] == [3, 1.5, 6]


# --- the pick -------------------------------------------------------------------------------------------------------


def test_one_queued_entity_is_picked():
    s = queue(1)
    put(s, 0, 7, 9)
    assert pick(s) == 0


def test_the_earliest_deadline_among_the_eligible():
    """V = (1 + 2 + 3 + 6) / 4 = 3. Entity 3 has the earliest deadline but is not eligible; of the others 1 is first."""
    s = queue(4)
    s.world.rq[0]["curr"] = NOBODY
    for k, (v, deadline) in enumerate([(1, 8), (2, 5), (3, 6), (6, 4)]):
        put(s, k, v, deadline)
    assert average(s) == 3
    assert pick(s) == 1


def test_equal_deadlines_go_to_the_lower_label():
    """An inference: the kernel's order depends on the shape of its tree; here the rule is fixed."""
    s = queue(3)
    s.world.rq[0]["curr"] = NOBODY
    for k in range(3):
        put(s, k, 0, 5)
    assert pick(s) == 0
    put(s, 0, 0, 6)
    assert pick(s) == 1
    s.world.se["order"][:3] = [0, 2, 1]
    assert pick(s) == 2


def test_an_eligible_buddy_beats_protection_and_deadline():
    s = queue(3)
    put(s, 0, 0, 1)  # the current, protected, with the earliest deadline
    protect(s, 0, 1)
    put(s, 1, 0, 2)
    put(s, 2, 0, 9)
    s.world.rq[0]["next_buddy"] = 2
    assert pick(s) == 2
    s.world.par[0]["pick_buddy"] = 0
    assert pick(s) == 0


def test_an_ineligible_buddy_is_passed_over():
    """V = (0 + 0 + 3) / 3 = 1 < 3."""
    s = queue(3)
    put(s, 0, 0, 1)
    put(s, 1, 0, 2)
    put(s, 2, 3, 1)
    s.world.rq[0]["next_buddy"] = 2
    assert pick(s) == 0


def test_a_protected_eligible_current_runs_on():
    """V = (1 + 1) / 2: both eligible; entity 1 has the earlier deadline."""
    s = queue(2)
    put(s, 0, 1, 9)
    put(s, 1, 1, 2)
    protect(s, 0, 1.000001)
    assert pick(s) == 0
    protect(s, 0, 1)  # v has reached the end of the protection
    assert pick(s) == 1
    protect(s, 0, 2)
    s.world.par[0]["run_to_parity"] = 0
    assert pick(s) == 1


def test_protection_does_not_help_an_ineligible_current():
    """V = (2 + 1) / 2 = 1.5 < 2."""
    s = queue(2)
    put(s, 0, 2, 3)
    put(s, 1, 1, 9)
    protect(s, 0, 3)
    assert pick(s) == 1


@pytest.mark.parametrize(
    "weight, slice_ms, deadline, other_slice, end",
    [
        (1024, 3, 20, 3, 13),  # v + the slice of both
        (1024, 3, 20, 1, 11),  # the shortest queued slice
        (1024, 1, 20, 3, 11),  # its own is the shortest
        (2048, 3, 20, 3, 11.5),  # over its weight
        (1024, 3, 12, 3, 12),  # but not past its deadline
    ],
)
def test_protection_lasts_for_the_shortest_slice_or_to_the_deadline(weight, slice_ms, deadline, other_slice, end):
    """min(deadline, v + shortest queued slice / weight), set when the entity starts to run; v = 10."""
    s = queue(2)
    s.world.rq[0]["curr"] = NOBODY
    put(s, 0, 10, deadline, weight=weight, slice_ms=slice_ms)
    put(s, 1, 10, 30, slice_ms=other_slice)
    eevdf.set_current(s.world, 0, NOBODY, 0)
    assert int(s.world.se[0]["vprot_ns"]) == end * MS


# --- the end of a slice ---------------------------------------------------------------------------------------------


def run_for(s: Story, ms: float) -> bool:
    """The current of p0 runs on for that long; whether it should be rescheduled."""
    s.world.pcpu[0]["exec_start_ns"] = 0
    return bool(eevdf.update_curr(s.world, 0, round(ms * MS)))


@pytest.mark.parametrize(
    "ran, deadline, resched",
    [
        (2, 4, False),  # v = 3
        (3, 7, True),  # v = 4 has reached the deadline: a new one from there, 4 + 3
        (5, 9, True),  # v = 6: 6 + 3
    ],
)
def test_a_passed_deadline_is_renewed(ran, deadline, resched):
    s = queue(2)
    put(s, 0, 1, 4)
    protect(s, 0, 4)
    put(s, 1, 1, 9)
    assert run_for(s, ran) is resched
    assert numbers(s, 0) == (1 + ran, deadline)


def test_the_end_of_protection_reschedules_before_the_deadline():
    """Entity 1 asks for 1 ms slices, so the protection of 0 ends at v = 2; its deadline stays."""
    s = queue(2)
    put(s, 0, 1, 4)
    protect(s, 0, 2)
    put(s, 1, 1, 9, slice_ms=1)
    assert run_for(s, 1) is True
    assert numbers(s, 0) == (2, 4)


def test_nobody_else_no_reschedule():
    s = queue(1)
    put(s, 0, 1, 4)
    assert run_for(s, 5) is False
    assert numbers(s, 0) == (6, 9)


def test_a_slice_ends_at_a_tick():
    """Two flat vCPUs, ticks each ms. First deadlines are half a slice, 1.5 ms, and protection ends there.
    0-2: a0; the tick at 1 ms finds v = 1, the one at 2 ms v = 2 > 1.5: deadline 5. V = (2 + 0) / 2, a0 ineligible: a1.
    2-4: a1 the same way; at 4 ms both are at v = 2 with deadline 5: the lower label. Protected to 5 now:
    4-7: a0 to v = 5, deadline 8. V = 3.5: a1, protected to 5. 7-10: a1. Then a0 and a1 for 3 ms each again."""
    s = queue(2).until(14_000)
    assert s.tell(only={"run"}) == [
        "0us a0 run p0",
        "2000us a1 run p0",
        "4000us a0 run p0",
        "7000us a1 run p0",
        "10000us a0 run p0",
        "13000us a1 run p0",
    ]


def test_with_slow_ticks_it_ends_later():
    """HZ 250: the same slices are seen to end at 4, 8, ... ms only: a tick each. At 4 ms a0 has v = 4 > 1.5; a1 at 8 ms too;
    then both have v = 4 and deadline 7: a0 to v = 8 at 12 ms, and so on."""
    s = queue(2, hz=250).until(20_000)
    runs = [line.split()[:2] for line in s.tell(only={"run"})]
    assert runs == [[f"{4_000 * i}us", f"a{i % 2}"] for i in range(6)]


# --- placement --------------------------------------------------------------------------------------------------------


def test_a_new_task_gets_half_a_slice():
    s = queue(2)
    assert [numbers(s, k) for k in range(2)] == [(0, 1.5), (0, 1.5)]


@pytest.mark.parametrize(
    "others, weight, left_with, v, deadline",
    [
        ([(10, 1024)], 1024, 0, 10, 13),  # no lag: at V
        ([(10, 1024)], 1024, 1, 8, 11),  # 10 - 1 * 2048/1024
        ([(10, 1024)], 1024, -1, 12, 15),
        ([(10, 2048), (16, 1024)], 1024, 3, 8, 11),  # V = 12; 12 - 3 * 4096/3072
        ([(10, 2048), (16, 1024)], 1024, -3, 16, 19),
        ([(10, 1024)], 3072, 1, 6, 7),  # 10 - 1 * 4096/1024; a slice at weight 3072 is 1 ms
    ],
)
def test_placement_keeps_the_lag(others, weight, left_with, v, deadline):
    """v = V - lag * (W + w) / W, so that the lag in the new mean is the old one; deadline v + slice / weight."""
    s = queue(len(others) + 1)
    wakee = len(others)
    take_off(s, wakee, sleep=True)
    for k, (other_v, other_weight) in enumerate(others):
        put(s, k, other_v, other_v + 3, weight=other_weight)
    s.world.se[wakee]["weight"], s.world.se[wakee]["vlag_ns"] = weight, left_with * MS
    eevdf.enqueue(s.world, wakee, 0, NOW, layout.NO)
    assert numbers(s, wakee) == (v, deadline)
    assert average(s) - v == left_with


def test_placement_without_place_lag_is_at_v():
    s = queue(2, place_lag=False)
    take_off(s, 1, sleep=True)
    put(s, 0, 10, 13)
    s.world.se[1]["vlag_ns"] = 1 * MS
    eevdf.enqueue(s.world, 1, 0, NOW, layout.NO)
    assert numbers(s, 1) == (10, 13)


def test_an_empty_queue_keeps_its_virtual_time_and_forgets_lag():
    """The last to leave was at v = 7, so that is where the next one starts, whatever its lag."""
    s = queue(2)
    take_off(s, 1, sleep=True)
    put(s, 0, 7, 9)
    take_off(s, 0, sleep=True)
    s.world.se[1]["vlag_ns"] = 1 * MS
    eevdf.enqueue(s.world, 1, 0, NOW, layout.NO)
    assert numbers(s, 1) == (7, 10)


# --- lag ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "v, other_v, weight, other_slice, kept",
    [
        (8, 10, 1024, 3, 1),  # V = 9
        (0, 20, 1024, 3, 4),  # V = 10, but no more than a slice and a tick
        (20, 0, 1024, 3, -4),
        (0, 20, 1024, 6, 7),  # the largest queued slice counts
        (0, 30, 2048, 3, 2),  # V = 10; (3 + 1) ms at weight 2048
        (0, 20, 512, 3, 8),  # V = 40/3; (3 + 1) ms at weight 512
    ],
)
def test_lag_is_clamped_to_a_slice_and_a_tick(v, other_v, weight, other_slice, kept):
    s = queue(2)
    put(s, 0, other_v, other_v + 3, slice_ms=other_slice)
    put(s, 1, v, v + 3, weight=weight)
    take_off(s, 1, sleep=False)
    assert lag(s, 1) == kept


# --- sleeping with a negative lag ---------------------------------------------------------------------------------


def sleeper(v: float, other_v: float = 0, **host) -> Story:
    """Entity 1 at v goes to sleep beside entity 0 at other_v."""
    s = queue(2, **host)
    put(s, 0, other_v, other_v + 3)
    put(s, 1, v, v + 3)
    take_off(s, 1, sleep=True)
    return s


def state(s: Story) -> tuple[int, int, int]:
    """Of entity 1: on_rq, delayed; and the tasks of the queue."""
    return int(s.world.se[1]["on_rq"]), int(s.world.se[1]["delayed"]), int(s.world.pcpu[0]["nr_running"])


def test_an_eligible_sleeper_leaves_at_once_with_its_lag():
    s = sleeper(0, 2)  # V = 1
    assert (state(s), lag(s, 1)) == ((0, 0, 1), 1)


def test_an_ineligible_sleeper_stays_queued():
    s = sleeper(2)  # V = 1
    assert state(s) == (1, 1, 2)
    assert average(s) == 1  # and still counts in V


def test_without_delay_dequeue_it_leaves_with_its_debt():
    s = sleeper(2, delay_dequeue=False)
    assert (state(s), lag(s, 1)) == ((0, 0, 1), -1)


def test_it_leaves_when_the_pick_comes_to_it_and_owes_nothing():
    """Entity 0 goes on to v = 4, V = 3: entity 1 is eligible with the earlier deadline. It leaves, its lag of +1 forgiven
    (DELAY_ZERO), and 0 is picked."""
    s = sleeper(2)
    put(s, 0, 4, 7)
    assert eevdf.pick_vcpu(s.world, 0, NOW) == 0
    assert (state(s), lag(s, 1)) == ((0, 0, 1), 0)


def test_it_stays_while_it_is_ineligible():
    s = sleeper(2)
    put(s, 0, 1, 4)  # V = 1.5
    assert eevdf.pick_vcpu(s.world, 0, NOW) == 0
    assert state(s) == (1, 1, 2)


def test_a_wakeup_of_a_delayed_sleeper_that_still_owes():
    """V = 1: it takes up its place again, at v = 2."""
    s = sleeper(2)
    eevdf.wake_delayed(s.world, 1, NOW)
    assert (state(s), numbers(s, 1)) == ((1, 0, 2), (2, 5))


def test_a_wakeup_of_a_delayed_sleeper_that_would_have_gained():
    """Entity 0 went on to v = 6: V = 4, its lag would be +2. DELAY_ZERO places it without lag: at 6, V of the rest."""
    s = sleeper(2)
    put(s, 0, 6, 9)
    eevdf.wake_delayed(s.world, 1, NOW)
    assert (state(s), numbers(s, 1)) == ((1, 0, 2), (6, 9))


def test_delayed_dequeue_of_a_whole_group():
    """VMs a and b, one vCPU each, in groups. a0 ran 500 us and sleeps: alone in its group it is eligible and leaves, but its
    group (0.5 ms > V = 0.25 ms) stays queued, delayed, until b has run on past it: b 1 ms, V = 0.75 ms, at a tick."""
    vm = Vm("a", 1, work((user(500), Block(us(10**6))), name="sleeps"), pin=(0,))
    s = story(vm, Vm("b", 1, work(BUSY), pin=(0,)), until_us=600)
    group_a = s.world.se[2]
    assert (s.entity("a0")["on_rq"], group_a["on_rq"], group_a["delayed"]) == (0, 1, 1)
    assert s.world.rq[0]["nr"] == 2
    s.until(4_000)
    assert (group_a["on_rq"], group_a["delayed"], group_a["vlag_ns"]) == (0, 0, 0)


# --- migration ------------------------------------------------------------------------------------------------------


def test_a_migrating_task_keeps_what_is_left_to_its_deadline():
    """2 of 3 ms left to the deadline, lag +1 (V = 9): on a queue at V = 100 it is at 100 - 1 * 2 = 98, deadline 100."""
    s = queue(2)
    put(s, 0, 10, 13)
    put(s, 1, 8, 10)
    take_off(s, 1, sleep=False)
    put(s, 0, 100, 103)
    eevdf.enqueue(s.world, 1, 0, NOW, layout.NO)
    assert numbers(s, 1) == (98, 100)


def test_a_sleeper_asks_for_a_whole_new_slice():
    s = queue(2)
    put(s, 0, 10, 13)
    put(s, 1, 8, 10)
    take_off(s, 1, sleep=True)
    put(s, 0, 100, 103)
    eevdf.enqueue(s.world, 1, 0, NOW, layout.NO)
    assert numbers(s, 1) == (98, 101)


# --- wakeup preemption ------------------------------------------------------------------------------------------------


def preempts(s: Story, lag_ms: float, wakee: int = 1) -> bool:
    """Let the wakee wake at time 0 with that lag; whether the pCPU must pick anew."""
    s.world.se[wakee]["vlag_ns"] = round(lag_ms * MS)
    s.world.vcpu[wakee]["state"] = layout.BLOCKED
    sched.wake(s.world, wakee, NOW)
    return bool(s.world.pcpu[0]["need_resched"])


def asleep(n: int = 2, **host) -> Story:
    """Entity n - 1 sleeps; entity 0 runs at v = 10, protected to its deadline 13, before any others at v = 10."""
    s = queue(n, **host)
    s.world.vcpu[n - 1]["state"] = layout.BLOCKED
    take_off(s, n - 1, sleep=True)
    for k in range(n - 1):
        put(s, k, 10, 13)
    protect(s, 0, 13)
    return s


def test_equal_slices_and_no_lag_do_not_preempt():
    """The wakee is placed at V = 10: the current is eligible and protected."""
    assert not preempts(asleep(), 0)


def test_a_wakee_that_owes_does_not_preempt():
    """Placed at 12: V = 11."""
    assert not preempts(asleep(), -1)


def test_a_wakee_with_lag_preempts_a_current_that_it_makes_ineligible():
    """Placed at 8: V = 9 < 10, so the current is not eligible and the pick is the wakee."""
    assert preempts(asleep(), 1)


def test_a_wakee_does_not_preempt_for_a_third():
    """Current 0 at v = 12, 1 at 6 with deadline 9: V = 9. The wakee with lag 1 lands at 9 - 1 * 3/2 = 7.5 with deadline 10.5.
    The pick is entity 1, not the wakee, so nothing happens before the next tick."""
    s = asleep(3)
    put(s, 0, 12, 15)
    protect(s, 0, 15)
    put(s, 1, 6, 9)
    assert not preempts(s, 1, wakee=2)
    assert numbers(s, 2) == (7.5, 10.5)
    assert pick(s) == 1


def test_an_unprotected_current_yields_to_an_earlier_deadline():
    """Without RUN_TO_PARITY a deadline of 20 loses to the wakee's, 10 + 3; with it the current runs on."""
    for run_to_parity in (False, True):
        s = asleep(run_to_parity=run_to_parity)
        put(s, 0, 10, 20)
        protect(s, 0, 13)
        assert preempts(s, 0) is not run_to_parity


def test_a_shorter_slice_cancels_the_protection():
    """PREEMPT_SHORT: the wakee asks for 1 ms, so its deadline is 11 < 13."""
    s = asleep()
    s.world.se[1]["slice_ns"] = 1 * MS
    assert preempts(s, 0)
    s = asleep(preempt_short=False)
    s.world.se[1]["slice_ns"] = 1 * MS
    assert not preempts(s, 0)


def test_without_wakeup_preemption_nobody_preempts():
    assert not preempts(asleep(wakeup_preemption=False), 1)


def test_next_buddy_is_off_by_default_and_prefers_the_wakee():
    s = asleep()
    assert not preempts(s, 0)
    assert s.world.rq[0]["next_buddy"] == NOBODY
    s = asleep(next_buddy=True)
    assert preempts(s, 0)


def test_in_groups_the_pick_is_between_the_groups():
    """VMs a and b on one pCPU: b0 wakes beside a0. Its group is placed with its lag against a's (v = 10, protected)."""
    for lag_ms, preempted in ((0, False), (1, True)):
        vms = (Vm(name, 1, work(BUSY, name=f"work-{name}"), pin=(0,)) for name in "ab")
        s = story(*vms)
        eevdf.dequeue(s.world, 1, layout.YES, NOW)  # b0, and its group (entity 3) with it
        assert s.world.se[3]["on_rq"] == 0
        put(s, 2, 10, 13)
        protect(s, 2, 13)
        s.world.se[3]["vlag_ns"] = lag_ms * MS
        assert preempts(s, 0) is preempted


# --- weights and slices -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pcpus, slice_ms", [(1, 0.7), (2, 1.4), (3, 1.4), (4, 2.1), (7, 2.1), (8, 2.8), (16, 2.8), (512, 2.8)]
)
def test_base_slice_follows_the_number_of_pcpus(pcpus, slice_ms):
    """0.7 ms * (1 + floor(log2(min(pCPUs, 8))))."""
    vm = Vm("a", 1, work(BUSY))
    s = Story(Scenario("slice", Host(pcpus), (vm,)), "none")
    assert int(s.world.par[0]["slice_ns"]) == round(slice_ms * MS)
    assert set(s.world.se["slice_ns"].tolist()) == {round(slice_ms * MS)}


def test_a_group_has_its_shares_where_its_load_is():
    """VM a (1024) has one vCPU on p0 and one on p1: 512 on each. VM b (2048) has both on p0, VM c (1024) its one on p1.
    A group's weight is brought up to date when it runs at a tick, so every group has to have run."""
    vms = [("a", (0, 1), 1024), ("b", (0, 0), 2048), ("c", (1,), 1024)]
    built = (Vm(name, len(pin), work(BUSY, name=name), pin=pin, weight=w) for name, pin, w in vms)
    s = story(*built, pcpus=2, until_us=20_000)
    weights = {}
    for k, se in enumerate(s.world.se):
        if k >= s.blueprint.vcpus and se["on_rq"]:
            group, p = divmod(k - s.blueprint.vcpus, 2)
            weights["abc"[group] + str(p)] = int(se["weight"])
    assert weights == {"a0": 512, "a1": 512, "b0": 2048, "c1": 1024}
    assert set(s.world.se["weight"][:5].tolist()) == {1024}  # the leaves are all nice 0


@pytest.mark.parametrize("weight, share", [(1024, 1 / 2), (2048, 2 / 3), (256, 1 / 5)])
def test_equal_vms_share_a_pcpu_by_weight(weight, share):
    """One vCPU each, always runnable; over 600 ms nobody is further from its share than two slices."""
    vms = (Vm("a", 1, work(BUSY, name="a"), pin=(0,), weight=weight), Vm("b", 1, work(BUSY, name="b"), pin=(0,)))
    s = story(*vms, until_us=600_000)
    times = run_times(s)
    assert sum(times.values()) == 600 * MS
    assert abs(times["a0"] - 600 * MS * share) <= 2 * 3 * MS


def test_a_vm_spread_over_two_pcpus_has_half_its_weight_on_each():
    """a0 (weight 512 there) against b0 (1024) on p0: a third and two thirds. a1 has p1 to itself."""
    vms = (Vm("a", 2, work(BUSY, name="a"), pin=(0, 1)), Vm("b", 1, work(BUSY, name="b"), pin=(0,)))
    times = run_times(story(*vms, pcpus=2, until_us=600_000))
    assert times["a1"] == 600 * MS
    assert abs(times["a0"] - 200 * MS) <= 2 * 3 * MS


def run_times(s: Story) -> dict[str, int]:
    """How long each vCPU has been on a pCPU, from the trace [ns]."""
    end = int(s.world.host[0]["now_ns"])
    times = dict.fromkeys(s.names(), 0)
    on: dict[str, tuple[str, int]] = {}
    for line in s.tell(only={"run"}):
        when, who, _, where = line.split()
        ns = round(float(when[:-2]) * 1_000)
        if where in on:
            before, since = on[where]
            times[before] += ns - since
        on[where] = (who, ns)
    for who, since in on.values():
        times[who] += end - since
    return times
