"""Trace stories of paravirtual guests: lock kicks, TLB flushes, IPIs by hypercall, yields after an IPI.

Computed by hand; tests/stories.py has the conventions.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from stories import FAR, SPINS, Story, hog, hold, one_lock, story, us, user, vm

from kvmgym.params import Block, Costs, Kick, Ops, Ple, Shootdown

NO_PLE = Ple(enabled=False)
FOREVER = Block(us(10**6))

# --- the kick of a halted lock waiter -------------------------------------------------------------------------------


def kicked(*, costs: Costs | None = None, **guest) -> Story:
    """p0: a0 alone, with the lock for 3 ms. p1: b0 0-2 ms; then a1, which waits from 2.1 to 2.8 ms and halts with a lag
    of 0.6 ms (v = 0.8, V = 1.4); then b0, at 2.2 when a0 unlocks. a1 is placed at 2.2 - 0.6 * 2 = 1.0, so it is
    eligible, but wakeups do not preempt here. b0's slice lasts until v = 5, seen at 6 ms."""
    a = vm("a", (*hold("l", 3_000), Ops(), FAR), (user(100), *hold("l", 10), FAR), pin=(0, 1),
           locks=one_lock("pvq"), **guest)  # fmt: skip
    host = {"delay_dequeue": False, "wakeup_preemption": False, "ple": NO_PLE, "costs": costs or Costs.zero()}
    return story(hog("b", 1), a, policy="none", **host)


def test_the_kick_of_a_halted_waiter_is_a_directed_yield():
    """It needs no policy, and leaves last_boosted_vcpu alone (an inference: the hypercall does not scan)."""
    told = kicked().until(6_500)
    assert told.tell(start_us=2_001) == [
        "2100us a1 wait l",
        "2800us a1 block p1",
        "2800us b0 run p1",
        "3000us a0 unlock l",
        "3000us a1 lock l",
        "3000us a1 wake p1",
        "3000us a0 yield_to a1",
        "3000us a0 ops",
        "3000us b0 preempt p1",
        "3000us a1 run p1",
        "3010us a1 unlock l",
        "6000us a1 preempt p1",
        "6000us b0 run p1",
    ]
    assert told.counts("a", "named_attempted", "named_ok", "yields_attempted", "last_boosted_vcpu") == [1, 1, 0, 0]
    assert int(told.world.host[0]["decisions"]) == 0


def test_a_plain_kick_waits_for_the_slice():
    told = kicked(pv_kick_yields=False).until(6_500)
    assert told.tell(start_us=2_801) == [
        "3000us a0 unlock l",
        "3000us a1 lock l",
        "3000us a1 wake p1",
        "3000us a0 ops",
        "6000us b0 preempt p1",
        "6000us a1 run p1",
        "6010us a1 unlock l",
    ]
    assert told.counts("a", "named_attempted", "named_ok") == [0, 0]


def test_what_a_kick_that_yields_costs():
    """The unlocker goes on after the IPI and the yield, 2 + 3 µs; the target's pCPU loses 1.5 µs before a1's 10."""
    costs = replace(Costs.zero(), ipi_ns=2_000, yield_ns=3_000, yield_target_ns=1_500)
    told = kicked(costs=costs).until(3_100)
    assert told.tell(start_us=3_000, only={"ops", "unlock"}) == [
        "3000us a0 unlock l",
        "3005us a0 ops",
        "3011.5us a1 unlock l",
    ]


def test_a_waiter_that_wakes_on_an_idle_pcpu_is_tried_in_vain():
    """Both pCPUs have one task, so the yield is refused; a1 runs without it. It halted at 100 + 700 µs."""
    a = vm("a", (*hold("l", 1_000), FAR), (user(100), *hold("l", 10), FAR), pin=(0, 1), locks=one_lock("pvq"))
    told = story(a, ple=NO_PLE).until(1_100)
    assert told.tell(start_us=1_000, only={"yield_to", "run"}) == ["1000us a0 yield_to a1 = -ESRCH", "1000us a1 run p1"]
    assert told.counts("a", "named_attempted", "named_ok") == [1, 0]


