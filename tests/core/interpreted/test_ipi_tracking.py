"""IPI tracking of the directed-yield series: what is remembered, and what forgets it. Expectations by hand.

One slot a vCPU. Each target of an IPI that is sent one by one costs 2 µs here, so the slot can be watched between
them; the handler takes 5 µs.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from stories import Story, plain_host, us, user, work

from kvmgym import codes
from kvmgym.core import layout
from kvmgym.core.host import kvm
from kvmgym.params import Block, Compute, Costs, Kick, LockSpec, Scenario, Shootdown, Vm
from kvmgym.params import Lock as TakeLock
from kvmgym.params import Unlock as ReleaseLock

FAR = user(10**6)
COSTS = replace(Costs.zero(), ipi_ns=2_000, broadcast_physical_ns=2_000, broadcast_ns=2_000, irq_handler_ns=5_000)
NOBODY = -1


def story(*programs, **given) -> Story:
    """One VM, one vCPU a program, each alone on its pCPU."""
    n = len(programs)
    locks = given.pop("locks", ())
    vm = Vm("a", n, work(*programs, locks=locks), pin=tuple(range(n)), **given)
    return Story(Scenario("ipi", plain_host(n, costs=COSTS), (vm,)), "none")


def slot(s: Story, who: str) -> tuple[int, bool]:
    """Whom that vCPU is known to have sent to last, and whether that is still pending."""
    vcpu = s.vcpu(who)
    return int(vcpu["ipi_receiver"]), bool(vcpu["ipi_pending"])


# --- what is tracked ------------------------------------------------------------------------------------------------


def test_at_first_nothing_is_remembered():
    s = story((FAR,), (FAR,)).until(1)
    assert [slot(s, "a0"), slot(s, "a1")] == [(NOBODY, False)] * 2


def test_x2apic_physical_sends_unicasts_and_remembers_the_last_receiver_only():
    """Sent at 10, arriving at 12, 14 and 16 µs; the handlers end 5 µs later."""
    s = story((user(10), Shootdown(), FAR), (FAR,), (FAR,), (FAR,), ipi_mode="x2apic_physical")
    assert slot(s.until(11), "a0") == (NOBODY, False)
    seen = [(slot(s.until(t), "a0"), int(s.vcpu("a0")["ipi_time_ns"])) for t in (12, 14, 16)]
    assert seen == [((1, True), 12_000), ((2, True), 14_000), ((3, True), 16_000)]
    assert [int(s.vcpu(name)["ipi_sender"]) for name in ("a1", "a2", "a3")] == [0, 0, 0]
    assert slot(s.until(20), "a0") == (3, True)  # the handlers of a1 and a2 ended at 17 and 19: not their IPI any more
    assert slot(s.until(21), "a0")[1] is False  # a3's ended


def test_x2apic_cluster_multicast_is_not_tracked():
    s = story((user(10), Shootdown(), FAR), (FAR,), (FAR,), ipi_mode="x2apic_cluster").until(100)
    assert s.tell(only={"send"}) == ["14us a0 send a1", "14us a0 send a2"]  # one multicast of two targets
    assert slot(s, "a0") == (NOBODY, False)


def test_x2apic_cluster_tracks_what_a_single_vcpu_accepts():
    """18 vCPUs: the multicast to 1 .. 15 is untracked, and so is that to 16 and 17. With 17 the second has one
    receiver."""
    for n, remembered in ((18, (NOBODY, False)), (17, (16, True))):
        s = story((user(10), Shootdown(), FAR), *[(FAR,)] * (n - 1), ipi_mode="x2apic_cluster")
        sent = 10 + 2 * 15 + 2 * (n - 16)
        assert slot(s.until(sent), "a0") == remembered
        assert s.tell(only={"send"})[-1] == f"{sent}us a0 send a{n - 1}"


def test_pv_masks_are_not_tracked():
    s = story((user(10), Shootdown(), FAR), (FAR,), (FAR,), ipi_mode="pv").until(100)
    assert s.tell(only={"send"}) == ["14us a0 send a1", "14us a0 send a2"]
    assert slot(s, "a0") == (NOBODY, False)


@pytest.mark.parametrize("mode", ["x2apic_physical", "x2apic_cluster", "pv"])
@pytest.mark.parametrize("phase", [Kick("next"), Shootdown("one"), Shootdown("others")])
def test_an_ipi_to_one_target_is_a_unicast_in_every_mode(mode, phase):
    """Reschedule, single-target call-function, and a mask that holds just one vCPU: 2 µs for one unicast."""
    s = story((user(10), phase, FAR), (FAR,), ipi_mode=mode).until(12)
    assert s.tell(only={"send"}) == ["12us a0 send a1"]
    assert slot(s, "a0") == (1, True)
    assert int(s.vcpu("a1")["ipi_sender"]) == 0


def test_the_wake_up_kick_of_a_mutex_is_a_tracked_reschedule_ipi():
    """a0 releases the mutex that a1 blocks on at 30 µs and kicks it."""
    mutex = (LockSpec("m", kind="mutex"),)
    s = story(
        (TakeLock("m"), Compute(us(30)), ReleaseLock("m"), FAR),
        (user(10), TakeLock("m"), user(10), ReleaseLock("m"), FAR),
        locks=mutex,
    ).until(30)
    assert slot(s, "a0") == (1, True)
    assert int(s.vcpu("a0")["ipi_vector"]) == layout.VECTOR_RESCHED


def test_off_means_off():
    s = story((user(10), Shootdown(), Kick("next"), FAR), (FAR,), (FAR,), ipi_tracking="off").until(100)
    assert [slot(s, name) for name in s.names()] == [(NOBODY, False)] * 3
    assert s.vcpu("a1")["ipi_sender"] == NOBODY


def test_a_newer_ipi_overwrites_the_slot():
    """a0 kicks its next (a1), then its previous vCPU (a2), before either handler ends."""
    s = story((user(10), Kick("next"), Kick("prev"), FAR), (FAR,), (FAR,))
    assert slot(s.until(12), "a0") == (1, True)
    assert slot(s.until(14), "a0") == (2, True)
    assert int(s.vcpu("a0")["ipi_time_ns"]) == 14_000


def test_a_receiver_remembers_its_last_sender():
    s = story((user(10), Kick("next"), FAR), (FAR,), (user(11), Kick("prev"), FAR)).until(13)
    assert (slot(s, "a0"), slot(s, "a2")) == ((1, True), (1, True))
    assert int(s.vcpu("a1")["ipi_sender"]) == 2


def test_an_ipi_to_a_halted_vcpu_is_tracked():
    s = story((user(10), Kick("next"), FAR), (user(1), Block(us(10**6)))).until(12)
    assert slot(s, "a0") == (1, True)


# --- what the end of an interrupt clears ----------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v2", "v3"])
@pytest.mark.parametrize("phase", [Kick("next"), Shootdown("one")])
def test_the_eoi_of_the_ipi_itself_clears_the_senders_mark(version, phase):
    """Arrives at 12, its handler ends at 17 µs."""
    s = story((user(10), phase, FAR), (FAR,), ipi_tracking=version)
    assert slot(s.until(16), "a0") == (1, True)
    assert slot(s.until(17), "a0")[1] is False


@pytest.mark.parametrize("version, still_pending", [("v2", False), ("v3", True)])
def test_the_eoi_of_another_vector(version, still_pending):
    """a2's call-function IPI reaches a0 at 10 and a1 at 12 µs: handlers to 15 and 17. a0 was sending a kick since
    9; the handler delays it by 5, so it arrives at a1 at 16, and is served from 17 to 22. The EOI at 17 is of the
    call-function vector: v2 forgets a0's kick there, v3 only at 22."""
    s = story((user(9), Kick("next"), FAR), (FAR,), (user(8), Shootdown(), FAR), ipi_tracking=version).until(16)
    assert s.tell(only={"send"}) == ["10us a2 send a0", "12us a2 send a1", "16us a0 send a1"]
    assert slot(s, "a0") == (1, True)
    assert slot(s.until(17), "a0") == (1, still_pending)
    assert slot(s.until(22), "a0")[1] is False
    assert slot(s, "a2") == (1, True)  # a1 remembers its last sender only, so nothing ever cleared this


