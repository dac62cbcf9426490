"""Trace stories: small worlds whose whole course was computed by hand.

Unless a test says otherwise: no costs, flat run queues, ticks each ms, slice 3 ms (the first one of a task half as long), a
pause-loop window of 2 µs that doubles, every vCPU pinned. With those numbers two vCPUs that share a pCPU from time 0 run
0-2, 2-4, 4-7, 7-10 ms and so on, the lower label first (tests/interpreted/test_eevdf.py has the arithmetic).
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from stories import Story, hold, kernel, plain_host, us, user, work

from kvmgym import simulate
from kvmgym.params import (
    Barrier,
    BarrierSpec,
    Block,
    Costs,
    Get,
    HostTask,
    Kick,
    Lock,
    LockSpec,
    Ops,
    Ple,
    Put,
    QueueSpec,
    Scenario,
    Shootdown,
    Unlock,
    Vm,
)
from kvmgym.simulate import DeadlockError

FAR = user(10**6)
SPINS = {"PLE", "no target"}


def vm(name, *programs, pin, **given):
    """A VM of one vCPU a program; workload tables and VM fields may be given together."""
    tables = {key: given.pop(key) for key in ("locks", "queues", "barriers") if key in given}
    return Vm(name, len(programs), work(*programs, name=f"work-{name}", **tables), pin=pin, **given)


def hog(name, pcpu):
    """A VM of one vCPU that computes in user mode."""
    return vm(name, (FAR,), pin=(pcpu,))


def story(*vms, pcpus=2, policy="legacy", tasks=(), **host):
    host = {"group_scheduling": False, **host}
    return Story(Scenario("story", plain_host(pcpus, **host), vms, tasks), policy)


def lock(kind="fifo"):
    return (LockSpec("l", kind=kind),)


# --- pause-loop exits -----------------------------------------------------------------------------------------------


def test_the_window_doubles_while_the_spinner_spins():
    """Exits after 2, +4, +8, +16, +32 µs; the next would come at 126. The holder runs, so there is no target."""
    a = vm("a", (*hold("l", 100), Ops(), FAR), (*hold("l", 10), Ops(), FAR), pin=(0, 1), locks=lock())
    assert story(a).until(200).tell() == [
        "0us a0 run p0",
        "0us a1 run p1",
        "0us a0 lock l",
        "0us a1 wait l",
        "2us a1 PLE",
        "2us a1 no target",
        "6us a1 PLE",
        "6us a1 no target",
        "14us a1 PLE",
        "14us a1 no target",
        "30us a1 PLE",
        "30us a1 no target",
        "62us a1 PLE",
        "62us a1 no target",
        "100us a0 unlock l",
        "100us a1 lock l",
        "100us a0 ops",
        "110us a1 unlock l",
        "110us a1 ops",
    ]


def test_the_window_is_kept_between_spins_and_reset_by_a_switch():
    """a1 spins 0-2 ms beside b0: exits at 2(2^k - 1) µs up to k = 9, 1022. b0 runs 2-4 ms; then the window is 2 µs again."""
    a = vm("a", hold("l", 10_000), hold("l", 10), pin=(0, 1), locks=lock())
    told = story(a, hog("b", 1)).until(4_020).tell(only={"PLE"})
    assert told == [f"{2 * (2**k - 1)}us a1 PLE" for k in range(1, 10)] + [
        f"{t}us a1 PLE" for t in (4_002, 4_006, 4_014)
    ]


def test_the_window_is_kept_from_one_lock_to_the_next():
    """a0 holds 5 µs at a time: the first wait has one exit (2 µs) and leaves a window of 4, which the second wait does not
    fill: a1 waits 0-5, computes to 6, waits from 6 to 9 behind a0's second hold of 5-9... so no exit before 10."""
    a = vm(
        "a",
        (*hold("l", 5), *hold("m", 4), FAR),
        (*hold("l", 1), *hold("m", 1), FAR),
        pin=(0, 1),
        locks=(LockSpec("l", kind="fifo"), LockSpec("m", kind="fifo")),
    )
    assert story(a).until(50).tell(only={"PLE", "lock", "wait"}) == [
        "0us a0 lock l",
        "0us a1 wait l",
        "2us a1 PLE",
        "5us a1 lock l",
        "5us a0 lock m",
        "6us a1 wait m",
        "9us a1 lock m",
    ]


