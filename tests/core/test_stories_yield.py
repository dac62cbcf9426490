"""Trace stories of pause-loop exits and directed yields, computed by hand; tests/stories.py has the conventions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from stories import FAR, SPINS, hog, hold, kernel, one_lock, story, us, user, vm

from kvmgym.params import Barrier, BarrierSpec, Block, Costs, LockSpec, Ops, Ple, Shootdown

# --- pause-loop exits -----------------------------------------------------------------------------------------------


def test_the_window_doubles_while_the_spinner_spins():
    """Exits after 2, +4, +8, +16, +32 µs; the next would come at 126. The holder runs, so there is no target."""
    a = vm("a", (*hold("l", 100), Ops(), FAR), (*hold("l", 10), Ops(), FAR), pin=(0, 1), locks=one_lock())
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
    """a1 spins 0-2 ms beside b0: exits at 2(2^k - 1) µs up to k = 9, 1022. b0 runs 2-4 ms; then the window is 2 µs
    again."""
    a = vm("a", hold("l", 10_000), hold("l", 10), pin=(0, 1), locks=one_lock())
    told = story(a, hog("b", 1)).until(4_020).tell(only={"PLE"})
    assert told == [f"{2 * (2**k - 1)}us a1 PLE" for k in range(1, 10)] + [
        f"{t}us a1 PLE" for t in (4_002, 4_006, 4_014)
    ]


def test_the_window_is_kept_from_one_lock_to_the_next():
    """a0 holds 5 µs at a time: the first wait has one exit (2 µs) and leaves a window of 4, which the second wait
    does not fill: a1 waits 0-5, computes to 6, waits from 6 to 9 behind a0's second hold of 5-9... so no exit
    before 10."""
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
    """Intel exits in ring 0 only. a0 spins at the barrier for 40 µs, 20 windows long, after a stretch in ring 0."""
    barrier = (BarrierSpec("x", 100_000),)
    a = vm("a", (kernel(10), Barrier("x"), FAR), (user(50), Barrier("x"), FAR), pin=(0, 1), barriers=barrier)
    assert story(a).until(200).tell(only=SPINS) == []


def test_an_exit_costs_time():
    """1 µs and 0.1 µs for the other vCPU: 2, then 1.1 of host work and 4 of spinning, 1.1 and 8."""
    a = vm("a", hold("l", 100), hold("l", 10), pin=(0, 1), locks=one_lock())
    costs = replace(Costs.zero(), ple_exit_ns=1_000, scan_ns=100)
    assert story(a, costs=costs).until(20).tell(only={"PLE"}) == ["2us a1 PLE", "7.1us a1 PLE", "16.2us a1 PLE"]


def test_a_waiter_within_an_exit_goes_on_after_it():
    """a1's exit at 2 µs takes until 12; a0 releases the fifo lock at 5. a1 holds it from then on, for 10 µs from 12."""
    a = vm("a", (*hold("l", 5), FAR), (*hold("l", 10), FAR), pin=(0, 1), locks=one_lock())
    told = story(a, costs=replace(Costs.zero(), ple_exit_ns=10_000)).until(50).tell(only={"PLE", "lock", "unlock"})
    assert told == ["0us a0 lock l", "2us a1 PLE", "5us a0 unlock l", "5us a1 lock l", "22us a1 unlock l"]


@pytest.mark.parametrize(
    "grow, spin_us, exits",
    [(2, 5, 1), (2, 50, 4), (2, 500, 8), (2, 3_000, 10), (1, 5, 2), (1, 50, 19), (1, 500, 189), (1, 3_000, 1_137)],
)
def test_number_of_exits_of_an_undisturbed_spin(grow, spin_us, exits):
    """Window 1.638 µs, exit 1 µs. Doubling: exit k at 1.638 (2^k - 1) + k - 1. Constant: at 1.638 k + k - 1."""
    a = vm("a", (*hold("l", spin_us), FAR), (*hold("l", 1), FAR), pin=(0, 1), locks=one_lock())
    host = {"costs": replace(Costs.zero(), ple_exit_ns=1_000), "ple": Ple(window_ns=1_638, grow=grow)}
    ended = story(a, **host).until(spin_us + 10)
    assert int(ended.vcpu("a1")["ple_exits"]) == exits


