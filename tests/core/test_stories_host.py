"""Trace stories of the host scheduler, and of deadlocks; computed by hand, conventions in tests/stories.py."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from stories import FAR, hog, hold, kernel, plain_host, story, us, user, vm, work

from kvmgym import simulate
from kvmgym.params import (
    Barrier,
    BarrierSpec,
    Block,
    Costs,
    Get,
    HostTask,
    Lock,
    LockSpec,
    Ops,
    Put,
    QueueSpec,
    Role,
    Scenario,
    Unlock,
    Vm,
    Workload,
)
from kvmgym.world.deadlock import DeadlockError

# --- the host scheduler ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grouped", [False, True])
def test_ticks_end_slices(grouped):
    """The same for two vCPUs in the root queue and for two VMs of one vCPU each in groups of their own."""
    told = story(hog("a", 0), hog("b", 0), pcpus=1, group_scheduling=grouped).until(10_000).tell()
    assert told == [
        "0us a0 run p0",
        "2000us a0 preempt p0",
        "2000us b0 run p0",
        "4000us b0 preempt p0",
        "4000us a0 run p0",
        "7000us a0 preempt p0",
        "7000us b0 run p0",
        "10000us b0 preempt p0",
        "10000us a0 run p0",
    ]


def test_a_switch_costs_time():
    """2 µs before the guest goes on: 100 µs of compute from 0 end at 102; b0's from 2000 at 2102. A wakeup costs 6
    µs."""
    a = vm("a", (user(100), Ops(), Block(us(50)), user(100), Ops(), FAR), pin=(0,))
    costs = replace(Costs.zero(), switch_ns=2_000, halt_ns=6_000)
    assert story(a, pcpus=1, costs=costs).until(500).tell() == [
        "0us a0 run p0",
        "102us a0 ops",
        "102us a0 block p0",
        "152us a0 wake p0",
        "152us a0 run p0",
        "152us a0 irq",
        "258us a0 ops",
    ]


WAKE_COSTS = replace(Costs.zero(), halt_ns=6_000, wake_ns=2_000, switch_ns=3_000)


def test_an_idle_pcpu_takes_a_while_to_wake_up():
    """The first switch costs 3 µs. 2 of the 6 µs of the wakeup pass before a0 is on its pCPU, the others before
    its guest goes on, at 39 µs: 39 + 1974 = 2013."""
    a = vm("a", (user(10), Block(us(20)), user(1_974), Ops(), FAR), pin=(0,))
    assert story(a, pcpus=1, costs=WAKE_COSTS).until(3_000).tell() == [
        "0us a0 run p0",
        "13us a0 block p0",
        "33us a0 wake p0",
        "35us a0 run p0",
        "35us a0 irq",
        "2013us a0 ops",
    ]


def test_the_cost_of_a_wakeup_is_paid_once():
    """As above, a0 computes from 39 µs on. b0 wakes at 500 (and does not preempt), gets p0 when a0's slice ends at
    4 ms, pays its 6 µs and runs 10. a0 comes back for the 3 µs of a switch: 5000 - 3961 = 1039 µs from 4019 on."""
    a = vm("a", (user(10), Block(us(20)), user(5_000), Ops(), FAR), pin=(0,))
    b = vm("b", (user(10), Block(us(474)), user(10), Block(us(10**6))), pin=(0,))
    told = story(a, b, pcpus=1, costs=WAKE_COSTS, delay_dequeue=False).until(6_000)
    assert told.tell(only={"run", "block", "wake"})[:9] == [
        "0us a0 run p0",
        "13us a0 block p0",
        "13us b0 run p0",
        "26us b0 block p0",
        "33us a0 wake p0",
        "35us a0 run p0",
        "500us b0 wake p0",
        "4000us b0 run p0",
        "4016us b0 block p0",
    ]
    assert told.tell(only={"a0"}, start_us=4_001) == ["4016us a0 run p0", "5058us a0 ops"]


def woken(**host):
    """a0 may use both pCPUs, b0 p0 only. a0 blocks at 10 µs, b0 follows on p0; a0's timer fires at 30."""
    a = Vm("a", 1, work((user(10), Block(us(20)), FAR), name="work-a"))
    return story(a, hog("b", 0), **host)


def test_a_wakeup_goes_to_an_idle_pcpu():
    assert woken(delay_dequeue=False).until(1_000).tell(leave={"irq"}) == [
        "0us a0 run p0",
        "10us a0 block p0",
        "10us b0 run p0",
        "30us a0 wake p1",
        "30us a0 run p1",
    ]


