"""Interrupts between vCPUs: sending, delivery, the handler, acknowledgements, the end of interrupt.

A running vCPU takes an interrupt at once, unless it holds an interrupt-disabling lock; a halted one is woken; a
preempted one finds it when it next runs: the stall that directed yield is about. How a mask is sent is the VM's
`ipi_mode` (kernel.md 3). Handlers do not nest; one handler serves all that is pending when it starts.
"""

from __future__ import annotations

from kvmgym.codes import PV, TO_BUSY, TO_NEXT, TO_ONE, TO_OTHERS, TO_PREV, X2APIC_CLUSTER, X2APIC_PHYSICAL
from kvmgym.core import account, layout, rng
from kvmgym.core.guest import activity
from kvmgym.core.host import directed_yield, kvm
from kvmgym.core.jit import jit
from kvmgym.core.layout import (
    ACT_COMPUTE,
    ACT_HALT,
    ACT_SEND,
    ACT_SPIN_ACK,
    BLOCKED,
    HIST_IPI,
    HIST_SHOOTDOWN,
    INF,
    RUNNING,
    VECTOR_CALL,
    VECTOR_RESCHED,
    VECTOR_TIMER,
    YIELD_FREE,
    YIELD_OK,
)
from kvmgym.core.memory import World, span
from kvmgym.core.records import Param, Vcpus, Vm, int64

CLUSTER = 16  # vCPUs that one x2APIC cluster multicast reaches


@jit
def _bit(i: int) -> int:
    return int64(1) << int64(i & 31)


@jit
def _others(w: World, vm: Vm, v: int) -> Vcpus:
    """The vCPUs of the VM as a slice of records; indices in it are indices in the VM."""
    return span(w.vcpu, vm.first, vm.vcpus)


@jit
def begin_send(w: World, v: int, targets: int, vector: int, now: int) -> bool:
    """Begin to send an IPI to `targets` (TO_*). False when nobody is to receive it. A synchronous one (VECTOR_CALL)
    awaits an acknowledgement from each."""
    vcpu = w.vcpu[v]
    vm = w.vm[vcpu.vm]
    n, me, words = vm.vcpus, vcpu.idx, w.par[0].pend_words
    count = 0
    if targets == TO_OTHERS or targets == TO_BUSY:
        for r in range(n):
            if r != me and (targets == TO_OTHERS or w.vcpu[vm.first + r].state != BLOCKED):
                if not _left_a_flag(w, vm, vm.first + r, vector):
                    w.goal[v * words + (r >> 5)] |= _bit(r)
                    count += 1
    elif n > 1:
        r = me
        if targets == TO_ONE:
            r = rng.below(vcpu, n - 1)
            r += 1 if r >= me else 0
        elif targets == TO_NEXT:
            r = (me + 1) % n
        elif targets == TO_PREV:
            r = (me + n - 1) % n
        if not _left_a_flag(w, vm, vm.first + r, vector):
            w.goal[v * words + (r >> 5)] |= _bit(r)
            count = 1
    if count == 0:
        return False
    vcpu.ring0 = 1
    vcpu.send_vector = vector
    vcpu.send_single = count == 1
    vcpu.send_end = 0
    vcpu.wait_since_ns = now
    if vector == VECTOR_CALL:
        vcpu.acks_left = count
    _send_batch(w, v, now)
    return True


@jit
def _left_a_flag(w: World, vm: Vm, target: int, vector: int) -> bool:
    """PV TLB flush: a target that does not run gets a flag instead of an IPI (kvm_flush_tlb_multi)."""
    if vm.pv_tlb_flush == 0 or vector != VECTOR_CALL or w.vcpu[target].state == RUNNING:
        return False
    w.vcpu[target].pv_flush = 1
    vm.flags_left += 1
    return True


@jit
def yield_named(w: World, v: int, target: int, now: int) -> int:
    """A hypercall of vCPU `v` that yields to the vCPU it names, if that is ready (kvm_sched_yield)."""
    vm = w.vm[w.vcpu[v].vm]
    if target == v or w.vcpu[target].ready == 0:
        return YIELD_FREE
    result = directed_yield.yield_to(w, v, target, now)
    account.note(w, layout.TR_YIELD, v, target * 4 + result + 1)
    vm.named_attempted += 1
    if result == YIELD_OK:
        vm.named_ok += 1
        w.vcpu[target].boosted_ns = now
        w.pcpu[w.vcpu[v].pcpu].carry_ns += w.par[0].yield_ns
    return result


