"""CFS in stories: slices, sleepers' credit, wakeup preemption, the three buddies, migration, two levels of queues.

Numbers of one CPU wherever a story is: latency 6 ms, minimum granularity 0.75 ms, wakeup granularity 1 ms. A new vCPU
begins a virtual slice late, so the first of a pCPU has vruntime 6 ms, the second 3 ms, the third 2 ms, and the last one
runs first. Of vruntimes in comments, in ms, "a 6" is that of a0.
"""

import pytest
from stories import FAR, hog, hold, one_lock, plain_host, story, us, user, vm

from kvmgym.params import Block, Scenario
from kvmgym.policies import as_policy

MS = 1_000_000
LONG = Block(us(10**6))


def cfs(*vms, pcpus=1, **host):
    """A story on CFS, on flat run queues unless it says otherwise."""
    tunables = {"latency_ns": 6 * MS, "min_granularity_ns": 750_000, "wakeup_granularity_ns": MS}
    return story(*vms, pcpus=pcpus, scheduler="cfs", **{**tunables, **host})


def free(name, *programs):
    """A VM whose vCPUs may run anywhere."""
    return vm(name, *programs, pin=None)


def runs(s, p=0):
    """Who began to run on a pCPU, and when, in ms."""
    told = (line.split() for line in s.tell(only=["run"]))
    return [(float(time[:-2]) / 1000, who) for time, who, _, where in told if where == f"p{p}"]


def vruntime(s, name):
    """In ms."""
    return int(s.entity(name)["vruntime_ns"]) / MS


def test_a_slice_ends_at_the_first_tick_after_it():
    """Two share 6 ms: at 3 ms b has run for its slice, not longer. Then b 7, a 6."""
    s = cfs(hog("a", 0), hog("b", 0)).until(13_000)
    assert runs(s) == [(0, "b0"), (4, "a0"), (8, "b0"), (12, "a0")]


def test_a_slice_follows_the_weights():
    """b has three quarters of 6 ms, 4.5 ms, and begins at a third of that, 1.5. From 5 ms on it must pick anew at each
    tick, but stays the leftmost until 13.5 ms, at a's 6. The slice of a is 1.5 ms."""
    s = cfs(hog("a", 0), vm("b", (FAR,), pin=(0,), weight=3072)).until(16_500)
    assert runs(s) == [(0, "b0"), (14, "a0"), (16, "b0")]


def test_more_than_eight_get_the_minimum_granularity_each():
    """Nine share 9 * 3 ms, so each slice is 3 ms; a third of 24 ms would be less."""
    hogs = vm("h", *[(FAR,)] * 9, pin=(0,) * 9)
    s = cfs(hogs, latency_ns=9 * MS, min_granularity_ns=3 * MS).until(9_000)
    # the eighth began 9 / 8 ms late, the ninth 27 / 9 = 3 ms
    assert vruntime(s, "h8") == 3
    assert [time for time, _ in runs(s)] == [0, 4, 8]


def test_a_sleeper_has_half_a_latency_of_credit():
    """b 3 sleeps from 0 to 20 ms, when min_vruntime is a's 26: it comes back at 23, preempts, and runs for 4 ms."""
    s = cfs(hog("a", 0), vm("b", (Block(us(20_000)), FAR), pin=(0,))).until(20_000)
    assert vruntime(s, "b0") == 23
    assert runs(s.until(25_000)) == [(0, "b0"), (0, "a0"), (20, "b0"), (24, "a0")]


@pytest.mark.parametrize("slept_us, back_at", [(500, 6), (501, 3.001)])
def test_a_wakee_preempts_beyond_the_wakeup_granularity(slept_us, back_at):
    """b 3 runs for 2.5 ms, then sleeps; a 6 is ahead of b 5.5 by 0.5 ms and by what b slept. If that is no more than 1
    ms, b waits for the end of a's slice of 3 ms."""
    s = cfs(hog("a", 0), vm("b", (user(2_500), Block(us(slept_us)), FAR), pin=(0,))).until(6_500)
    assert runs(s) == [(0, "b0"), (2.5, "a0"), (back_at, "b0")]


def test_nothing_preempts_at_a_wakeup_without_wakeup_preemption():
    sleeper = vm("b", (user(2_500), Block(us(501)), FAR), pin=(0,))
    s = cfs(hog("a", 0), sleeper, wakeup_preemption=False).until(6_500)
    assert runs(s) == [(0, "b0"), (2.5, "a0"), (6, "b0")]


def test_a_hint_is_heeded_within_a_granularity_of_the_leftmost():
    """b 3 runs until 4 ms, then a0 6, with the lock, until 8 ms: b 7, a 10. a1 spins from 8.1 ms on and yields to a0 at
    8.102, 8.106, ..., 9.122 ms, when b is more than 1 ms behind. At 10.146 ms b is at 9.146, and a0 runs, though b is
    the leftmost and its slice not over."""
    guest = vm("a", hold("l", 10_000), (user(8_100), *hold("l", 10), FAR), pin=(0, 1), locks=one_lock())
    s = cfs(guest, hog("b", 0), pcpus=2).until(11_000)
    yields = [line.split()[0] for line in s.tell(only=["yield_to"])]
    assert yields[0] == "8102us" and yields[-2:] == ["9122us", "10146us"] and len(yields) == 10
    assert runs(s) == [(0, "b0"), (4, "a0"), (8, "b0"), (10.146, "a0")]