def test_user_mode_spins_never_exit():
    """Intel exits in ring 0 only. a0 spins at the barrier for 50 µs, 25 windows long."""
    a = vm("a", (Barrier("x"), FAR), (user(50), Barrier("x"), FAR), pin=(0, 1), barriers=(BarrierSpec("x", 100_000),))
    assert story(a).until(200).tell(only=SPINS) == []


def test_an_exit_costs_time():
    """1 µs and 0.1 µs for the other vCPU: 2, then 1.1 of host work and 4 of spinning, 1.1 and 8."""
    a = vm("a", hold("l", 100), hold("l", 10), pin=(0, 1), locks=lock())
    costs = replace(Costs.zero(), ple_exit_ns=1_000, scan_ns=100)
    assert story(a, costs=costs).until(20).tell(only={"PLE"}) == ["2us a1 PLE", "7.1us a1 PLE", "16.2us a1 PLE"]


@pytest.mark.parametrize(
    "grow, spin_us, exits",
    [(2, 5, 1), (2, 50, 4), (2, 500, 8), (2, 3_000, 10), (1, 5, 2), (1, 50, 19), (1, 500, 189), (1, 3_000, 1_137)],
)
def test_number_of_exits_of_an_undisturbed_spin(grow, spin_us, exits):
    """Window 1.638 µs, exit 1 µs. Doubling: exit k at 1.638 (2^k - 1) + k - 1. Constant: at 1.638 k + k - 1."""
    a = vm("a", (*hold("l", spin_us), FAR), (*hold("l", 1), FAR), pin=(0, 1), locks=lock())
    host = {"costs": replace(Costs.zero(), ple_exit_ns=1_000), "ple": Ple(window_ns=1_638, grow=grow)}
    ended = story(a, **host).until(spin_us + 10)
    assert int(ended.vcpu("a1")["ple_exits"]) == exits


# --- directed yields ------------------------------------------------------------------------------------------------


def holder_preempted(policy, first="b", **host):
    """p0: b0 and a0, which takes the lock when it first runs and needs 2.1 ms to release it. p1: a1 alone, which comes for
    the lock 100 µs after a0 was preempted. `first` is the VM that runs first on p0."""
    come = {"b": 4_100, "a": 2_100}[first]
    a = vm("a", (*hold("l", 2_100), FAR), (user(come), *hold("l", 10), FAR), pin=(0, 1), locks=lock())
    vms = (hog("b", 0), a) if first == "b" else (a, hog("b", 0))
    return story(*vms, policy=policy, **host)


def test_a_yield_lets_the_preempted_holder_release_the_lock():
    """b0 0-2, a0 2-4, b0 from 4 ms. At 4102 µs b0 has v = 2.102 ms and a0 2, so V = 2.051 and the hint for a0 counts."""
    assert holder_preempted("legacy").until(5_000).tell() == [
        "0us b0 run p0",
        "0us a1 run p1",
        "2000us b0 preempt p0",
        "2000us a0 run p0",
        "2000us a0 lock l",
        "4000us a0 preempt p0",
        "4000us b0 run p0",
        "4100us a1 wait l",
        "4102us a1 PLE",
        "4102us a1 yield_to a0",
        "4102us b0 preempt p0",
        "4102us a0 run p0",
        "4106us a1 PLE",  # a1 stayed on its pCPU: its window goes on growing
        "4106us a1 no target",
        "4114us a1 PLE",
        "4114us a1 no target",
        "4130us a1 PLE",
        "4130us a1 no target",
        "4162us a1 PLE",
        "4162us a1 no target",
        "4202us a0 unlock l",
        "4202us a1 lock l",
        "4212us a1 unlock l",
    ]


def test_without_directed_yield_the_spinner_waits_for_the_slice():
    """b0 runs 4-7 ms, a0 goes on at 7 ms and releases 100 µs later."""
    told = holder_preempted("none").until(8_000).tell(only={"lock", "unlock", "yield_to"})
    assert told == ["2000us a0 lock l", "7100us a0 unlock l", "7100us a1 lock l", "7110us a1 unlock l"]


def test_the_scheduler_ignores_a_hint_for_an_ineligible_target():
    """a0 0-2, b0 2-4 ms. While b0 runs, a0 (v = 2) is past V, so every yield succeeds and changes nothing. a0 goes on at 4 ms."""
    told = holder_preempted("legacy", first="a").until(5_000).tell(leave={"PLE", "wait"})
    assert told == [
        "0us a0 run p0",
        "0us a1 run p1",
        "0us a0 lock l",
        "2000us a0 preempt p0",
        "2000us b0 run p0",
        *[f"{2_100 + 2 * (2**k - 1)}us a1 yield_to a0" for k in range(1, 10)],
        "4000us b0 preempt p0",
        "4000us a0 run p0",
        "4100us a0 unlock l",
        "4100us a1 lock l",
        "4110us a1 unlock l",
    ]


