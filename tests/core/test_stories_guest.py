"""Trace stories of guests: IPIs, locks, barriers, queues; computed by hand, conventions in tests/stories.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
from stories import FAR, SPINS, hog, hold, one_lock, story, us, user, vm

from kvmgym.params import (
    Barrier,
    BarrierSpec,
    Block,
    Costs,
    Get,
    Kick,
    Lock,
    LockSpec,
    Ops,
    Ple,
    Put,
    QueueSpec,
    Shootdown,
    Unlock,
)

# --- interprocessor interrupts --------------------------------------------------------------------------------------

IPI_COSTS = replace(Costs.zero(), broadcast_physical_ns=2_000, ipi_ns=2_000, irq_handler_ns=5_000)


def stalled_shootdown(policy):
    """p2: b0 0-2, a2 2-4, b0 from 4 ms. a0 starts a shootdown at 4100: a1 runs on p1, a2 is preempted in user mode
    on p2."""
    a = vm("a", (user(4_100), Shootdown(), Ops(), FAR), (FAR,), (FAR,), pin=(0, 1, 2))
    return story(hog("b", 2), a, pcpus=3, policy=policy, costs=IPI_COSTS)


def test_a_shootdown_waits_for_a_preempted_receiver():
    """Mainline does not yield to what was preempted in user mode. a2 runs again at 7 ms and takes the IPI there."""
    told = stalled_shootdown("legacy").until(7_100).tell(start_us=4_001, leave=SPINS)
    assert told == [
        "4102us a0 send a1",
        "4102us a1 irq",
        "4104us a0 send a2",
        "4107us a1 ack a0",
        "7000us b0 preempt p2",
        "7000us a2 run p2",
        "7000us a2 irq",
        "7005us a2 ack a0",
        "7005us a0 ops",
    ]


def test_the_series_yields_to_the_receiver():
    """a2 is the last receiver, so tier 1 takes it at a0's first exit, 2 µs into its spin."""
    told = stalled_shootdown("strict").until(4_200).tell(start_us=4_104)
    assert told == [
        "4104us a0 send a2",
        "4106us a0 PLE",
        "4106us a0 yield_to a2",
        "4106us b0 preempt p2",
        "4106us a2 run p2",
        "4106us a2 irq",
        "4107us a1 ack a0",
        "4110us a0 PLE",
        "4110us a0 no target",
        "4111us a2 ack a0",
        "4111us a0 ops",
    ]


def test_an_ipi_wakes_a_halted_vcpu_which_then_halts_again():
    """Handler 5 µs. The timer of a1's Block fires at 110 µs, and is an interrupt as well."""
    a = vm("a", (user(50), Kick("next"), FAR), (user(10), Block(us(100)), Ops(), FAR), pin=(0, 1))
    costs = replace(Costs.zero(), irq_handler_ns=5_000)
    assert story(a, costs=costs).until(200).tell() == [
        "0us a0 run p0",
        "0us a1 run p1",
        "10us a1 block p1",
        "50us a0 send a1",
        "50us a1 wake p1",
        "50us a1 run p1",
        "50us a1 irq",
        "55us a1 block p1",
        "110us a1 wake p1",
        "110us a1 run p1",
        "110us a1 irq",
        "115us a1 ops",
    ]


def test_a_shootdown_of_busy_vcpus_leaves_halted_ones_alone():
    """a1 is halted, a2 preempted (which counts as busy), a3 runs."""
    a = vm("a", (user(3_000), Shootdown("busy"), FAR), (user(1), Block(us(10**6))), (FAR,), (FAR,), pin=(0, 1, 2, 3))
    told = story(a, hog("b", 2), pcpus=4, policy="none", costs=IPI_COSTS).until(3_100)
    assert told.tell(only={"send", "wake"}) == ["3002us a0 send a2", "3004us a0 send a3"]