@pytest.mark.parametrize("version, forgotten", [("v2", True), ("v3", False)])
def test_a_timer_interrupt_ends_too(version, forgotten):
    """a0 kicks a1 at 10 and blocks; its timer fires at 20, the handler ends at 25 µs. v2: any EOI clears a0's
    whole slot, also what it has sent itself. a1's guest has interrupts off, so that it does not acknowledge
    meanwhile."""
    s = story(
        (user(8), Kick("next"), Block(us(10)), FAR),
        (TakeLock("l", irq_off=True), Compute(us(100), kernel_share=1.0), ReleaseLock("l"), FAR),
        ipi_tracking=version,
        locks=(LockSpec("l"),),
    )
    assert slot(s.until(24), "a0") == (1, True)
    assert slot(s.until(25), "a0") == ((NOBODY, False) if forgotten else (1, True))


# --- the same on bare records ---------------------------------------------------------------------------------------


def records(version, n: int = 4, window_ns: int = 50_000):
    vm, vcpus = np.zeros(1, layout.VM)[0], np.zeros(n, layout.VCPU)
    vm["vcpus"], vm["ipi_tracking"], vm["ipi_window_ns"] = n, version, window_ns
    vcpus["idx"] = np.arange(n)
    vcpus["ipi_receiver"] = vcpus["ipi_sender"] = NOBODY
    return vm, vcpus