def test_a_sleeper_that_never_left_its_queue_wakes_there():
    """a0 ran 10 µs while b0 waited, so its lag is negative and it stays queued on p0 (delayed dequeue). At 30 it
    would be owed time (b0 has 20 µs), which is forgiven: it is placed at b0's v and does not preempt. b0's slice
    ends at 2 ms."""
    assert woken().until(3_000).tell(leave={"irq"}) == [
        "0us a0 run p0",
        "10us a0 block p0",
        "10us b0 run p0",
        "30us a0 wake p0",
        "2000us b0 preempt p0",
        "2000us a0 run p0",
    ]


def test_a_wakeup_prefers_its_last_pcpu_when_that_is_idle():
    """p1 went idle later than p0, so it would come first in the search."""
    a = Vm("a", 1, work((user(10), Block(us(20)), FAR), name="work-a"), cpus=(0, 1, 2))
    b = vm("b", (user(20), Block(us(10**6))), pin=(1,))
    assert story(a, b, pcpus=3).until(100).tell(only={"wake"}) == ["30us a0 wake p0"]


def test_a_wakeup_keeps_to_the_pcpus_that_are_allowed():
    """a0 may use p0 only, so it waits there although p1 is idle. It left with a lag of -5 µs (V = 5, v = 10) and comes
    back at 20 + 5 * 2 = 30 beside b0's 20, so it does not preempt; b0's first slice ends at 2 ms."""
    a = vm("a", (user(10), Block(us(20)), FAR), pin=(0,))
    told = story(a, hog("b", 0), delay_dequeue=False).until(3_000).tell(only={"a0"}, start_us=30)
    assert told == ["30us a0 wake p0", "2000us a0 run p0", "2000us a0 irq"]


def three_on_two(stop_us, **b):
    """a0 and b0 start on p0, c0 on p1 alone, where it blocks after `stop_us`. Balancing is on."""
    a = Vm("a", 1, work((FAR,), name="work-a"))
    c = Vm("c", 1, work((user(stop_us), Block(us(10**6))), name="work-c"))
    return story(a, c, Vm("b", 1, work((FAR,), name="work-b"), **b), balance=True)


def test_a_pcpu_that_goes_idle_pulls_what_waits_elsewhere():
    assert three_on_two(600).until(5_000).tell() == [
        "0us a0 run p0",
        "0us c0 run p1",
        "600us c0 block p1",
        "600us b0 migrate p1",
        "600us b0 run p1",
    ]


def test_what_ran_a_moment_ago_is_not_pulled():
    """Within 500 µs a vCPU counts as cache-hot. c0 blocks at 400 µs; p0's tick at 1 ms hands b0 to the idle p1."""
    assert three_on_two(400).until(5_000).tell(start_us=1) == [
        "400us c0 block p1",
        "1000us b0 migrate p1",
        "1000us b0 run p1",
    ]


def test_pinning_forbids_the_pull():
    """p1 may not have b0. At 2 ms a0 waits instead, but is cache-hot (it ran within 500 µs) until p0's next tick."""
    told = three_on_two(600, pin=(0,)).until(5_000).tell()
    assert told[2:] == [
        "600us c0 block p1",
        "2000us a0 preempt p0",
        "2000us b0 run p0",
        "3000us a0 migrate p1",
        "3000us a0 run p1",
    ]


def test_nothing_is_pulled_when_all_are_pinned_or_balancing_is_off():
    told = story(hog("a", 0), hog("b", 0), balance=True).until(20_000)
    assert told.tell(only={"migrate"}) == []
    assert int(told.world.pcpu[1]["used_ns"]) == 0


def test_periodic_balance_evens_queues_that_are_never_idle():
    """p0 has a0, b0 and d0, p1 has c0; only a0 may move. p1 looks around at its tick at 4 ms: a0 ran 0-2 ms and
    waits."""
    a = Vm("a", 1, work((FAR,), name="work-a"))
    vms = (a, hog("b", 0), hog("d", 0), hog("c", 1))
    told = story(*vms, balance=True, balance_interval_ns=4_000_000).until(20_000).tell(only={"migrate"})
    assert told == ["4000us a0 migrate p1"]
    assert story(*vms, balance=False).until(20_000).tell(only={"migrate"}) == []


def test_balance_leaves_a_difference_of_one():
    vms = (Vm("a", 1, work((FAR,), name="work-a")), hog("b", 0), hog("c", 1))
    assert story(*vms, balance=True, balance_interval_ns=4_000_000).until(20_000).tell(only={"migrate"}) == []