def test_what_a_yield_costs():
    """The yielder goes on after the exit and the yield, 3 µs; the target's pCPU loses 1.5 µs before a0's last 100 µs."""
    costs = replace(Costs.zero(), ple_exit_ns=1_000, yield_ns=2_000, yield_target_ns=1_500)
    told = holder_preempted("legacy", costs=costs).until(4_204).tell(start_us=4_101, only={"PLE", "yield_to", "unlock"})
    assert told[:3] == ["4102us a1 PLE", "4102us a1 yield_to a0", "4109us a1 PLE"]
    assert told[-1] == "4203.5us a0 unlock l"


def yielder_descheduled(policy="legacy", a2_comes_us=10**6):
    """As above, but a1 shares p1 with c0, and a2 is alone on p2 and comes for the lock at a2_comes_us."""
    a = vm(
        "a",
        (*hold("l", 2_100), FAR),
        (user(2_100), *hold("l", 10), FAR),
        (user(a2_comes_us), *hold("l", 10), FAR),
        pin=(0, 1, 2),
        locks=lock(),
    )
    return story(hog("b", 0), a, hog("c", 1), pcpus=3, policy=policy)


FLAGS = ("in_spin_loop", "dy_eligible", "preempted", "ready", "preempted_in_kernel")


def flags(told, name):
    """The names of the flags that are set."""
    return {flag for flag in FLAGS if told.vcpu(name)[flag]}


def test_a_descheduled_yielder_stays_in_its_spin_loop_until_it_runs():
    """p1: a1 0-2, c0 2-4, a1 from 4 ms. When it yields at 4102 it is past V (2.102 > 2.051), so c0 follows. It spun in ring 0,
    so it counts as preempted in kernel, like every vCPU that a pause-loop exit takes off its pCPU. c0's slice ends at 8 ms."""
    told = yielder_descheduled()
    assert flags(told.until(4_101), "a1") == set()
    told.until(4_103)
    assert told.tell(start_us=4_102, only={"a1", "c0"}) == [
        "4102us a1 PLE",
        "4102us a1 yield_to a0",
        "4102us a1 preempt p1",
        "4102us c0 run p1",
    ]
    assert flags(told, "a1") == {"in_spin_loop", "preempted", "ready", "preempted_in_kernel"}
    told.until(7_999)
    assert flags(told, "a1") == {"in_spin_loop", "preempted", "ready", "preempted_in_kernel"}
    told.until(8_000)
    assert told.tell(start_us=8_000, only={"a1"}) == ["8000us a1 run p1"]
    assert flags(told, "a1") == {"preempted_in_kernel"}  # rewritten at the next preemption only
    assert int(told.vcpu("a1")["ple_window_ns"]) == 2_000


@pytest.mark.parametrize("policy", ["legacy", "strict"])
def test_a_descheduled_spinner_passes_for_a_kernel_mode_target_and_is_toggled(policy):
    """a2's first exit at 4112 starts after a0, who was boosted last: a1 is preempted in kernel, but in its spin loop and not
    eligible; the check makes it so. The second exit at 4116 takes it, and it is ineligible once more."""
    told = yielder_descheduled(policy, a2_comes_us=4_110).until(4_113)
    assert told.tell(start_us=4_111, only={"a2"}) == ["4112us a2 PLE", "4112us a2 no target"]
    assert "dy_eligible" in flags(told, "a1")
    told.until(4_117)
    assert told.tell(start_us=4_116, only={"a2"}) == ["4116us a2 PLE", "4116us a2 yield_to a1"]
    assert "dy_eligible" not in flags(told, "a1")
    assert int(told.world.vm[1]["last_boosted_vcpu"]) == 1


def test_preempted_in_user_mode_is_not_latched_as_kernel():
    told = story(hog("a", 0), hog("b", 0), pcpus=1).until(3_000)
    assert flags(told, "a0") == {"preempted", "ready"}


# --- interprocessor interrupts ----------------------------------------------------------------------------------------

IPI_COSTS = replace(Costs.zero(), broadcast_physical_ns=2_000, ipi_ns=2_000, irq_handler_ns=5_000)


def stalled_shootdown(policy):
    """p2: b0 0-2, a2 2-4, b0 from 4 ms. a0 starts a shootdown at 4100: a1 runs on p1, a2 is preempted in user mode on p2."""
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