@jit
def _yield_to_first_preempted(w: World, v: int, now: int) -> None:
    """PV sched yield, after an IPI to several vCPUs: a hypercall for the first of them that is preempted, which has
    not acknowledged then (kvm_smp_send_call_func_ipi)."""
    vm, words = w.vm[w.vcpu[v].vm], w.par[0].pend_words
    word, bit = w.vcpu[v].idx >> 5, _bit(w.vcpu[v].idx)
    for r in range(vm.first, vm.first + vm.vcpus):
        if w.vcpu[r].preempted and w.pend[r * words + word] & bit:
            account.charge(w, v, w.par[0].exit_ns, now)
            yield_named(w, v, r, now)
            return


@jit
def _unicast_ns(par: Param, vm: Vm) -> int:
    """The cost of an IPI to one vCPU."""
    return par.ipi_apicv_ns if vm.apicv else par.ipi_ns


@jit
def _wants(w: World, v: int, r: int) -> bool:
    return (w.goal[v * w.par[0].pend_words + (r >> 5)] >> (r & 31)) & 1 == 1


@jit
def _send_batch(w: World, v: int, now: int) -> bool:
    """Start on the next batch: one target of unicasts, the targets of one cluster, or the whole mask of a hypercall.
    False when no target is left."""
    vcpu, par = w.vcpu[v], w.par[0]
    vm = w.vm[vcpu.vm]
    r = int64(vcpu.send_end)
    while r < vm.vcpus and not _wants(w, v, r):
        r += 1
    if r == vm.vcpus:
        return False
    vcpu.send_next = r
    end = r + 1
    cost = _unicast_ns(par, vm)
    if not vcpu.send_single:
        if vm.ipi_mode == X2APIC_PHYSICAL:
            cost = max(par.broadcast_physical_ns - (par.ipi_ns - cost), 0)
        else:
            end = vm.vcpus if vm.ipi_mode == PV else min(vm.vcpus, (r // CLUSTER + 1) * CLUSTER)
            count = 0
            for i in range(r, end):
                count += 1 if _wants(w, v, i) else 0
            cost = count * par.broadcast_ns
    vcpu.send_end = end
    vcpu.act = ACT_SEND
    vcpu.t_end_ns = now + cost
    activity.set_event(w, v)
    return True


@jit
def send_done(w: World, v: int, now: int) -> bool:
    """The batch is sent: deliver it, then go on to the next. True when the whole IPI is done (nothing to wait for)."""
    vcpu = w.vcpu[v]
    vm = w.vm[vcpu.vm]
    words = w.par[0].pend_words
    count = 0
    for r in range(int64(vcpu.send_next), int64(vcpu.send_end)):
        count += 1 if _wants(w, v, r) else 0
    unicast = count == 1 and (vm.ipi_mode != PV or vcpu.send_single)
    if vm.ipi_mode == X2APIC_CLUSTER and not vcpu.send_single:
        unicast = count == 1
    w.host[0].events += 1
    for r in range(int64(vcpu.send_next), int64(vcpu.send_end)):
        if _wants(w, v, r):
            w.goal[v * words + (r >> 5)] &= ~_bit(r)
            if unicast:
                kvm.track_send(vm, _others(w, vm, v), vcpu.idx, r, int64(vcpu.send_vector), now)
            account.note(w, layout.TR_SEND, v, vm.first + r)
            target = vm.first + r
            if vcpu.send_vector == VECTOR_CALL:
                w.pend[target * words + (vcpu.idx >> 5)] |= _bit(vcpu.idx)
            else:
                w.vcpu[target].resched_pending = 1
            deliver(w, target, now)
    if _send_batch(w, v, now):
        return False
    if vcpu.send_vector == VECTOR_RESCHED:
        return True
    if vcpu.acks_left == 0:
        _count_shootdown(w, v, now)
        return True
    activity.spin(w, v, ACT_SPIN_ACK, INF, now)
    if vm.pv_sched_yield and not vcpu.send_single:
        _yield_to_first_preempted(w, v, now)
        activity.set_event(w, v)
    return False


@jit
def kick(w: World, v: int, target: int, now: int) -> None:
    """Send a reschedule IPI to one vCPU at once; its cost delays the sender afterwards."""
    vm = w.vm[w.vcpu[v].vm]
    kvm.track_send(vm, _others(w, vm, v), w.vcpu[v].idx, w.vcpu[target].idx, VECTOR_RESCHED, now)
    account.note(w, layout.TR_SEND, v, target)
    w.vcpu[target].resched_pending = 1
    deliver(w, target, now)
    account.charge(w, v, _unicast_ns(w.par[0], vm), now)


@jit
def deliver(w: World, target: int, now: int) -> None:
    """An interrupt has arrived at `target`, whose pending marks are set."""
    vcpu = w.vcpu[target]
    vcpu.irq_arrived_ns = min(vcpu.irq_arrived_ns, now)
    if vcpu.state != RUNNING and w.vm[vcpu.vm].apicv:
        vcpu.pending_interrupt = 1
    if vcpu.state == RUNNING:
        if vcpu.in_irq == 0 and vcpu.irq_off == 0:
            activity.poll_succeeds(w, target, now)
            begin_irq(w, target, now)
    elif vcpu.state == BLOCKED and vcpu.irq_off == 0:
        activity.wake(w, target, now)


@jit
def begin_irq(w: World, v: int, now: int) -> None:
    """Enter the handler on a running vCPU: it serves all that is pending."""
    vcpu, par = w.vcpu[v], w.par[0]
    account.spin_pause(w, vcpu, now)
    base = account.guest_from(vcpu, now)
    vcpu.in_irq = 1
    vcpu.irq_end_ns = base + par.irq_handler_ns
    if vcpu.act == ACT_COMPUTE or vcpu.act == ACT_SEND:
        vcpu.t_end_ns += par.irq_handler_ns
    vcpu.irq_call = 0
    for i in range(v * par.pend_words, (v + 1) * par.pend_words):
        if w.pend[i] != 0:
            vcpu.irq_call = 1
        w.serve[i] = w.pend[i]
        w.pend[i] = 0
    vcpu.irq_resched = vcpu.resched_pending
    vcpu.irq_timer = vcpu.timer_pending
    vcpu.resched_pending = 0
    vcpu.timer_pending = 0
    if vcpu.irq_call or vcpu.irq_resched:
        account.observe(w, vcpu.vm, HIST_IPI, base - vcpu.irq_arrived_ns)
    vcpu.irq_arrived_ns = INF
    w.host[0].events += 1
    account.note(w, layout.TR_IRQ, v, 0)
    activity.set_event(w, v)


@jit
def end_irq(w: World, v: int, now: int) -> None:
    """The handler ends: acknowledge, signal the end of each interrupt, and return to what was interrupted."""
    vcpu = w.vcpu[v]
    vm = w.vm[vcpu.vm]
    vcpu.in_irq = 0
    vcpu.spin_from_ns = now
    vcpu.resume_check = 1
    w.host[0].events += 1
    if vcpu.irq_call:
        _acknowledge(w, v, now)
        kvm.track_eoi(vm, _others(w, vm, v), vcpu.idx, VECTOR_CALL, now)
    if vcpu.irq_resched:
        kvm.track_eoi(vm, _others(w, vm, v), vcpu.idx, VECTOR_RESCHED, now)
    if vcpu.irq_timer:
        kvm.track_eoi(vm, _others(w, vm, v), vcpu.idx, VECTOR_TIMER, now)
    take_pending_or_go_on(w, v, now)
    if vm.nr_waiting == vm.vcpus:
        activity.look_for_deadlock(w, vcpu.vm)


@jit
def take_pending_or_go_on(w: World, v: int, now: int) -> None:
    """The guest of a running vCPU goes on: first with what is pending, else where it was."""
    vcpu = w.vcpu[v]
    if vcpu.in_irq == 0 and vcpu.irq_off == 0 and activity.has_interrupt(w, v):
        begin_irq(w, v, now)
    elif vcpu.in_irq == 0 and vcpu.act == ACT_HALT and now >= vcpu.overhead_until_ns:
        activity.halt(w, v, now)
    else:
        activity.set_event(w, v)


@jit
def _acknowledge(w: World, v: int, now: int) -> None:
    vm = w.vm[w.vcpu[v].vm]
    words = w.par[0].pend_words
    for i in range(words):
        bits = w.serve[v * words + i]
        w.serve[v * words + i] = 0
        s = 32 * i
        while bits != 0:
            if bits & 1:
                sender = vm.first + s
                w.vcpu[sender].acks_left -= 1
                account.note(w, layout.TR_ACK, v, sender)
                if w.vcpu[sender].acks_left == 0 and w.vcpu[sender].act == ACT_SPIN_ACK:
                    vm.nr_waiting -= 1
                    _count_shootdown(w, sender, now)
                    activity.release(w, sender, now)
            bits >>= 1
            s += 1


@jit
def _count_shootdown(w: World, v: int, now: int) -> None:
    vm = w.vm[w.vcpu[v].vm]
    latency = now - w.vcpu[v].wait_since_ns
    vm.shootdowns += 1
    vm.shootdown_ns += latency
    account.observe(w, w.vcpu[v].vm, HIST_SHOOTDOWN, latency)
