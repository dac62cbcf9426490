"""What a vCPU's guest is doing, and when that changes: the verbs that locks, IPIs, queues and the engine share.

A guest has one activity (ACT_*), possibly with an interrupt handler above it. While the vCPU runs, t_end_ns and
irq_end_ns are points in time; while it does not, they are what is left. Host work (exits, switches) delays both.
"""

from __future__ import annotations

from kvmgym.codes import TAS
from kvmgym.core import account, events, layout
from kvmgym.core.host import fair, placement, queues
from kvmgym.core.jit import jit
from kvmgym.core.layout import (
    ACT_COMPUTE,
    ACT_HALT,
    ACT_SEND,
    ACT_SPIN_LOCK,
    BLOCKED,
    INF,
    NONE,
    POLL_ENDS,
    POLLS,
    RUNNING,
    YES,
)
from kvmgym.core.memory import World
from kvmgym.core.records import Param, Vcpu, Waited


@jit
def must_look(w: World, vcpu: Vcpu) -> bool:
    """True when a spinner's guest goes on and must look whether its tas lock came free meanwhile."""
    return vcpu.act == ACT_SPIN_LOCK and vcpu.resume_check == 1 and w.lock[vcpu.wait_lock].kind == TAS


@jit
def ple_watches(w: World, vcpu: Vcpu) -> int:
    """True when hardware would exit from this spin: pause-loop exiting is on, and the guest spins in ring 0 or user
    mode is watched too."""
    return w.par[0].ple_enabled and (vcpu.ring0 or w.par[0].ple_user_exits)


@jit
def set_event(w: World, v: int) -> None:
    """Set the pCPU's leaf to the next change of its running vCPU `v`, or its next tick."""
    vcpu = w.vcpu[v]
    pcpu = w.pcpu[vcpu.pcpu]
    if vcpu.in_irq:
        ev = vcpu.irq_end_ns
    elif vcpu.act == ACT_COMPUTE or vcpu.act == ACT_SEND:
        ev = vcpu.t_end_ns
    elif vcpu.act == ACT_HALT or must_look(w, vcpu):
        ev = max(vcpu.spin_from_ns, vcpu.overhead_until_ns)
        if vcpu.polling == POLL_ENDS:
            ev = w.host[0].now_ns
    else:
        ev = min(vcpu.spin_from_ns + vcpu.spin_budget_ns, INF)
        if ple_watches(w, vcpu):
            ev = min(ev, vcpu.spin_from_ns + vcpu.ple_window_ns)
    pcpu.ev_ns = ev
    events.set_time(w, vcpu.pcpu, min(ev, pcpu.next_tick_ns))


@jit
def guest_waits(w: World, v: int) -> None:
    """Count a vCPU that only another one can release, and look for a deadlock when all of the VM wait."""
    vm = w.vm[w.vcpu[v].vm]
    vm.nr_waiting += 1
    if vm.nr_waiting == vm.vcpus:
        look_for_deadlock(w, w.vcpu[v].vm)


@jit
def has_interrupt(w: World, v: int) -> bool:
    """True when an interrupt waits to be taken by vCPU `v`."""
    vcpu = w.vcpu[v]
    if vcpu.resched_pending or vcpu.timer_pending:
        return True
    words = w.par[0].pend_words
    for i in range(v * words, (v + 1) * words):
        if w.pend[i] != 0:
            return True
    return False


@jit
def look_for_deadlock(w: World, g: int) -> None:
    """Report VM `g` in host.deadlock_vm when each of its vCPUs waits for another and nothing is on its way."""
    vm = w.vm[g]
    for v in range(vm.first, vm.first + vm.vcpus):
        vcpu = w.vcpu[v]
        if vcpu.act == ACT_COMPUTE or vcpu.act == ACT_SEND or vcpu.in_irq or vcpu.wake_ns < INF:
            return
        if vcpu.irq_off == 0 and has_interrupt(w, v):
            return
        if vcpu.wait_lock != NONE and w.lock[vcpu.wait_lock].owner == NONE:
            return
    w.host[0].deadlock_vm = g


@jit
def spin(w: World, v: int, act: int, budget_ns: int, now: int) -> None:
    """Begin to spin (ACT_SPIN_*) for at most `budget_ns`, then halt."""
    vcpu = w.vcpu[v]
    vcpu.act = act
    vcpu.spin_from_ns = now
    vcpu.spin_budget_ns = budget_ns
    vcpu.spin_exits = 0
    vcpu.resume_check = 0
    set_event(w, v)
    guest_waits(w, v)


@jit
def halt(w: World, v: int, now: int) -> None:
    """Halt the running vCPU: it polls for its interval if nobody else wants its pCPU, then blocks until it is woken
    (kvm_vcpu_halt, kvm_vcpu_block). Polling is host work that ends early."""
    vcpu = w.vcpu[v]
    account.spin_pause(w, vcpu, now)
    vcpu.act = ACT_HALT
    if w.par[0].poll_max_ns > 0 and vcpu.polling == 0:
        vcpu.halted_ns = now
        if vcpu.poll_ns > 0 and w.pcpu[vcpu.pcpu].nr_running == 1:
            vcpu.polling = POLLS
            w.vm[vcpu.vm].polls += 1
            account.charge(w, v, vcpu.poll_ns, now)
            set_event(w, v)
            return
    _end_poll(w, v, now)
    vcpu.blocking = 1
    vcpu.spin_from_ns = now
    if fair.update_curr(w, vcpu.pcpu, now):
        queues.request_resched(w, vcpu.pcpu)
    fair.dequeue(w, v, YES, now)
    account.set_state(w, v, BLOCKED, now)
    account.note(w, layout.TR_BLOCK, v, vcpu.pcpu)
    queues.request_resched(w, vcpu.pcpu)


