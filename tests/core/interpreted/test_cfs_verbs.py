"""CFS by hand-set queues, where a story would be long: what observations are shown, and a hint at two levels."""

from entities import change
from stories import FAR, hog, story, vm

from kvmgym.core import shown
from kvmgym.core.host import cfs, fair

MS = 1_000_000


def on_cfs(*vms, **host):
    tunables = {"latency_ns": 6 * MS, "min_granularity_ns": 750_000, "wakeup_granularity_ns": MS}
    return story(*vms, pcpus=1, scheduler="cfs", **{**tunables, **host})


def test_lag_and_rank_are_distances_to_the_mean_vruntime():
    """After a tick b is at 4 ms and a at 6: V is 5. What the pick goes by is the vruntime itself."""
    s = on_cfs(hog("a", 0), hog("b", 0)).until(1_000)
    assert shown.standing(s.world, 0) == (-MS, MS)
    assert shown.standing(s.world, 1) == (MS, -MS)


def test_a_hint_must_be_near_at_both_levels():
    """The group of a is 0.5 ms ahead of b's and is heeded; within it a1 is 1.1 ms ahead of a0, and is not, until it is
    1 ms."""
    s = on_cfs(vm("a", (FAR,), (FAR,), pin=(0, 0)), hog("b", 0), group_scheduling=True)
    a0, a1, b0, group_a, group_b = range(5)
    for k, v_ms in ((a0, 5), (a1, 6.1), (b0, 3), (group_a, 1.5), (group_b, 1)):
        change(s.world, k, vruntime_ns=round(v_ms * MS))
    assert cfs.pick_vcpu(s.world, 0) == b0
    for v_ms, chosen in ((6.1, a0), (6, a1)):
        change(s.world, a1, vruntime_ns=round(v_ms * MS))
        fair.hint(s.world, a1)
        assert cfs.pick_vcpu(s.world, 0) == chosen
    change(s.world, group_a, vruntime_ns=2 * MS + 1)
    fair.hint(s.world, a1)
    assert cfs.pick_vcpu(s.world, 0) == b0
