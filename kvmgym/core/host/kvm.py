"""KVM's side of directed yield: vCPU flags, the pause-loop window, IPI tracking, and the frame of one spin exit.

Models virt/kvm/kvm_main.c (kvm_sched_in, kvm_sched_out, kvm_vcpu_on_spin), arch/x86/kvm/vmx/vmx.c (PLE) and the IPI
tracking of the 2025-26 series (kernel.md 1, 3, 4). Which vCPU is tried is a policy's business (kvmgym.policies); what
an attempt does to KVM's state is here, once, for compiled policies, agents and replayed decisions alike.
"""

from __future__ import annotations

from kvmgym.codes import MODE_ALWAYS, MODE_RING0, TRACK_OFF, TRACK_V2
from kvmgym.core.jit import jit
from kvmgym.core.layout import NO, NONE, YES, YIELD_ESRCH, YIELD_OK
from kvmgym.core.records import Ask, Param, Vcpu, Vcpus, Vm

TRIES = 3  # -ESRCH results that end a round


@jit
def on_sched_in(vcpu: Vcpu, par: Param) -> None:
    """kvm_sched_in: the vCPU runs, is out of the spin-exit handler, and its pause-loop window shrinks."""
    vcpu.preempted = 0
    vcpu.ready = 0
    vcpu.in_spin_loop = 0
    vcpu.dy_eligible = 0
    vcpu.handler_until_ns = 0
    vcpu.pending_interrupt = 0
    if par.ple_shrink > 0:
        vcpu.ple_window_ns = max(vcpu.ple_window_ns // par.ple_shrink, par.ple_window_ns)
    else:
        vcpu.ple_window_ns = par.ple_window_ns


@jit
def on_preempt(vcpu: Vcpu, vm: Vm, now: int) -> None:
    """kvm_sched_out of a vCPU that stays runnable: latch its ring (of an SEV-ES guest: ring 0, as nobody can see it);
    within the handler it stays in_spin_loop."""
    vcpu.preempted = 1
    vcpu.ready = 1
    vcpu.preempted_in_kernel = vcpu.ring0 | vcpu.in_irq | vm.sev_es
    if now < vcpu.handler_until_ns:
        vcpu.in_spin_loop = 1
    vm.preemptions += 1


@jit
def grow_window(vcpu: Vcpu, par: Param) -> None:
    """grow_ple_window, before the scan of each pause-loop exit."""
    if par.ple_grow > 1:
        fits = vcpu.ple_window_ns <= par.ple_max_ns // par.ple_grow
        vcpu.ple_window_ns = vcpu.ple_window_ns * par.ple_grow if fits else par.ple_max_ns


@jit
def track_send(vm: Vm, vcpus: Vcpus, me: int, receiver: int, vector: int, now: int) -> None:
    """Remember a unicast IPI from `me` to `receiver` (indices in the VM) in the one slot of each."""
    if vm.ipi_tracking == TRACK_OFF:
        return
    sender = vcpus[me]
    sender.ipi_receiver = receiver
    sender.ipi_pending = 1
    sender.ipi_vector = vector
    sender.ipi_time_ns = now
    vcpus[receiver].ipi_sender = me


@jit
def track_eoi(vm: Vm, vcpus: Vcpus, me: int, vector: int, now: int) -> None:
    """An end of interrupt on `me`. v2: any one clears the whole slot of `me`, and the remembered sender's pending mark
    if it still points here within the window. v3: only an EOI of the vector that was sent clears, and only that
    sender's mark and the link to it (an inference: what v3 leaves of the receiver's own slot was not public)."""
    if vm.ipi_tracking == TRACK_OFF:
        return
    vcpu = vcpus[me]
    s = vcpu.ipi_sender
    if s != NONE:
        sender = vcpus[s]
        points_here = sender.ipi_receiver == me and sender.ipi_pending
        if vm.ipi_tracking == TRACK_V2:
            if points_here and now - sender.ipi_time_ns <= vm.ipi_window_ns:
                sender.ipi_pending = 0
        elif points_here and sender.ipi_vector == vector:
            sender.ipi_pending = 0
            vcpu.ipi_sender = NONE
    if vm.ipi_tracking == TRACK_V2:
        vcpu.ipi_receiver = NONE
        vcpu.ipi_sender = NONE
        vcpu.ipi_pending = 0


@jit
def wants_kernel_mode(par: Param, vm: Vm, vcpu: Vcpu) -> int:
    """What a spin exit passes as yield_to_kernel_mode: always true (Intel), or whether the spinner is in ring 0 (AMD,
    arm64); never for SEV-ES, whose ring is hidden."""
    if par.ple_kernel_mode == MODE_RING0:
        return vcpu.ring0 if vm.sev_es == 0 else NO
    return YES if par.ple_kernel_mode == MODE_ALWAYS else NO


@jit
def begin_spin(ask: Ask, me_vcpu: Vcpu, g: int, yield_to_kernel_mode: int, now: int) -> None:
    """Open the frame of one kvm_vcpu_on_spin call of vCPU `me_vcpu` of VM `g`."""
    me_vcpu.in_spin_loop = 1
    ask.serial += 1
    ask.now_ns = now
    ask.vm = g
    ask.me = me_vcpu.idx
    ask.attempt = 0
    ask.last_result = 0
    ask.tries = TRIES
    ask.scan_round = 1
    ask.start = 0
    ask.cursor = 0
    ask.mark = NONE
    ask.waits_for = NONE
    ask.yield_to_kernel_mode = yield_to_kernel_mode
    ask.open = 1


@jit
def acceptable(ask: Ask, vcpus: Vcpus, target: int) -> bool:
    """False ends the spin exit: no target, out of range, the spinner itself, one that failed in this round, or more
    attempts than two full rounds."""
    if target < 0 or target >= vcpus.size or target == ask.me or ask.attempt >= 2 * vcpus.size:
        return False
    return vcpus[target].tried_serial != ask.serial or vcpus[target].tried_round != ask.scan_round


@jit
def record_result(ask: Ask, vm: Vm, vcpus: Vcpus, target: int, result: int) -> None:
    """Count an attempt and its result; success moves last_boosted_vcpu and closes the frame."""
    vcpus[target].tried_serial = ask.serial
    vcpus[target].tried_round = ask.scan_round
    ask.attempt += 1
    ask.last_result = result
    if ask.scan_round == 1:
        vm.yields_attempted += 1
    else:
        vm.relaxed_attempted += 1
    if result == YIELD_OK:
        vcpus[target].boosted_ns = ask.now_ns
        vm.last_boosted_vcpu = target if ask.mark == NONE else ask.mark
        ask.open = 0
        if ask.scan_round == 1:
            vm.yields_ok += 1
        else:
            vm.relaxed_ok += 1
    elif result == YIELD_ESRCH:
        ask.tries -= 1
        if ask.scan_round == 1:
            vm.yields_esrch += 1
        else:
            vm.relaxed_esrch += 1


@jit
def end_spin(ask: Ask, me_vcpu: Vcpu) -> None:
    """Close the frame of a spinner that stays on its pCPU; a descheduled one keeps its flags until it runs again."""
    ask.open = 0
    me_vcpu.in_spin_loop = 0
    me_vcpu.dy_eligible = 0