# --- directed yields ------------------------------------------------------------------------------------------------


def holder_preempted(policy, first="b", **host):
    """p0: b0 and a0, which takes the lock when it first runs and needs 2.1 ms to release it. p1: a1 alone, which
    comes for the lock 100 µs after a0 was preempted. `first` is the VM that runs first on p0."""
    come = {"b": 4_100, "a": 2_100}[first]
    a = vm("a", (*hold("l", 2_100), FAR), (user(come), *hold("l", 10), FAR), pin=(0, 1), locks=one_lock())
    vms = (hog("b", 0), a) if first == "b" else (a, hog("b", 0))
    return story(*vms, policy=policy, **host)


def test_a_yield_lets_the_preempted_holder_release_the_lock():
    """b0 0-2, a0 2-4, b0 from 4 ms. At 4102 µs b0 has v = 2.102 ms and a0 2, so V = 2.051 and the hint for a0
    counts."""
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
    """a0 0-2, b0 2-4 ms. While b0 runs, a0 (v = 2) is past V, so every yield succeeds and changes nothing. a0 goes
    on at 4 ms."""
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
    """The yielder goes on after the exit and the yield, 3 µs; the target's pCPU loses 1.5 µs before a0's last 100
    µs."""
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
        locks=one_lock(),
    )
    return story(hog("b", 0), a, hog("c", 1), pcpus=3, policy=policy)


FLAGS = ("in_spin_loop", "dy_eligible", "preempted", "ready", "preempted_in_kernel", "blocking")


def flags(told, name):
    """The names of the flags that are set."""
    return {flag for flag in FLAGS if told.vcpu(name)[flag]}


def test_a_yielder_that_stays_on_its_pcpu_is_out_of_its_spin_loop():
    """a1 is alone on p1, so it is picked again at once."""
    told = holder_preempted("legacy").until(4_103)
    assert told.tell()[-1] == "4102us a0 run p0"
    assert flags(told, "a1") == set()


def woken_while_a1_spins(policy, **costs):
    """a1 spins on p1 with exits at 2, 6, 14, 30 µs. a2's timer fires at 29 µs; its idle p2 takes 2 µs to wake up."""
    a = vm(
        "a",
        (*hold("l", 50), FAR),
        (*hold("l", 10), FAR),
        (user(5), Block(us(24)), FAR),
        pin=(0, 1, 2),
        locks=one_lock(),
    )
    return story(a, pcpus=3, policy=policy, costs=replace(Costs.zero(), wake_ns=2_000, **costs))


def test_the_flags_of_a_halted_and_of_a_woken_vcpu():
    """A halted one is blocking and not ready; one that is really woken is ready, not preempted, until it runs."""
    told = woken_while_a1_spins("none")
    assert [flags(told.until(t), "a2") for t in (4, 6, 28, 29, 30, 31)] == [
        set(),
        {"blocking"},
        {"blocking"},
        {"ready"},
        {"ready"},
        set(),
    ]


@pytest.mark.parametrize("policy, attempt", [("legacy", ["30us a1 yield_to a2 = -ESRCH"]), ("relaxed", [])])
def test_mainline_tries_a_woken_vcpu_and_the_series_does_not(policy, attempt):
    """p1 and p2 have one task each, so the attempt is refused; the exit finds nobody else."""
    told = woken_while_a1_spins(policy).until(40).tell(start_us=29)
    assert told == ["29us a2 wake p2", "30us a1 PLE", *attempt, "30us a1 no target", "31us a2 run p2", "31us a2 irq"]


