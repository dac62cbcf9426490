"""Trace stories of hardware's switches: spin exits of each machine, SEV-ES, interrupt virtualisation, halt polling.

Computed by hand; tests/stories.py has the conventions.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from stories import FAR, SPINS, Story, hog, hold, one_lock, story, us, user, vm

from kvmgym.core import layout
from kvmgym.params import (
    PLE_PRESETS,
    Barrier,
    BarrierSpec,
    Block,
    Costs,
    Get,
    HaltPoll,
    Kick,
    Ops,
    Ple,
    Put,
    QueueSpec,
    Shootdown,
)

FOREVER = Block(us(10**6))
YIELDS = {"PLE", "no target", "yield_to"}

# --- which spins exit, and when -------------------------------------------------------------------------------------


def spin_in_ring_0(n: float, **host) -> Story:
    """a1 spins for the lock that a0, which runs, holds for n µs."""
    return story(vm("a", (*hold("l", n), FAR), (*hold("l", 1), FAR), pin=(0, 1), locks=one_lock()), **host)


def spin_in_user_mode(n: float, **host) -> Story:
    """a1 spins at the barrier for n µs, until a0 comes."""
    barrier = (BarrierSpec("x", 10**9),)
    return story(vm("a", (user(n), Barrier("x"), FAR), (Barrier("x"), FAR), pin=(0, 1), barriers=barrier), **host)


def exits_at(times: list[float]) -> list[str]:
    return [f"{t:.10g}us a1 PLE" for t in times]


AMD_EXITS = [62.4, 187.2, 436.8, 936, 1_934.4, 3_297.528, 4_660.656]


@pytest.mark.parametrize(
    "machine, spin_us, exits",
    [
        ("intel", 30, [1.638, 4.914, 11.466, 24.57]),  # 1.638 (2^k - 1)
        ("amd", 5_000, AMD_EXITS),  # 62.4 (2^k - 1) for k = 1 .. 5; then the window is 65535 PAUSEs, 1363.128 µs
        ("arm64", 5.5, [1, 2, 3, 4, 5]),  # no growth
        ("s390", 35, [10, 20, 30]),
    ],
)
def test_the_exits_of_each_machine(machine, spin_us, exits):
    """On s390 those of a spin that has no holder to name."""
    ple = replace(PLE_PRESETS[machine], names_holder=False)
    assert spin_in_ring_0(spin_us, ple=ple).until(spin_us + 10).tell(only={"PLE"}) == exits_at(exits)


@pytest.mark.parametrize(
    "machine, exits",
    [("intel", []), ("amd", [62.4, 187.2]), ("arm64", list(range(1, 200))), ("s390", [])],
)
def test_whether_user_mode_exits(machine, exits):
    """199.5 µs at a barrier. (s390: an inference; its guests give up in the kernel's lock code only.)"""
    told = spin_in_user_mode(199.5, ple=PLE_PRESETS[machine]).until(300)
    assert told.tell(only={"PLE"}) == exits_at(exits)


def test_user_exits_is_the_switch():
    """Intel's window with AMD's exits."""
    told = spin_in_user_mode(30, ple=Ple(window_ns=2_000, user_exits=True)).until(100)
    assert told.tell(only=SPINS) == [f"{t}us a1 {kind}" for t in (2, 6, 14) for kind in ("PLE", "no target")]


# --- what an exit asks for: yield_to_kernel_mode --------------------------------------------------------------------

ASKED = Ple(window_ns=2_000, user_exits=True)


@pytest.mark.parametrize(
    "mode, sev_es, spin, asked",
    [
        ("always", False, spin_in_ring_0, 1),
        ("always", False, spin_in_user_mode, 1),
        ("ring0", False, spin_in_ring_0, 1),
        ("ring0", False, spin_in_user_mode, 0),
        ("never", False, spin_in_ring_0, 0),
        ("never", False, spin_in_user_mode, 0),
        ("ring0", True, spin_in_ring_0, 0),
        ("ring0", True, spin_in_user_mode, 0),
    ],
)
def test_what_an_exit_asks_for(mode, sev_es, spin, asked):
    """What a policy finds in ask.yield_to_kernel_mode: of an SEV-ES guest nobody sees the ring."""
    told = spin(30, ple=replace(ASKED, kernel_mode=mode))
    told.world.vm[0]["sev_es"] = sev_es
    told.world.ask[0]["yield_to_kernel_mode"] = 1 - asked
    assert told.until(3).tell(only={"PLE"}) == ["2us a1 PLE"]
    assert int(told.world.ask[0]["yield_to_kernel_mode"]) == asked


def at_a_barrier(ple: Ple) -> Story:
    """p0: b0 0-2, a0 2-4 in user mode, 0.1 ms short of the barrier, b0 from 4 ms. a1 comes to the barrier at 4.1."""
    a = vm(
        "a",
        (user(2_100), Barrier("x"), Ops(), FAR),
        (user(4_100), Barrier("x"), Ops(), FAR),
        pin=(0, 1),
        barriers=(BarrierSpec("x", 10**9),),
    )
    return story(hog("b", 0), a, ple=ple)


def test_a_user_mode_spinner_may_boost_what_was_preempted_in_user_mode():
    """AMD: the exit after 62.4 µs asks for any mode. b0 is at 2.1624 and a0 at 2, so the hint counts."""
    assert at_a_barrier(PLE_PRESETS["amd"]).until(4_300).tell(start_us=4_001) == [
        "4162.4us a1 PLE",
        "4162.4us a1 yield_to a0",
        "4162.4us b0 preempt p0",
        "4162.4us a0 run p0",
        "4262.4us a0 ops",
        "4262.4us a1 ops",
    ]


def test_it_may_not_when_the_exit_asks_for_kernel_mode():
    """The same exits, at 62.4 (2^k - 1), the sixth 1996.8 after the fifth; a0 goes on when b0's slice ends at 7 ms."""
    told = at_a_barrier(Ple(window_ns=62_400, user_exits=True)).until(7_200).tell(start_us=4_001, only={*YIELDS, "ops"})
    exits = [f"{t:g}us a1 {kind}" for t in (4162.4, 4287.2, 4536.8, 5036, 6034.4) for kind in ("PLE", "no target")]
    assert told == [*exits, "7100us a0 ops", "7100us a1 ops"]


def test_nobody_may_on_intel():
    told = at_a_barrier(PLE_PRESETS["intel"]).until(7_200).tell(start_us=4_001, only={*YIELDS, "ops"})
    assert told == ["7100us a0 ops", "7100us a1 ops"]


def in_ring_0(ple: Ple, **guest) -> Story:
    """p0: b0 0-2, a0 2-4 in user mode, b0 from 4 ms. a1 comes at 4.1 ms for a lock that a2, which runs, holds."""
    a = vm(
        "a",
        (FAR,),
        (user(4_100), *hold("l", 10), FAR),
        (*hold("l", 6_000), FAR),
        pin=(0, 1, 2),
        locks=one_lock(),
        **guest,
    )
    return story(hog("b", 0), a, pcpus=3, ple=ple)


AMD = PLE_PRESETS["amd"]


@pytest.mark.parametrize(
    "ple, sev_es, outcome",
    [
        (AMD, False, "no target"),
        (AMD, True, "yield_to a0"),
        (replace(AMD, kernel_mode="never"), False, "yield_to a0"),
        (replace(AMD, kernel_mode="always"), False, "no target"),
        (replace(AMD, kernel_mode="always"), True, "yield_to a0"),  # latched as kernel
    ],
)
def test_a_spinner_in_ring_0(ple, sev_es, outcome):
    told = in_ring_0(ple, sev_es=sev_es).until(4_200)
    assert told.tell(start_us=4_001, only=YIELDS) == ["4162.4us a1 PLE", f"4162.4us a1 {outcome}"]


@pytest.mark.parametrize("sev_es", [False, True])
def test_the_ring_of_an_sev_es_guest_is_latched_as_kernel(sev_es):
    told = story(vm("a", (FAR,), pin=(0,), sev_es=sev_es), hog("b", 0), pcpus=1).until(3_000)
    assert told.flags("a0") == {"preempted", "ready", *(["preempted_in_kernel"] if sev_es else [])}


# --- s390: the spinner names the lock's holder ----------------------------------------------------------------------


def named(policy: str, ple: Ple) -> Story:
    """p0: b0 0-2, a1 2-4 with the lock, b0 from 4 ms. p1: a0 alone, which comes for the lock at 4.1 ms."""
    a = vm("a", (user(4_100), *hold("l", 10), FAR), (*hold("l", 2_100), FAR), pin=(1, 0), locks=one_lock())
    return story(hog("b", 0), a, policy=policy, ple=ple)


@pytest.mark.parametrize("policy", ["none", "legacy"])
def test_a_spin_for_a_lock_yields_to_its_holder_whatever_the_policy(policy):
    """The exit after 10 µs; b0 is at 2.11, a1 at 2. Later exits find a1 running, so nothing is tried. It counts as a
    named yield and leaves last_boosted_vcpu alone (an inference: diag 0x9c does not come through the scan)."""
    told = named(policy, PLE_PRESETS["s390"]).until(4_300)
    assert told.tell(start_us=4_001, leave=SPINS) == [
        "4100us a0 wait l",
        "4110us a0 yield_to a1",
        "4110us b0 preempt p0",
        "4110us a1 run p0",
        "4210us a1 unlock l",
        "4210us a0 lock l",
        "4220us a0 unlock l",
    ]
    assert told.counts("a", "named_attempted", "named_ok", "yields_attempted", "last_boosted_vcpu") == [1, 1, 0, 0]
    assert int(told.world.host[0]["decisions"]) == 0


def test_without_names_the_policy_none_lets_it_spin():
    told = named("none", replace(PLE_PRESETS["s390"], names_holder=False)).until(7_200)
    assert told.tell(start_us=4_001, only={"yield_to", "unlock", "lock"}) == [
        "7100us a1 unlock l",
        "7100us a0 lock l",
        "7110us a0 unlock l",
    ]
    assert int(told.world.host[0]["decisions"]) > 0


def test_a_holder_that_runs_is_not_yielded_to():
    """Nor does such a spin exit (an inference: the guest looks whether the holder is preempted before it calls)."""
    told = spin_in_ring_0(35, ple=PLE_PRESETS["s390"]).until(100)
    assert told.tell(only=YIELDS) == []
    assert told.counts("a", "named_attempted") == [0]


@pytest.mark.parametrize("policy, outcome", [("none", "no target"), ("strict", "yield_to a1")])
def test_a_spin_for_acknowledgements_asks_the_policy(policy, outcome):
    """p1: b0 0-2, a1 2-4 with a lock, b0 from 4 ms; a0 sends to a1 at 4.1 ms. It does not wait for that lock."""
    a = vm("a", (user(4_100), Shootdown(), FAR), (*hold("l", 3_000), FAR), pin=(0, 1), locks=one_lock())
    told = story(hog("b", 1), a, policy=policy, ple=PLE_PRESETS["s390"]).until(4_115)
    assert told.tell(start_us=4_101, only=YIELDS) == ["4110us a0 PLE", f"4110us a0 {outcome}"]
    assert int(told.world.host[0]["decisions"]) == 1
    assert told.counts("a", "named_attempted") == [0]


# --- APICv: IPIs without exits --------------------------------------------------------------------------------------

APICV_COSTS = replace(Costs.zero(), ipi_ns=2_000, ipi_apicv_ns=1_400, irq_handler_ns=5_000)


@pytest.mark.parametrize("apicv, cost_us", [(False, 2), (True, 1.4)])
def test_what_an_ipi_costs(apicv, cost_us):
    """A Kick is sent when its cost is paid; the kick of a taker that waits for an item costs afterwards."""
    a = vm("a", (user(10), Kick("next"), Ops(), FAR), (FAR,), pin=(0, 1), apicv=apicv)
    told = story(a, costs=APICV_COSTS).until(100)
    sent = f"{10 + cost_us:g}us"
    assert told.tell(only={"send", "ops"}) == [f"{sent} a0 send a1", f"{sent} a0 ops"]
    programs = (user(10), Put("q"), Ops(), FAR), (Get("q"), FAR)
    a = vm("a", *programs, pin=(0, 1), queues=(QueueSpec("q", 1),), apicv=apicv)
    assert story(a, costs=APICV_COSTS).until(100).tell(only={"send", "ops"}) == ["10us a0 send a1", f"{sent} a0 ops"]


def stalled_receiver(policy: str, **guest) -> Story:
    """p1: b0 0-2, a1 2-4 in user mode, b0 from 4 ms. a0's shootdown begins at 4.1 ms."""
    a = vm("a", (user(4_100), Shootdown(), Ops(), FAR), (FAR,), pin=(0, 1), **guest)
    return story(hog("b", 1), a, policy=policy, costs=APICV_COSTS)


@pytest.mark.parametrize("policy", ["legacy", "strict"])
def test_a_pending_interrupt_lets_a_user_mode_vcpu_be_boosted(policy):
    """Sent at 4101.4; a0's exit is 2 µs later; b0 is at 2.1034 and a1 at 2. The handler takes 5 µs."""
    told = stalled_receiver(policy, apicv=True).until(4_102)
    assert told.flags("a1") == {"preempted", "ready", "pending_interrupt"}
    told.until(4_105)
    assert told.flags("a1") == set()
    assert told.until(4_200).tell(start_us=4_101) == [
        "4101.4us a0 send a1",
        "4103.4us a0 PLE",
        "4103.4us a0 yield_to a1",
        "4103.4us b0 preempt p1",
        "4103.4us a1 run p1",
        "4103.4us a1 irq",
        "4107.4us a0 PLE",
        "4107.4us a0 no target",
        "4108.4us a1 ack a0",
        "4108.4us a0 ops",
    ]


@pytest.mark.parametrize("apicv, tracked, pending", [(False, (1, 1), 0), (True, (-1, 0), 1)])
def test_virtualised_ipis_are_not_tracked(apicv, tracked, pending):
    told = stalled_receiver("none", apicv=apicv).until(4_103)
    assert (int(told.vcpu("a0")["ipi_receiver"]), int(told.vcpu("a0")["ipi_pending"])) == tracked
    assert int(told.vcpu("a1")["pending_interrupt"]) == pending
    assert int(told.until(7_001).vcpu("a1")["pending_interrupt"]) == 0  # runs again at 7 ms


def test_without_apicv_legacy_leaves_the_receiver_alone():
    """a1 goes on when b0's slice ends at 7 ms."""
    told = stalled_receiver("legacy").until(7_100).tell(start_us=4_101, only={"yield_to", "ack"})
    assert told == ["7005us a1 ack a0"]


@pytest.mark.parametrize("apicv, attempt", [(False, []), (True, ["30us a1 yield_to a2 = -ESRCH"])])
@pytest.mark.parametrize("sleeps_us, sent", [(10**6, ["29us a3 send a2"]), (24, [])])
def test_a_woken_vcpu_with_an_interrupt_passes_the_strict_round(apicv, attempt, sleeps_us, sent):
    """a1 spins on p1 with exits at 2, 6, 14, 30 µs. a3's kick or its own timer reaches a2 at 29; its idle p2 takes 2 µs
    to wake up. p1 and p2 have one task each, so the attempt is refused. (The timer: an inference, as its interrupt is
    posted too.)"""
    a = vm(
        "a",
        (*hold("l", 50), FAR),
        (*hold("l", 10), FAR),
        (user(5), Block(us(sleeps_us)), FAR),
        (user(27), *([Kick("prev")] if sent else []), FAR),
        pin=(0, 1, 2, 3),
        locks=one_lock(),
        apicv=apicv,
    )
    costs = replace(Costs.zero(), wake_ns=2_000, ipi_ns=2_000, ipi_apicv_ns=2_000)
    told = story(a, pcpus=4, policy="strict", costs=costs).until(30)
    assert told.flags("a2") == {"ready", *(["pending_interrupt"] if apicv else [])}
    told.until(40)
    assert told.tell(start_us=29, leave={"block"}) == [
        *sent,
        "29us a2 wake p2",
        "30us a1 PLE",
        *attempt,
        "30us a1 no target",
        "31us a2 run p2",
        "31us a2 irq",
    ]
    assert "pending_interrupt" not in told.flags("a2")


# --- halt polling ---------------------------------------------------------------------------------------------------

POLL = HaltPoll(max_ns=200_000)


def halts(*blocks_us: float) -> tuple:
    """10 µs of compute and a halt, for each."""
    return tuple(phase for n in blocks_us for phase in (user(10), Block(us(n)), Ops()))


def polling(*blocks_us: float, **host) -> Story:
    """a0 alone on p0."""
    return story(vm("a", (*halts(*blocks_us), FAR), pin=(0,)), pcpus=1, **{"halt_poll": POLL, **host})


def test_the_interval_grows_until_a_poll_catches_the_wakeup():
    """Halts of 50 µs at 10, 70, 130, 190, 250 and 310. The first blocks at once; the interval is then 10, 20, 40 and
    80 µs, and with 80 the timer comes while a0 still polls."""
    told = polling(*[50] * 6).until(365)
    assert told.tell(only={"block", "wake"}) == [
        "10us a0 block p0",
        "60us a0 wake p0",
        "80us a0 block p0",
        "120us a0 wake p0",
        "150us a0 block p0",
        "180us a0 wake p0",
        "230us a0 block p0",
        "240us a0 wake p0",
    ]
    assert told.tell(only={"ops"}) == [f"{60 * n}us a0 ops" for n in range(1, 7)]
    assert told.counts("a", "polls", "polls_ok") == [5, 2]
    assert int(told.vcpu("a0")["poll_ns"]) == 80_000


def test_without_polling_every_halt_blocks():
    told = polling(*[50] * 6, halt_poll=HaltPoll()).until(365)
    assert told.tell(only={"block"}) == [f"{10 + 60 * n}us a0 block p0" for n in range(6)]
    assert told.counts("a", "polls") == [0]


def test_the_interval_shrinks_after_blocks_that_no_poll_would_catch():
    """After 80 µs, halts of 500 at 310, 820, 1330, 1840 and 2350: 500 > 200, so 80, 40, 20 and 10 are halved, and 5 is
    below where growth starts: 0, no poll."""
    told = polling(*[50] * 5, *[500] * 5).until(2_400)
    assert told.tell(only={"block"}, start_us=250) == [f"{t}us a0 block p0" for t in (390, 860, 1_350, 1_850, 2_350)]
    assert int(told.vcpu("a0")["poll_ns"]) == 0


def test_shrink_0_resets_the_interval():
    told = polling(*[50] * 5, 500, 50, halt_poll=replace(POLL, shrink=0)).until(900)
    assert told.tell(only={"block"}, start_us=250) == ["390us a0 block p0", "820us a0 block p0"]


def test_a_block_between_the_interval_and_the_maximum_grows_it():
    """150 µs, five times: 0, 10, 20, 40, 80; then 160 is enough. 150 of 200 is no reason to shrink."""
    told = polling(*[150] * 6).until(970)
    assert told.tell(only={"block"}) == [f"{t}us a0 block p0" for t in (10, 180, 350, 530, 730)]
    assert int(told.vcpu("a0")["poll_ns"]) == 160_000


def test_the_interval_ends_at_its_maximum():
    """Halts of 45 µs, at most 50: 10, 20, 40, then 50 instead of 80, which is enough."""
    told = polling(*[45] * 5, halt_poll=HaltPoll(max_ns=50_000)).until(280)
    assert told.tell(only={"block"}) == [f"{t}us a0 block p0" for t in (10, 75, 140, 215)]
    assert int(told.vcpu("a0")["poll_ns"]) == 50_000


def test_growth_is_a_parameter():
    """From 30 µs on, by 3: 30, then 90, which is enough."""
    told = polling(*[50] * 4, halt_poll=HaltPoll(max_ns=200_000, grow=3, grow_start_ns=30_000)).until(240)
    assert told.tell(only={"block"}) == [f"{t}us a0 block p0" for t in (10, 100)]
    assert int(told.vcpu("a0")["poll_ns"]) == 90_000


def test_a_polling_vcpu_runs_and_is_not_ready():
    """Within the fifth halt, 250-300 µs, of which a0 polls all."""
    told = polling(*[50] * 6).until(280)
    assert int(told.vcpu("a0")["state"]) == layout.RUNNING
    assert int(told.world.pcpu[0]["curr"]) == 0
    assert "ready" not in told.flags("a0") and "preempted" not in told.flags("a0")
    assert told.until(335).tell(only={"run"})[-1] == "240us a0 run p0"


def test_a_wakeup_that_a_poll_catches_costs_an_exit():
    """Blocked, a wakeup costs 6 µs: each of the first four rounds takes 10 + 50 + 6. From 264 on a0 computes, halts at
    274, polls, and its timer fires at 324: half a µs."""
    costs = replace(Costs.zero(), halt_ns=6_000, wake_ns=2_000, exit_ns=500)
    told = polling(*[50] * 5, costs=costs).until(400)
    assert told.tell(only={"ops"}) == [f"{t:g}us a0 ops" for t in (66, 132, 198, 264, 324.5)]


def shared(b_sleeps_us: float) -> Story:
    """As above a0's interval is 80 µs after four halts; its fifth is long, from 250 on. b0 gets p0 at 10 µs and sleeps
    at once. Nobody preempts."""
    a = vm("a", (*halts(50, 50, 50, 50, 10**6), FAR), pin=(0,))
    b = vm("b", (Block(us(b_sleeps_us)), user(100), FOREVER), pin=(0,))
    return story(a, b, pcpus=1, halt_poll=POLL, delay_dequeue=False, wakeup_preemption=False)


def test_polling_ends_when_another_task_wants_the_pcpu():
    """b0's timer fires at 260."""
    told = shared(250).until(400).tell(start_us=250, leave={"irq", "wake", "ops"})
    assert told == ["260us a0 block p0", "260us b0 run p0", "360us b0 block p0"]


def test_nobody_polls_while_another_task_waits():
    """b0's timer fires at 245, while a0 computes."""
    told = shared(235).until(400)
    assert told.tell(start_us=241, leave={"irq", "wake", "ops"}) == [
        "250us a0 block p0",
        "250us b0 run p0",
        "350us b0 block p0",
    ]
    assert told.counts("a", "polls") == [3]


def test_an_ipi_ends_a_poll():
    """a0 polls from 250 on; a1's kick arrives at 270. a0 goes back to its halt after it (an inference: a new poll)."""
    a = vm("a", (*halts(50, 50, 50, 50, 10**6), FAR), (user(270), Kick("prev"), FAR), pin=(0, 1))
    told = story(a, halt_poll=POLL).until(300)
    assert told.tell(start_us=241, leave={"ops"}) == ["270us a1 send a0", "270us a0 irq"]
    assert told.counts("a", "polls_ok") == [1]