@pytest.mark.parametrize(
    "kib, compute_us, gaps",
    [
        (1_024, 100, [148, 100, 100]),  # 48 µs at 1 MiB
        (256, 100, [103, 100, 100]),  # with the square of the size
        (1_024, 20, [40, 40, 28, 20]),  # compute at half speed until all is paid
        (0, 100, [100, 100]),
    ],
)
def test_caches_are_cold_after_another_vm_ran(kib, compute_us, gaps):
    """a0 computes in steps, 0-2 and again from 4 ms; an eighth of the 2 ms away, 250 µs, is more than any of these."""
    step = Workload("steps", "", (Role("all", (user(compute_us), Ops())),), working_set_kib=kib)
    costs = replace(Costs.zero(), rewarm_ns_at_1mib=48_000, rewarm_share=0.125)
    told = story(Vm("a", 1, step, pin=(0,)), hog("b", 0), pcpus=1, costs=costs).until(4_400).tell(only={"ops"})
    times = [float(line.split("us")[0]) for line in told]
    assert [b - a for a, b in pairwise([0, *times])][:18] == [compute_us] * 18  # nothing was cold at first
    later = [t for t in times if t >= 4_000]
    assert later[0] == 4_000  # the step that the tick at 2 ms had cut off at its very end
    assert [b - a for a, b in pairwise(later)][: len(gaps)] == gaps


def test_caches_stay_warm_among_the_vcpus_of_one_vm():
    step = Workload("steps", "", (Role("all", (user(100), Ops())),), working_set_kib=1_024)
    costs = replace(Costs.zero(), rewarm_ns_at_1mib=48_000, rewarm_share=0.125)
    told = story(Vm("a", 2, step, pin=(0, 0)), pcpus=1, costs=costs).until(20_000)
    assert int(told.world.vm[0]["ops"]) in (199, 200)


def test_rewarming_costs_at_most_a_share_of_the_time_away():
    """1/64 of 2 ms is 31.25 µs, less than 48."""
    step = Workload("steps", "", (Role("all", (user(100), Ops())),), working_set_kib=1_024)
    costs = replace(Costs.zero(), rewarm_ns_at_1mib=48_000, rewarm_share=1 / 64)
    told = story(Vm("a", 1, step, pin=(0,)), hog("b", 0), pcpus=1, costs=costs).until(4_200).tell(only={"ops"})
    assert told[-2:] == ["4000us a0 ops", "4131.25us a0 ops"]


def test_a_host_task_takes_its_share():
    """noise runs 100 µs, sleeps 900. It first runs when a0's slice ends at 2 ms, and leaves at 2.1 with a lag of
    0.95 ms. When it wakes at 3 ms, a0 is at 2.9 ms: noise is placed at 2.9 - 0.95 * 2 = 1.0 ms, V = 1.95, so a0 is
    ineligible and preempted."""
    noise = HostTask("noise", us(100), us(900), pin=0)
    told = story(hog("a", 0), pcpus=1, tasks=(noise,)).until(3_500).tell(leave={"ops"})
    assert told == [
        "0us a0 run p0",
        "2000us a0 preempt p0",
        "2000us noise run p0",
        "2100us noise block p0",
        "2100us a0 run p0",
        "3000us noise wake p0",
        "3000us a0 preempt p0",
        "3000us noise run p0",
        "3100us noise block p0",
        "3100us a0 run p0",
    ]


def test_a_host_task_competes_with_a_whole_vm():
    """In groups: VM a has two vCPUs on the pCPU, but no more than the task's weight together: 1/2, 1/4 and 1/4."""
    a = vm("a", (FAR,), (FAR,), pin=(0, 0))
    told = story(a, pcpus=1, tasks=(HostTask("hog", us(10_000)),), group_scheduling=True).until(240_000)
    running = {}
    lines = [line.split() for line in told.tell(only={"run"})]
    for (start, who, *_), (end, *_) in zip(lines, [*lines[1:], ["240000us"]], strict=True):
        running[who] = running.get(who, 0) + float(end[:-2]) - float(start[:-2])
    assert sum(running.values()) == 240_000
    for who, share in (("hog", 120_000), ("a0", 60_000), ("a1", 60_000)):
        assert abs(running[who] - share) <= 6_000, who


# --- deadlocks ------------------------------------------------------------------------------------------------------