CALL, RESCHED = layout.VECTOR_CALL, layout.VECTOR_RESCHED


def bare(vcpu) -> tuple[int, int, bool]:
    return int(vcpu["ipi_receiver"]), int(vcpu["ipi_sender"]), bool(vcpu["ipi_pending"])


def test_v2_clears_the_whole_slot_of_the_receiver():
    """vCPU 1 had sent to 2 itself; the EOI of 0's IPI wipes that too, and 0's mark, but not 0's receiver."""
    vm, vcpus = records(codes.TRACK_V2)
    kvm.track_send(vm, vcpus, 1, 2, CALL, 100)
    kvm.track_send(vm, vcpus, 0, 1, CALL, 200)
    kvm.track_eoi(vm, vcpus, 1, CALL, 300)
    assert bare(vcpus[1]) == (NOBODY, NOBODY, False)
    assert bare(vcpus[0])[2] is False
    assert bare(vcpus[2]) == (NOBODY, 1, False)


def test_v3_leaves_what_the_receiver_has_sent_itself():
    """An inference: v3's EOI of a matching vector ends the IPI that it acknowledges, not the receiver's own."""
    vm, vcpus = records(codes.TRACK_V3)
    kvm.track_send(vm, vcpus, 1, 2, CALL, 100)
    kvm.track_send(vm, vcpus, 0, 1, CALL, 200)
    kvm.track_eoi(vm, vcpus, 1, CALL, 300)
    assert (bare(vcpus[1])[0], bare(vcpus[1])[2]) == (2, True)
    assert bare(vcpus[0])[2] is False


@pytest.mark.parametrize("version", [codes.TRACK_V2, codes.TRACK_V3])
def test_a_sender_that_points_elsewhere_by_now_keeps_its_mark(version):
    vm, vcpus = records(version)
    kvm.track_send(vm, vcpus, 0, 1, CALL, 100)
    kvm.track_send(vm, vcpus, 0, 2, CALL, 200)
    kvm.track_eoi(vm, vcpus, 1, CALL, 300)
    assert bare(vcpus[0]) == (2, NOBODY, True)
    kvm.track_eoi(vm, vcpus, 2, CALL, 400)
    assert bare(vcpus[0])[2] is False


@pytest.mark.parametrize("age_ns, cleared", [(50_000, True), (50_001, False)])
def test_v2_clears_the_senders_mark_within_the_window_only(age_ns, cleared):
    vm, vcpus = records(codes.TRACK_V2)
    kvm.track_send(vm, vcpus, 0, 1, CALL, 1_000)
    kvm.track_eoi(vm, vcpus, 1, CALL, 1_000 + age_ns)
    assert bare(vcpus[0])[2] is not cleared


@pytest.mark.parametrize("sent, ended, cleared", [(CALL, CALL, True), (CALL, RESCHED, False), (RESCHED, CALL, False)])
def test_v3_clears_on_a_matching_vector_only(sent, ended, cleared):
    for version, expected in ((codes.TRACK_V3, cleared), (codes.TRACK_V2, True)):
        vm, vcpus = records(version)
        kvm.track_send(vm, vcpus, 0, 1, sent, 100)
        kvm.track_eoi(vm, vcpus, 1, ended, 200)
        assert bare(vcpus[0])[2] is not expected


def test_an_eoi_without_a_remembered_sender_is_harmless():
    for version in (codes.TRACK_V2, codes.TRACK_V3, codes.TRACK_OFF):
        vm, vcpus = records(version)
        before = vcpus.copy()
        kvm.track_eoi(vm, vcpus, 1, CALL, 100)
        assert vcpus.tolist() == before.tolist()