def test_a_waiter_that_has_not_halted_is_not_kicked():
    """a1 is preempted at 2 ms while it still spins; the unlocker at 2.5 ms does nothing about it."""
    a = vm("a", (*hold("l", 2_500), FAR), (user(1_900), *hold("l", 10), FAR), pin=(0, 1), locks=one_lock("pvq"))
    told = story(a, hog("b", 1), ple=NO_PLE).until(4_100)
    assert told.tell(start_us=1_901) == [
        "2000us a1 preempt p1",
        "2000us b0 run p1",
        "2500us a0 unlock l",
        "2500us a1 lock l",
        "4000us b0 preempt p1",
        "4000us a1 run p1",
        "4010us a1 unlock l",
    ]
    assert told.counts("a", "named_attempted") == [0]


# --- PV TLB flush ---------------------------------------------------------------------------------------------------

IPI_COSTS = replace(
    Costs.zero(), ipi_ns=2_000, broadcast_physical_ns=2_000, broadcast_ns=1_000, irq_handler_ns=5_000, pv_flush_ns=3_000
)


def flushing(policy: str = "none", **guest) -> Story:
    """p2: b0 0-2, a2 2-4 in user mode, 0.5 ms short of its operation, b0 4-7 ms. a1 runs on p1; a3 sleeps until 9.5 ms.
    a0 begins a shootdown at 4.1 ms."""
    a = vm(
        "a",
        (user(4_100), Shootdown(), Ops(), FAR),
        (FAR,),
        (user(2_500), Ops(), FAR),
        (Block(us(9_500)), user(10), Ops(), FAR),
        pin=(0, 1, 2, 3),
        **guest,
    )
    return story(hog("b", 2), a, pcpus=4, policy=policy, costs=IPI_COSTS)


def test_pv_tlb_flush_sends_to_running_vcpus_only():
    """One target of three: 2 µs. a2 and a3 flush for 3 µs when they are entered, at 7 and 9.5 ms: a2's
    operation ends at 7503 and a3's, after the timer's handler, at 9518."""
    told = flushing(pv_tlb_flush=True).until(9_900)
    assert told.tell(start_us=4_001, leave={*SPINS, "preempt"}) == [
        "4102us a0 send a1",
        "4102us a1 irq",
        "4107us a1 ack a0",
        "4107us a0 ops",
        "7000us a2 run p2",
        "7503us a2 ops",
        "9500us a3 wake p3",
        "9500us a3 run p3",
        "9500us a3 irq",
        "9518us a3 ops",
    ]
    assert told.counts("a", "flags_left") == [2]


def test_without_pv_tlb_flush_all_are_sent_to_and_awaited():
    """One after the other, 2 µs each; a3 is woken by its IPI, a2 stalls the shootdown until 7 ms."""
    told = flushing().until(8_000)
    assert told.tell(start_us=4_001, only={"send", "wake", "ack", "ops"}) == [
        "4102us a0 send a1",
        "4104us a0 send a2",
        "4106us a0 send a3",
        "4106us a3 wake p3",
        "4107us a1 ack a0",
        "4111us a3 ack a0",
        "7005us a2 ack a0",
        "7005us a0 ops",
        "7505us a2 ops",
    ]
    assert told.counts("a", "flags_left") == [0]


def test_a_flush_with_nobody_running_waits_for_nobody():
    """a1 sleeps: a0 goes on at once."""
    a = vm("a", (user(100), Shootdown(), Ops(), FAR), (FOREVER,), pin=(0, 1), pv_tlb_flush=True)
    told = story(a, costs=IPI_COSTS).until(200)
    assert told.tell(start_us=1) == ["100us a0 ops"]
    assert told.counts("a", "flags_left") == [1]