def test_a_deadlock_at_two_barriers_is_reported():
    """a0 waits at x for a1, which waits at y for a0. VM b goes on, which does not hide it."""
    a = vm(
        "a",
        (user(10), Barrier("x"), Barrier("y")),
        (user(20), Barrier("y"), Barrier("x")),
        pin=(0, 1),
        barriers=(BarrierSpec("x"), BarrierSpec("y")),
    )
    told = story(hog("b", 0), a)
    with pytest.raises(DeadlockError) as caught:
        told.until(10_000)
    assert str(caught.value).splitlines() == [
        "deadlock in VM 'a' at 2010 us: nobody can go on",  # a0 gets p0 at 2 ms
        "  vCPU 0 waits at 'x'",
        "  vCPU 1 waits at 'y'",
    ]


def test_a_deadlock_of_a_mutex_and_a_barrier_is_reported():
    a = vm(
        "a",
        (Lock("m"), user(10), Barrier("x"), Unlock("m")),
        (user(5), Lock("m"), Unlock("m"), Barrier("x")),
        pin=(0, 1),
        locks=(LockSpec("other"), LockSpec("m", kind="mutex")),
        barriers=(BarrierSpec("x"),),
    )
    with pytest.raises(DeadlockError) as caught:
        story(a).until(10_000)
    assert str(caught.value).splitlines() == [
        "deadlock in VM 'a' at 10 us: nobody can go on",
        "  vCPU 0 waits at 'x'",
        "  vCPU 1 waits for lock 'm', held by vCPU 0",
    ]


def test_a_deadlock_of_spinners_at_a_barrier_is_reported():
    """They spin 100 µs before they block; nobody waits that long for the report."""
    a = vm(
        "a",
        (user(10), Barrier("x"), Barrier("y")),
        (user(20), Barrier("y"), Barrier("x")),
        pin=(0, 1),
        barriers=(BarrierSpec("x", 100_000), BarrierSpec("y", 100_000)),
    )
    with pytest.raises(DeadlockError, match="at 20 us"):
        story(a).until(10_000)


def test_simulate_reports_a_deadlock_too():
    a = vm(
        "a", (user(10), Barrier("x")), (user(20), Barrier("x"), Barrier("x")), pin=(0, 1), barriers=(BarrierSpec("x"),)
    )
    waits = vm("b", (user(10), Put("q"), Get("r")), (user(10), Get("q"), Get("q"), Put("r")), pin=(0, 1),
               queues=(QueueSpec("q", 2), QueueSpec("r", 1)))  # fmt: skip
    scenario = Scenario("stuck", plain_host(2), (a, waits))
    with pytest.raises(DeadlockError, match=r"VM 'b'(.|\n)*vCPU 0 waits at 'r'\n  vCPU 1 waits at 'q'"):
        simulate(scenario, "legacy", duration_ns=10**7, warmup_ns=0)


def test_a_free_lock_that_a_preempted_waiter_has_yet_to_see_is_no_deadlock():
    """a1 (with b0 on p1) waits from 100 µs and is preempted at 2 ms. a0 releases the tas lock at 2.5 ms and halts
    at the barrier: nobody in the VM runs, but a1 will find the lock free at 4 ms."""
    a = vm(
        "a",
        (*hold("l", 2_500), Barrier("x"), FAR),
        (user(100), *hold("l", 10), Barrier("x"), FAR),
        pin=(0, 1),
        locks=(LockSpec("l", kind="tas"),),
        barriers=(BarrierSpec("x"),),
    )
    told = story(a, hog("b", 1)).until(5_000).tell(only={"lock", "unlock", "block", "wake"})
    assert told == [
        "0us a0 lock l",
        "2500us a0 unlock l",
        "2500us a0 block p0",
        "4000us a1 lock l",
        "4010us a1 unlock l",
        "4010us a0 wake p0",
    ]


def test_waiting_for_a_timer_is_no_deadlock():
    a = vm(
        "a",
        (user(10), Barrier("x"), FAR),
        (Block(us(500)), Barrier("x"), FAR),
        pin=(0, 1),
        barriers=(BarrierSpec("x"),),
    )
    assert story(a).until(2_000).tell(only={"wake"}) == ["500us a1 wake p1", "500us a0 wake p0"]


def test_orders_of_locks_that_can_deadlock_are_refused_before_anything_runs():
    spinlocks = (LockSpec("l"), LockSpec("m"))
    both = (Lock("l"), Lock("m"), kernel(1), Unlock("m"), Unlock("l"))
    crossed = (Lock("m"), Lock("l"), kernel(1), Unlock("l"), Unlock("m"))
    with pytest.raises(ValueError, match="both orders"):
        vm("a", both, crossed, pin=(0, 1), locks=spinlocks)
