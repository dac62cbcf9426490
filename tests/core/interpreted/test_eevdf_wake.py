"""EEVDF by hand-computed numbers: wakeup preemption, group weights, the base slice. Conventions: runqueue.py."""

from __future__ import annotations

import pytest
from entities import give_slice
from runqueue import BUSY, MS, NOBODY, NOW, computing, numbers, pick, protect, put, queue, take_off
from stories import Story, us, user, work

from kvmgym.core import layout
from kvmgym.core.host import eevdf, placement
from kvmgym.params import Block, Host, Scenario, Vm

# --- wakeup preemption ----------------------------------------------------------------------------------------------


def preempts(s: Story, lag_ms: float, wakee: int = 1) -> bool:
    """Let the wakee wake at time 0 with that lag; whether the pCPU must pick anew."""
    s.world.se[wakee]["vlag_ns"] = round(lag_ms * MS)
    s.world.vcpu[wakee]["state"] = layout.BLOCKED
    placement.wake(s.world, wakee, NOW)
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
    """Current 0 at v = 12, 1 at 6 with deadline 9: V = 9. The wakee with lag 1 lands at 9 - 1 * 3/2 = 7.5 with
    deadline 10.5. The pick is entity 1, not the wakee, so nothing happens before the next tick."""
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
    give_slice(s.world, 1, 1 * MS)
    assert preempts(s, 0)
    s = asleep(preempt_short=False)
    give_slice(s.world, 1, 1 * MS)
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
        s = computing(*vms)
        eevdf.dequeue(s.world, 1, layout.YES, NOW)  # b0, and its group (entity 3) with it
        assert s.world.se[3]["on_rq"] == 0
        put(s, 2, 10, 13)
        protect(s, 2, 13)
        s.world.se[3]["vlag_ns"] = lag_ms * MS
        assert preempts(s, 0) is preempted


# --- weights and slices ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pcpus, slice_ms", [(1, 0.7), (2, 1.4), (3, 1.4), (4, 2.1), (7, 2.1), (8, 2.8), (16, 2.8), (512, 2.8)]
)
def test_base_slice_follows_the_number_of_pcpus(pcpus, slice_ms):
    """0.7 ms * (1 + floor(log2(min(pCPUs, 8))))."""
    vm = Vm("a", 1, work(BUSY))
    s = Story(Scenario("slice", Host(pcpus), (vm,)), "none")
    assert int(s.world.par[0]["slice_ns"]) == round(slice_ms * MS)
    assert set(s.world.ent["slice_ns"].tolist()) == {round(slice_ms * MS)}


def test_a_group_has_its_shares_where_its_load_is():
    """VM a (1024) has one vCPU on p0 and one on p1: 512 on each. VM b (2048) has both on p0, VM c (1024) its one on p1.
    So from the start, and again when every group has run at a tick."""
    vms = [("a", (0, 1), 1024), ("b", (0, 0), 2048), ("c", (1,), 1024)]
    built = (Vm(name, len(pin), work(BUSY, name=name), pin=pin, weight=w) for name, pin, w in vms)
    s = computing(*built, pcpus=2)
    for until_us in (0, 20_000):
        s.until(until_us)
        weights = {}
        for k, se in enumerate(s.world.se):
            if k >= s.blueprint.vcpus and se["on_rq"]:
                group, p = divmod(k - s.blueprint.vcpus, 2)
                weights["abc"[group] + str(p)] = int(se["weight"])
        assert weights == {"a0": 512, "a1": 512, "b0": 2048, "c1": 1024}
    assert set(s.world.se["weight"][:5].tolist()) == {1024}  # the leaves are all nice 0


def test_a_group_follows_the_load_of_its_vm():
    """a1 sleeps for ever after 10 µs, so that all of VM a's load comes to be on p0. The load falls from 2 to 1 vCPU, by
    half of the rest each 32 periods of 2^20 ns (33.6 ms): a's weight on p0 is 1024 / 2, then 1024 / 1.5, then 1024."""
    vm = Vm("a", 2, work(BUSY, (user(10), Block(us(10**7))), name="a"), pin=(0, 1))
    s = computing(vm, Vm("b", 1, work(BUSY, name="b"), pin=(0,)), pcpus=2)
    group = s.world.se[s.blueprint.vcpus]
    seen = [int(s.until(t) and group["weight"]) for t in (0, 34_000, 1_000_000)]
    assert seen[0] == 512
    assert abs(seen[1] - 1024 / 1.5) <= 20  # it is brought up to date when the group runs at a tick
    assert 1_020 <= seen[2] <= 1_024


@pytest.mark.parametrize("weight, share", [(1024, 1 / 2), (2048, 2 / 3), (256, 1 / 5)])
def test_equal_vms_share_a_pcpu_by_weight(weight, share):
    """One vCPU each, always runnable; over 600 ms nobody is further from its share than two slices."""
    vms = (Vm("a", 1, work(BUSY, name="a"), pin=(0,), weight=weight), Vm("b", 1, work(BUSY, name="b"), pin=(0,)))
    s = computing(*vms, until_us=600_000)
    times = run_times(s)
    assert sum(times.values()) == 600 * MS
    assert abs(times["a0"] - 600 * MS * share) <= 2 * 3 * MS


def test_a_vm_spread_over_two_pcpus_has_half_its_weight_on_each():
    """a0 (weight 512 there) against b0 (1024) on p0: a third and two thirds. a1 has p1 to itself."""
    vms = (Vm("a", 2, work(BUSY, name="a"), pin=(0, 1)), Vm("b", 1, work(BUSY, name="b"), pin=(0,)))
    times = run_times(computing(*vms, pcpus=2, until_us=600_000))
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