def test_two_flags_are_one_flush():
    """Two shootdowns at 4.1 ms while a1 waits on p1. It flushes for 3 µs at 7 ms, so its first operation ends at 7503;
    of the next 4 ms 2497 µs pass until 10 ms and the rest from 13 ms on, without another flush."""
    a = vm(
        "a",
        (user(4_100), Shootdown(), Shootdown(), FAR),
        (user(2_500), Ops(), user(4_000), Ops(), FAR),
        pin=(0, 1),
        pv_tlb_flush=True,
    )
    told = story(hog("b", 1), a, costs=IPI_COSTS).until(15_000)
    assert told.tell(only={"ops"}) == ["7503us a1 ops", "14503us a1 ops"]
    assert told.counts("a", "flags_left") == [2]


# --- IPIs by hypercall ----------------------------------------------------------------------------------------------


def receivers(told: Story) -> tuple[int, int]:
    return int(told.vcpu("a0")["ipi_receiver"]), int(told.vcpu("a0")["ipi_pending"])


def several(mode: str, targets: int) -> Story:
    """p1: b0 0-2, a1 2-4 in user mode, b0 from 4 ms; the further targets run. a0 begins a shootdown at 4.1 ms."""
    a = vm("a", (user(4_100), Shootdown(), Ops(), FAR), *[(FAR,)] * targets, pin=tuple(range(targets + 1)),
           ipi_mode=mode)  # fmt: skip
    return story(hog("b", 1), a, pcpus=targets + 1, policy="strict", costs=IPI_COSTS)


def test_one_hypercall_sends_to_the_whole_mask_untracked():
    """3 targets at 1 µs. The exit 2 µs later finds no receiver."""
    told = several("pv", 3).until(4_106)
    assert told.tell(start_us=4_001, leave={"irq"}) == [
        "4103us a0 send a1",
        "4103us a0 send a2",
        "4103us a0 send a3",
        "4105us a0 PLE",
        "4105us a0 no target",
    ]
    assert receivers(told) == (-1, 0)


def test_unicasts_track_the_last_of_the_mask():
    """3 targets at 2 µs; the last one runs, so it is no target of a yield either."""
    told = several("x2apic_physical", 3).until(4_107)
    assert told.tell(only={"send"}) == [f"{4_100 + 2 * n}us a0 send a{n}" for n in (1, 2, 3)]
    assert receivers(told) == (3, 1)


@pytest.mark.parametrize("mode", ["pv", "x2apic_cluster", "x2apic_physical"])
def test_a_single_target_is_tracked_in_every_mode(mode):
    """2 µs, and the strict round takes it at the exit 2 µs later: tier 1."""
    told = several(mode, 1).until(4_103)
    assert receivers(told) == (1, 1)
    told.until(4_200)
    assert told.tell(start_us=4_001, only={"send", "PLE", "yield_to", "ack"}) == [
        "4102us a0 send a1",
        "4104us a0 PLE",
        "4104us a0 yield_to a1",
        "4108us a0 PLE",
        "4109us a1 ack a0",
    ]


def test_a_kick_is_tracked_under_pv_ipis_too():
    a = vm("a", (user(2_098), Kick("next"), FAR), (FAR,), pin=(0, 1), ipi_mode="pv")
    told = story(a, hog("b", 1), costs=IPI_COSTS).until(2_200)  # a1 is preempted from 2 ms on
    assert told.tell(only={"send"}) == ["2100us a0 send a1"]
    assert receivers(told) == (1, 1)


# --- PV sched yield -------------------------------------------------------------------------------------------------


def yielding(**guest) -> Story:
    """p1: a1 runs. p2, p3: b0 and c0 0-2, a2 and a3 2-4 in user mode, b0 and c0 from 4 ms. a0 begins a shootdown at
    4.1 ms. Mainline would not yield to what was preempted in user mode."""
    a = vm("a", (user(4_100), Shootdown(), Ops(), FAR), (FAR,), (FAR,), (FAR,), pin=(0, 1, 2, 3), **guest)
    return story(hog("b", 2), hog("c", 3), a, pcpus=4, costs=IPI_COSTS)