def test_an_ipi_waits_while_interrupts_are_off():
    """a1 holds an interrupt-disabling lock 0-100 µs; a0's shootdown arrives at 12 and is served at 100."""
    a = vm(
        "a",
        (user(10), Shootdown(), Ops(), FAR),
        (*hold("l", 100, irq_off=True), Ops(), FAR),
        pin=(0, 1),
        locks=one_lock(),
    )
    assert story(a, costs=IPI_COSTS).until(200).tell(leave={*SPINS, "run"}) == [
        "0us a1 lock l",
        "12us a0 send a1",
        "100us a1 unlock l",
        "100us a1 irq",
        "105us a1 ack a0",
        "105us a0 ops",
        "105us a1 ops",
    ]


def test_a_waiter_with_interrupts_off_does_not_take_them_either():
    """a1 spins for the lock with interrupts off from 5 µs, gets it at 50 and releases it at 60: only then it
    acknowledges."""
    a = vm(
        "a",
        (*hold("l", 50), FAR),
        (user(5), *hold("l", 10, irq_off=True), FAR),
        (user(10), Kick("prev"), FAR),
        pin=(0, 1, 2),
        locks=one_lock(),
    )
    told = story(a, pcpus=3, costs=IPI_COSTS).until(100).tell(only={"send", "irq", "lock", "unlock"})
    assert told == [
        "0us a0 lock l",
        "12us a2 send a1",
        "50us a0 unlock l",
        "50us a1 lock l",
        "60us a1 unlock l",
        "60us a1 irq",
    ]


def test_a_preempted_vcpu_comes_back_with_interrupts_still_off():
    """a1 shares p1 with b0: it runs 0-2 and 4-5 ms to finish a hold of 3 ms. a0's kick arrives at 2.5 ms."""
    a = vm("a", (user(2_498), Kick("next"), FAR), (*hold("l", 3_000, irq_off=True), FAR), pin=(0, 1), locks=one_lock())
    told = story(a, hog("b", 1), costs=IPI_COSTS).until(6_000).tell(only={"send", "unlock", "irq"})
    assert told == ["2500us a0 send a1", "5000us a1 unlock l", "5000us a1 irq"]


@pytest.mark.parametrize("kind, granted", [("fifo", 50), ("tas", 53)])
def test_a_waiter_within_a_handler_goes_on_after_it(kind, granted):
    """a1 spins from 5 µs, takes a2's kick at 48 and is in its handler until 53; a0 releases at 50. A fifo lock is
    its own at once; of a tas lock it knows when it looks again. Either way it holds it for 10 µs from 53 on."""
    a = vm(
        "a",
        (*hold("l", 50), FAR),
        (user(5), *hold("l", 10), FAR),
        (user(46), Kick("prev"), FAR),
        pin=(0, 1, 2),
        locks=one_lock(kind),
    )
    told = story(a, pcpus=3, costs=IPI_COSTS).until(100).tell(only={"irq", "lock", "unlock"}, start_us=1)
    assert told == ["48us a1 irq", "50us a0 unlock l", f"{granted}us a1 lock l", "63us a1 unlock l"]


def test_an_interrupt_delays_what_it_interrupts():
    """a1's 20 µs of compute are interrupted at 12 for 5 µs: its operation ends at 25."""
    a = vm("a", (user(10), Kick("next"), FAR), (user(20), Ops(), FAR), pin=(0, 1))
    assert story(a, costs=IPI_COSTS).until(50).tell(only={"irq", "ops"}) == ["12us a1 irq", "25us a1 ops"]


@pytest.mark.parametrize(
    "program, ended",
    [
        ((user(1_100), Ops(), FAR), 1_101),  # computing
        ((user(999), Kick("next"), Ops(), FAR), 1_002),  # sending, 2 µs
        ((*hold("l", 1_100), Ops(), FAR), 1_101),  # in ring 0
    ],
)
def test_a_tick_is_an_exit_that_delays_the_guest(program, ended):
    """The tick at 1 ms costs 1 µs, whatever the guest does."""
    a = vm("a", program, (FAR,), pin=(0, 1), locks=one_lock())
    told = story(a, costs=replace(IPI_COSTS, exit_ns=1_000)).until(1_200).tell(only={"ops"})
    assert told == [f"{ended}us a0 ops"]