@pytest.mark.parametrize("gran_us, left_at", [(1_000, 12.102), (800, 12.226)])
def test_a_yielder_is_skipped_for_the_second_within_a_granularity(gran_us, left_at):
    """pCPU 1: c runs 0-4 and 8-12 ms (then at 11), a1 4-8 ms; at 12.1 ms a1, at 10.1, wants the lock that a0 took on
    pCPU 0 at 9 ms, where it waits since 12 ms. Its first exit is at 12.102 ms, c 0.898 ms ahead; at 12.226 ms 0.774."""
    guest = vm("a", hold("l", 5_000), (user(4_100), *hold("l", 10), FAR), pin=(0, 1), locks=one_lock())
    s = cfs(guest, hog("b", 0), hog("c", 1), hog("d", 0), pcpus=2, wakeup_granularity_ns=gran_us * 1_000)
    assert runs(s.until(12_500), 1) == [(0, "c0"), (4, "a1"), (8, "c0"), (12, "a1"), (left_at, "c0")]
    # pCPU 0, slices of 2 ms: d 2, b 3, a 6; the hint for a0 9 is not heeded, b being at 6
    assert runs(s) == [(0, "d0"), (3, "b0"), (6, "d0"), (9, "a0"), (12, "b0")]


def test_a_yielder_alone_on_its_pcpu_keeps_its_place():
    guest = vm("a", hold("l", 10_000), (user(8_100), *hold("l", 10), FAR), pin=(0, 1), locks=one_lock())
    s = cfs(guest, hog("b", 0), pcpus=2).until(9_000)
    assert s.world.rq["skip_buddy"].tolist()[:2] == [-1, -1]


def test_who_was_preempted_in_a_long_queue_comes_back_as_last_buddy():
    """w preempts h5 at 6.5 ms, runs for 0.1 ms and sleeps. h5 is at 2.5, h4 at 2.2 the leftmost: with eight queued h5
    goes on. With seven (h2 3.5 at 7.5 ms, h1 3) the leftmost runs."""
    for hogs, woken_us, then in ((7, 6_500, (6.6, "h5")), (6, 7_500, (7.6, "h1"))):
        h = vm("h", *[(FAR,)] * hogs, pin=(0,) * hogs)
        s = cfs(h, vm("w", (Block(us(woken_us)), user(100), LONG), pin=(0,))).until(woken_us + 200)
        assert runs(s)[-2:] == [(woken_us / 1000, "w0"), then]


def test_migration_keeps_the_distance_to_min_vruntime():
    """At 2.5 ms b (pCPU 1, at 8.5) blocks, and pCPU 1 pulls a 6, which was 0.5 ahead of c 5.5 on pCPU 0."""
    s = cfs(free("a", (FAR,)), free("b", (user(2_500), LONG)), free("c", (FAR,)), pcpus=2, balance=True,
            migration_cost_ns=0).until(2_500)  # fmt: skip
    assert s.tell(only=["migrate"]) == ["2500us a0 migrate p1"]
    assert vruntime(s, "a0") == 9


def test_a_wakeup_on_another_pcpu_brings_the_vruntime_along():
    """c sleeps from 2 to 3 ms at 5; pCPU 0 is at a's 7 then, and pCPU 1 idle at 8 since b left it: 5 + 8 - 7."""
    s = cfs(free("a", (FAR,)), free("b", (user(2_000), LONG)), free("c", (user(2_000), Block(us(1_000)), FAR)), pcpus=2)
    s.until(3_000)
    assert runs(s, 1)[-1] == (3, "c0")
    assert vruntime(s, "c0") == 6


def test_two_levels_share_by_group_then_by_vcpu():
    """Groups begin at 0, a1 at 3, a0 at 6. Slices: 1.5 ms for each vCPU of a, 3 ms for the group and for b. Group a
    stays current from 6 ms on while a1 and a0 change places, and its slice ends at 10 ms."""
    s = cfs(vm("a", (FAR,), (FAR,), pin=(0, 0)), hog("b", 0), group_scheduling=True).until(11_000)
    assert runs(s) == [(0, "a1"), (2, "b0"), (6, "a1"), (8, "a0"), (10, "b0")]


def test_the_scheduler_half_of_the_series_needs_eevdf():
    scenario = Scenario("s", plain_host(1, kernel="6.1"), (hog("a", 0),))
    with pytest.raises(ValueError, match="policy series-v2: Host.scheduler = 'cfs': must be \"eevdf\""):
        as_policy("series-v2").prepare(scenario)
    with pytest.raises(ValueError, match="Host.yield_deboost = 'v2': must be \"none\" on CFS"):
        plain_host(1, scheduler="cfs", yield_deboost="v2")