TOLD = {"send", "yield_to", "ack", "ops"}


def test_pv_sched_yield_runs_the_first_preempted_target():
    """After the last of three sends, before any spin. a2's handler ends at 4111; a3 waits for 7 ms."""
    told = yielding(pv_sched_yield=True).until(7_100)
    assert told.tell(start_us=4_001, only=TOLD) == [
        "4102us a0 send a1",
        "4104us a0 send a2",
        "4106us a0 send a3",
        "4106us a0 yield_to a2",
        "4107us a1 ack a0",
        "4111us a2 ack a0",
        "7005us a3 ack a0",
        "7005us a0 ops",
    ]
    assert told.counts("a", "named_attempted", "named_ok", "yields_attempted", "last_boosted_vcpu") == [1, 1, 0, 0]


def test_without_pv_sched_yield_both_wait():
    told = yielding().until(7_100)
    assert told.tell(start_us=4_106, only=TOLD) == [
        "4106us a0 send a3",
        "4107us a1 ack a0",
        "7005us a2 ack a0",
        "7005us a3 ack a0",
        "7005us a0 ops",
    ]
    assert told.counts("a", "named_attempted") == [0]


def test_pv_sched_yield_passes_over_a_woken_target():
    """a1 sleeps while d0 has p1. Its IPI at 4102 wakes it, but nobody preempts here: it is ready, not preempted. So a2
    is the one (p2: b0 0-2, a2 2-4, b0 from 4 ms)."""
    a = vm("a", (user(4_100), Shootdown(), Ops(), FAR), (FOREVER,), (FAR,), pin=(0, 1, 2), pv_sched_yield=True)
    vms = (hog("b", 2), a, hog("d", 1))
    told = story(*vms, pcpus=3, costs=IPI_COSTS, wakeup_preemption=False, delay_dequeue=False).until(4_105)
    assert told.tell(start_us=4_001, only={"send", "wake", "yield_to"}) == [
        "4102us a0 send a1",
        "4102us a1 wake p1",
        "4104us a0 send a2",
        "4104us a0 yield_to a2",
    ]
    assert told.flags("a1") == {"ready"}


def test_pv_sched_yield_comes_after_one_hypercall_as_well():
    """Three targets at 1 µs."""
    told = yielding(pv_sched_yield=True, ipi_mode="pv").until(4_200).tell(start_us=4_001, only={"yield_to", "ack"})
    assert told == ["4103us a0 yield_to a2", "4108us a1 ack a0", "4108us a2 ack a0"]


def test_pv_sched_yield_is_for_several_targets():
    """A single target is a unicast without it: a1 waits for 7 ms."""
    a = vm("a", (user(4_100), Shootdown(), Ops(), FAR), (FAR,), pin=(0, 1), pv_sched_yield=True)
    told = story(hog("b", 1), a, costs=IPI_COSTS).until(7_100)
    assert told.tell(start_us=4_001, only=TOLD) == ["4102us a0 send a1", "7005us a1 ack a0", "7005us a0 ops"]


def test_pv_sched_yield_finds_nobody_when_all_run():
    a = vm("a", (user(100), Shootdown(), Ops(), FAR), (FAR,), (FAR,), pin=(0, 1, 2), pv_sched_yield=True)
    told = story(a, pcpus=3, costs=IPI_COSTS).until(200)
    assert told.tell(start_us=1, only=TOLD) == [
        "102us a0 send a1",
        "104us a0 send a2",
        "107us a1 ack a0",
        "109us a2 ack a0",
        "109us a0 ops",
    ]
    assert told.counts("a", "named_attempted") == [0]


def test_a_reschedule_ipi_is_followed_by_no_yield():
    a = vm("a", (user(2_098), Kick("next"), FAR), (FAR,), (FAR,), pin=(0, 1, 2), pv_sched_yield=True)
    told = story(a, hog("b", 1), pcpus=3, costs=IPI_COSTS).until(2_200)
    assert told.tell(only={"send", "yield_to"}) == ["2100us a0 send a1"]