def test_a_descheduled_yielder_stays_in_its_spin_loop_until_it_runs():
    """p1: a1 0-2, c0 2-4, a1 from 4 ms. When it yields at 4102 it is past V (2.102 > 2.051), so c0 follows. It
    spun in ring 0, so it counts as preempted in kernel, like every vCPU that a pause-loop exit takes off its pCPU.
    c0's slice ends at 8 ms."""
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
    """a2's first exit at 4112 starts after a0, who was boosted last: a1 is preempted in kernel, but in its spin
    loop and not eligible; the check makes it so. The second exit at 4116 takes it, and it is ineligible once more."""
    told = yielder_descheduled(policy, a2_comes_us=4_110).until(4_113)
    assert told.tell(start_us=4_111, only={"a2"}) == ["4112us a2 PLE", "4112us a2 no target"]
    assert "dy_eligible" in flags(told, "a1")
    told.until(4_117)
    assert told.tell(start_us=4_116, only={"a2"}) == ["4116us a2 PLE", "4116us a2 yield_to a1"]
    assert "dy_eligible" not in flags(told, "a1")
    assert int(told.world.vm[1]["last_boosted_vcpu"]) == 1


def test_preempted_within_an_exit_that_found_no_target():
    """Window 2 µs, constant; an exit takes 10 µs: exits at 12 k - 10 µs, the 167th from 1994 to 2004. The tick at
    2 ms takes the spinner off its pCPU within the handler, so it stays in its spin loop."""
    a = vm("a", hold("l", 10_000), hold("l", 10), pin=(0, 1), locks=one_lock())
    host = {"costs": replace(Costs.zero(), ple_exit_ns=10_000), "ple": Ple(window_ns=2_000, grow=1)}
    told = story(a, hog("b", 1), **host).until(2_001)
    assert told.tell(only={"PLE", "preempt"})[-2:] == ["1994us a1 PLE", "2000us a1 preempt p1"]
    assert flags(told, "a1") == {"in_spin_loop", "preempted", "ready", "preempted_in_kernel"}
    assert flags(told.until(4_001), "a1") == {"preempted_in_kernel"}


def test_preempted_between_two_exits():
    """The same with exits of 1 µs, at 3 k - 1 µs: from 1997 to 1998, and then at 2000; the tick comes first."""
    a = vm("a", hold("l", 10_000), hold("l", 10), pin=(0, 1), locks=one_lock())
    host = {"costs": replace(Costs.zero(), ple_exit_ns=1_000), "ple": Ple(window_ns=2_000, grow=1)}
    told = story(a, hog("b", 1), **host).until(2_001)
    assert told.tell(only={"PLE", "preempt"})[-2:] == ["1997us a1 PLE", "2000us a1 preempt p1"]
    assert flags(told, "a1") == {"preempted", "ready", "preempted_in_kernel"}


def test_preempted_within_an_interrupt_handler_counts_as_kernel():
    """a0 computes in user mode; a1's IPI reaches it at 1998 µs, the tick preempts it at 2000, 2 of 5 µs into the
    handler. It does the rest when it runs again at 4 ms."""
    a = vm("a", (FAR,), (user(1_998), Shootdown(), FAR), pin=(0, 1))
    costs = replace(Costs.zero(), irq_handler_ns=5_000)
    told = story(a, hog("b", 0), costs=costs, policy="none").until(2_001)
    assert told.tell(start_us=1_998)[:3] == ["1998us a1 send a0", "1998us a0 irq", "2000us a0 preempt p0"]
    assert flags(told, "a0") == {"preempted", "ready", "preempted_in_kernel"}
    assert told.until(4_100).tell(only={"ack"}) == ["4003us a0 ack a1"]


def test_preempted_in_user_mode_is_not_latched_as_kernel():
    told = story(hog("a", 0), hog("b", 0), pcpus=1).until(3_000)
    assert flags(told, "a0") == {"preempted", "ready"}