def test_a_tick_delays_a_handler():
    """a1's handler runs from 998 to 1003 and the tick's 1 µs; then its 1100 µs of compute end at 1100 + 5 + 1."""
    a = vm("a", (user(996), Shootdown(), FAR), (user(1_100), Ops(), FAR), pin=(0, 1))
    told = story(a, costs=replace(IPI_COSTS, exit_ns=1_000)).until(1_200).tell(only={"irq", "ack", "ops"})
    assert told == ["998us a1 irq", "1004us a1 ack a0", "1106us a1 ops"]


# --- locks ----------------------------------------------------------------------------------------------------------


def handed_over(kind):
    """a1 (p1, with b0) queues at 100 µs and is preempted 2-4 ms; a2 (p2) queues at 200; a0 (p0) releases at 2500."""
    a = vm(
        "a",
        (*hold("l", 2_500), FAR),
        (user(100), *hold("l", 10), FAR),
        (user(200), *hold("l", 10), FAR),
        pin=(0, 1, 2),
        locks=one_lock(kind),
    )
    told = story(a, hog("b", 1), pcpus=3, ple=Ple(enabled=False)).until(5_000)
    return told.tell(start_us=1, only={"lock", "unlock", "wait"})


def test_a_tas_lock_passes_over_a_waiter_that_does_not_run():
    assert handed_over("tas") == [
        "100us a1 wait l",
        "200us a2 wait l",
        "2500us a0 unlock l",
        "2500us a2 lock l",
        "2510us a2 unlock l",
        "4000us a1 lock l",
        "4010us a1 unlock l",
    ]


def test_a_fifo_lock_goes_to_the_preempted_first_waiter():
    assert handed_over("fifo") == [
        "100us a1 wait l",
        "200us a2 wait l",
        "2500us a0 unlock l",
        "2500us a1 lock l",
        "4010us a1 unlock l",
        "4010us a2 lock l",
        "4020us a2 unlock l",
    ]


def test_a_pvq_waiter_halts_and_is_kicked():
    """It spins for pv_spin_ns, 700 µs; the unlocker gives it the lock, wakes it, and yields to it by name, in vain as
    each is alone. Kick and wake cost 2 and 6 µs: a0 goes on at 1002 µs, a1 runs its 10 µs from 1006 on."""
    a = vm("a", (*hold("l", 1_000), Ops(), FAR), (user(100), *hold("l", 10), FAR), pin=(0, 1), locks=one_lock("pvq"))
    costs = replace(Costs.zero(), ipi_ns=2_000, halt_ns=6_000)
    assert story(a, costs=costs, ple=Ple(enabled=False)).until(2_000).tell() == [
        "0us a0 run p0",
        "0us a1 run p1",
        "0us a0 lock l",
        "100us a1 wait l",
        "800us a1 block p1",
        "1000us a0 unlock l",
        "1000us a1 lock l",
        "1000us a1 wake p1",
        "1000us a0 yield_to a1 = -ESRCH",
        "1000us a1 run p1",
        "1002us a0 ops",
        "1016us a1 unlock l",
    ]


def test_a_pvq_waiter_that_is_served_in_time_does_not_halt():
    a = vm("a", (*hold("l", 500), FAR), (user(100), *hold("l", 10), FAR), pin=(0, 1), locks=one_lock("pvq"))
    told = story(a, ple=Ple(enabled=False)).until(1_000).tell(leave={"run"})
    assert told == ["0us a0 lock l", "100us a1 wait l", "500us a0 unlock l", "500us a1 lock l", "510us a1 unlock l"]