@jit
def _end_poll(w: World, v: int, now: int) -> None:
    """The vCPU polls no longer; what is left of the poll is no host work."""
    vcpu = w.vcpu[v]
    if vcpu.polling:
        vcpu.polling = 0
        left = max(vcpu.overhead_until_ns - now, 0)
        account.add_overhead(w, vcpu, -left)
        vcpu.overhead_until_ns -= left


@jit
def poll_succeeds(w: World, v: int, now: int) -> None:
    """Something has come for a vCPU that may be polling: it enters its guest again without having blocked."""
    if w.vcpu[v].polling:
        _end_poll(w, v, now)
        w.vm[w.vcpu[v].vm].polls_ok += 1
        account.charge(w, v, w.par[0].exit_ns, now)


@jit
def adapt_poll(vcpu: Vcpu, par: Param, now: int) -> None:
    """The poll interval after a block that has ended: longer when a longer poll would have caught it, shorter when none
    would (grow_halt_poll_ns, shrink_halt_poll_ns)."""
    halted = now - vcpu.halted_ns
    if halted <= vcpu.poll_ns:
        return
    if halted > par.poll_max_ns:
        vcpu.poll_ns = vcpu.poll_ns // par.poll_shrink if par.poll_shrink > 0 else 0
        if vcpu.poll_ns < par.poll_grow_start_ns:
            vcpu.poll_ns = 0
    elif par.poll_grow > 0:
        vcpu.poll_ns = min(max(vcpu.poll_ns * par.poll_grow, par.poll_grow_start_ns), par.poll_max_ns)


@jit
def halt_for_another(w: World, v: int, now: int) -> None:
    """Halt until another vCPU releases this one."""
    halt(w, v, now)
    guest_waits(w, v)


@jit
def wake(w: World, v: int, now: int) -> None:
    """Wake a halted vCPU: it is ready until it runs (kvm_vcpu_wake_up)."""
    vcpu = w.vcpu[v]
    vcpu.blocking = 0
    vcpu.ready = 1
    vcpu.woken = 1
    placement.wake(w, v, now)
    account.note(w, layout.TR_WAKE, v, vcpu.pcpu)


@jit
def release(w: World, v: int, now: int) -> None:
    """What vCPU `v` waited for has come: its phase ends as soon as its guest runs. A halted one is woken."""
    vcpu = w.vcpu[v]
    if vcpu.state == RUNNING:
        poll_succeeds(w, v, now)
        account.spin_pause(w, vcpu, now)
        vcpu.t_end_ns = account.guest_from(vcpu, now)
        if vcpu.in_irq:
            vcpu.t_end_ns = max(vcpu.t_end_ns, vcpu.irq_end_ns)
        vcpu.act = ACT_COMPUTE
        set_event(w, v)
        w.host[0].events += 1
        return
    vcpu.act = ACT_COMPUTE
    vcpu.t_end_ns = vcpu.irq_end_ns if vcpu.in_irq else 0
    if vcpu.state == BLOCKED:
        wake(w, v, now)


@jit
def append_waiter(w: World, queue: Waited, v: int) -> None:
    """Put `v` at the end of the waiters of a lock or gate record."""
    vcpu = w.vcpu[v]
    vcpu.wait_next = NONE
    vcpu.wait_prev = queue.tail
    if queue.tail == NONE:
        queue.head = v
    else:
        w.vcpu[queue.tail].wait_next = v
    queue.tail = v


@jit
def remove_waiter(w: World, queue: Waited, v: int) -> None:
    """Take `v` out of the waiters of a lock or gate record."""
    vcpu = w.vcpu[v]
    if vcpu.wait_prev == NONE:
        queue.head = vcpu.wait_next
    else:
        w.vcpu[vcpu.wait_prev].wait_next = vcpu.wait_next
    if vcpu.wait_next == NONE:
        queue.tail = vcpu.wait_prev
    else:
        w.vcpu[vcpu.wait_next].wait_prev = vcpu.wait_prev
    vcpu.wait_next = NONE
    vcpu.wait_prev = NONE


@jit
def suspend(w: World, v: int, now: int) -> None:
    """The vCPU leaves its pCPU: keep what is left of its activity; host work not yet done is dropped."""
    vcpu = w.vcpu[v]
    vcpu.polling = 0
    base = account.guest_from(vcpu, now)
    dropped = base - now
    account.add_overhead(w, vcpu, -dropped)
    account.spin_pause(w, vcpu, now)
    if vcpu.in_irq:
        vcpu.irq_end_ns -= base
    if vcpu.act == ACT_COMPUTE or vcpu.act == ACT_SEND:
        vcpu.t_end_ns -= base
    vcpu.overhead_until_ns = 0
    if vcpu.holds > 0:
        vcpu.lhp_since_ns = now


@jit
def resume(w: World, v: int, cost_ns: int, now: int) -> None:
    """The vCPU is on its pCPU; its guest goes on after `cost_ns` of host work. The caller takes interrupts or sets the
    next event."""
    vcpu = w.vcpu[v]
    base = now + cost_ns
    vcpu.overhead_until_ns = base
    account.add_overhead(w, vcpu, cost_ns)
    if vcpu.in_irq:
        vcpu.irq_end_ns += base
    if vcpu.act == ACT_COMPUTE or vcpu.act == ACT_SEND:
        vcpu.t_end_ns += base
    vcpu.spin_from_ns = base
    vcpu.resume_check = 1
    if vcpu.lhp_since_ns < now:
        w.vm[vcpu.vm].lhp_ns += now - vcpu.lhp_since_ns
    vcpu.lhp_since_ns = INF