def test_an_ipi_waits_while_interrupts_are_off():
    """a1 holds an interrupt-disabling lock 0-100 µs; a0's shootdown arrives at 12 and is served at 100."""
    a = vm(
        "a",
        (user(10), Shootdown(), Ops(), FAR),
        (*hold("l", 100, irq_off=True), Ops(), FAR),
        pin=(0, 1),
        locks=lock(),
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
    """a1 spins for the lock with interrupts off from 5 µs, gets it at 50 and releases it at 60: only then it acknowledges."""
    a = vm(
        "a",
        (*hold("l", 50), FAR),
        (user(5), *hold("l", 10, irq_off=True), FAR),
        (user(10), Kick("prev"), FAR),
        pin=(0, 1, 2),
        locks=lock(),
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


def test_an_interrupt_delays_what_it_interrupts():
    """a1's 20 µs of compute are interrupted at 12 for 5 µs: its operation ends at 25."""
    a = vm("a", (user(10), Kick("next"), FAR), (user(20), Ops(), FAR), pin=(0, 1))
    assert story(a, costs=IPI_COSTS).until(50).tell(only={"irq", "ops"}) == ["12us a1 irq", "25us a1 ops"]


# --- locks ------------------------------------------------------------------------------------------------------------


def handed_over(kind):
    """a1 (p1, with b0) queues at 100 µs and is preempted 2-4 ms; a2 (p2) queues at 200; a0 (p0) releases at 2500."""
    a = vm(
        "a",
        (*hold("l", 2_500), FAR),
        (user(100), *hold("l", 10), FAR),
        (user(200), *hold("l", 10), FAR),
        pin=(0, 1, 2),
        locks=lock(kind),
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
    """It spins for pv_spin_ns, 700 µs; the unlocker gives it the lock and wakes it. Kick and wake cost 2 and 6 µs: a0 goes on
    at 1002 µs, a1 runs its 10 µs from 1006 on."""
    a = vm("a", (*hold("l", 1_000), Ops(), FAR), (user(100), *hold("l", 10), FAR), pin=(0, 1), locks=lock("pvq"))
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
        "1000us a1 run p1",
        "1002us a0 ops",
        "1016us a1 unlock l",
    ]


def test_a_pvq_waiter_that_is_served_in_time_does_not_halt():
    a = vm("a", (*hold("l", 500), FAR), (user(100), *hold("l", 10), FAR), pin=(0, 1), locks=lock("pvq"))
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


# --- barriers and queues ----------------------------------------------------------------------------------------------


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


def test_a_queue_between_two_vcpus():
    """Capacity 1. a0 puts each 10 µs, a1 takes 25 µs for each. At 10 the first item is handed over, at 20 the second waits, at
    30 the third finds the queue full; a1 makes room at 35, a0 computes on and is stuck again at 45, until 60."""
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


# --- the host scheduler -----------------------------------------------------------------------------------------------


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
    """2 µs before the guest goes on: 100 µs of compute from 0 end at 102; b0's from 2000 at 2102. A wakeup costs 6 µs."""
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
    """a0 ran 10 µs while b0 waited, so its lag is negative and it stays queued on p0 (delayed dequeue). At 30 it would be owed
    time (b0 has 20 µs), which is forgiven: it is placed at b0's v and does not preempt. b0's slice ends at 2 ms."""
    assert woken().until(3_000).tell(leave={"irq"}) == [
        "0us a0 run p0",
        "10us a0 block p0",
        "10us b0 run p0",
        "30us a0 wake p0",
        "2000us b0 preempt p0",
        "2000us a0 run p0",
    ]


def test_a_wakeup_prefers_its_last_pcpu_when_that_is_idle():
    a = Vm("a", 1, work((user(10), Block(us(20)), FAR), name="work-a"), cpus=(0, 1, 2))
    assert story(a, pcpus=3).until(100).tell(only={"wake"}) == ["30us a0 wake p0"]


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


def test_a_host_task_takes_its_share():
    """noise runs 100 µs, sleeps 900. It first runs when a0's slice ends at 2 ms, and leaves at 2.1 with a lag of 0.95 ms. When it
    wakes at 3 ms, a0 is at 2.9 ms: noise is placed at 2.9 - 0.95 * 2 = 1.0 ms, V = 1.95, so a0 is ineligible and preempted."""
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


# --- deadlocks --------------------------------------------------------------------------------------------------------


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