def test_a_mutex_waiter_blocks_and_is_woken():
    """The waker kicks it with a reschedule IPI, which it takes before it goes on."""
    mutex = (LockSpec("m", kind="mutex"),)
    a = vm(
        "a",
        (Lock("m"), user(50), Unlock("m"), FAR),
        (user(10), Lock("m"), user(5), Unlock("m"), FAR),
        pin=(0, 1),
        locks=mutex,
    )
    assert story(a).until(100).tell() == [
        "0us a0 run p0",
        "0us a1 run p1",
        "0us a0 lock m",
        "10us a1 wait m",
        "10us a1 block p1",
        "50us a0 unlock m",
        "50us a1 wake p1",
        "50us a0 send a1",
        "50us a1 run p1",
        "50us a1 irq",
        "50us a1 lock m",
        "55us a1 unlock m",
    ]


def test_a_mutex_waiter_that_comes_too_late_blocks_again():
    """a0 takes the mutex anew before a1 runs."""
    mutex = (LockSpec("m", kind="mutex"),)
    a = vm(
        "a",
        (Lock("m"), user(50), Unlock("m"), Lock("m"), user(30), Unlock("m"), FAR),
        (user(10), Lock("m"), user(5), Unlock("m"), FAR),
        pin=(0, 1),
        locks=mutex,
    )
    told = story(a).until(100).tell(start_us=1, leave={"send", "irq"})
    assert told == [
        "10us a1 wait m",
        "10us a1 block p1",
        "50us a0 unlock m",
        "50us a1 wake p1",
        "50us a0 lock m",
        "50us a1 run p1",
        "50us a1 block p1",
        "80us a0 unlock m",
        "80us a1 wake p1",
        "80us a1 run p1",
        "80us a1 lock m",
        "85us a1 unlock m",
    ]


# --- barriers and queues --------------------------------------------------------------------------------------------


def test_a_barrier_is_spun_at_and_then_blocked_on():
    """Spin 20 µs. a0 arrives at 10 and blocks at 30; a1 arrives at 25 and still spins when a2 comes at 40."""
    programs = [(user(n), Barrier("x"), Ops(), FAR) for n in (10, 25, 40)]
    a = vm("a", *programs, pin=(0, 1, 2), barriers=(BarrierSpec("x", 20_000),))
    assert story(a, pcpus=3).until(100).tell(start_us=1) == [
        "30us a0 block p0",
        "40us a0 wake p0",
        "40us a2 send a0",
        "40us a2 ops",
        "40us a0 run p0",
        "40us a0 irq",
        "40us a0 ops",
        "40us a1 ops",
    ]


def test_a_barrier_separates_rounds():
    """a0 takes 10 µs a round and a1 30, so both pass it each 30 µs."""
    programs = ((user(10), Barrier("x"), Ops()), (user(30), Barrier("x")))
    a = vm("a", *programs, pin=(0, 1), barriers=(BarrierSpec("x", 100_000),))
    assert story(a).until(100).tell(only={"ops"}) == ["30us a0 ops", "60us a0 ops", "90us a0 ops"]


def test_a_queue_between_two_vcpus():
    """Capacity 1. a0 puts each 10 µs, a1 takes 25 µs for each. At 10 the first item is handed over, at 20 the
    second waits, at 30 the third finds the queue full; a1 makes room at 35, a0 computes on and is stuck again at
    45, until 60."""
    a = vm("a", (user(10), Put("q")), (Get("q"), user(25), Ops()), pin=(0, 1), queues=(QueueSpec("q", 1),))
    assert story(a).until(60).tell() == [
        "0us a0 run p0",
        "0us a1 run p1",
        "0us a1 block p1",
        "10us a1 wake p1",
        "10us a0 send a1",
        "10us a1 run p1",
        "10us a1 irq",
        "30us a0 block p0",
        "35us a1 ops",
        "35us a0 wake p0",
        "35us a1 send a0",
        "35us a0 run p0",
        "35us a0 irq",
        "45us a0 block p0",
        "60us a1 ops",
        "60us a0 wake p0",
        "60us a1 send a0",
        "60us a0 run p0",
        "60us a0 irq",
    ]
