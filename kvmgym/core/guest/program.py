"""The guest program: a table of phases that each vCPU walks through, from its role's first phase, for ever.

A phase either takes time (then this returns and the engine comes back at its end) or is done at once and the next
follows. A vCPU runs one task and halts when that blocks; with more tasks than vCPUs, core/tasks.py picks another.
"""

from __future__ import annotations

from kvmgym.core import account, events, layout, rng
from kvmgym.core.guest import activity, gates, ipi, locks, tasks
from kvmgym.core.jit import jit
from kvmgym.core.layout import (
    ACT_COMPUTE,
    BLOCKED,
    INF,
    NONE,
    PH_AGAIN,
    PH_BARRIER,
    PH_BLOCK,
    PH_CHOOSE,
    PH_COMPUTE,
    PH_GET,
    PH_KICK,
    PH_LOCK,
    PH_OPS,
    PH_PUT,
    PH_REPEAT,
    PH_SHOOTDOWN,
    PH_UNLOCK,
    VECTOR_CALL,
    VECTOR_RESCHED,
)
from kvmgym.core.memory import World
from kvmgym.core.records import Phase, int64


@jit
def phase_ended(w: World, v: int, now: int) -> None:
    """The activity of a running vCPU has come to its end: finish its phase and go on."""
    vcpu = w.vcpu[v]
    w.host[0].events += 1
    if vcpu.retry and not locks.retry(w, v, now):
        return
    if _gives_way(w, v, now):
        return
    vcpu.pc = w.phase[vcpu.pc].next
    run(w, v, now)


@jit
def _gives_way(w: World, v: int, now: int) -> bool:
    """True when another guest task takes over: one is runnable, no spin lock forbids it, and the slice has ended."""
    vcpu = w.vcpu[v]
    return vcpu.run_head != NONE and vcpu.holds == 0 and tasks.slice_ended(w, v, now)


@jit
def run(w: World, v: int, now: int) -> None:
    """Walk through the program from the present phase until one takes time."""
    vcpu = w.vcpu[v]
    vm = w.vm[vcpu.vm]
    while True:
        phase = w.phase[vcpu.pc]
        kind = phase.kind
        if kind == PH_COMPUTE:
            if _compute(w, v, phase, now):
                return
        elif kind == PH_CHOOSE:
            row = rng.choose(w, vcpu, phase.b, phase.a)
            vcpu.pc = w.cum[row + phase.a]
            continue
        elif kind == PH_LOCK:
            k = vm.locks + phase.a
            if phase.b > 1:
                k += rng.choose(w, vcpu, phase.c, phase.b) - phase.c
            if not locks.take(w, v, k, phase.option, now):
                return
        elif kind == PH_UNLOCK:
            locks.pass_on(w, v, _held(w, v, phase), phase.option, now)
            if phase.option and vcpu.irq_off == 0 and activity.has_interrupt(w, v):
                _pause(w, v, now)
                ipi.begin_irq(w, v, now)
                return
            if _gives_way(w, v, now):
                return
        elif kind == PH_SHOOTDOWN:
            vm.shootdowns_sent += 1
            if ipi.begin_send(w, v, phase.a, VECTOR_CALL, now):
                return
        elif kind == PH_KICK:
            vm.kicks += 1
            if ipi.begin_send(w, v, phase.a, VECTOR_RESCHED, now):
                return
        elif kind == PH_BLOCK:
            _block(w, v, phase, now)
            return
        elif kind == PH_BARRIER:
            if not gates.arrive(w, v, vm.gates + phase.a, now):
                return
        elif kind == PH_PUT:
            if not gates.put(w, v, vm.gates + phase.a, now):
                return
        elif kind == PH_GET:
            if not gates.get(w, v, vm.gates + phase.a, now):
                return
        elif kind == PH_OPS:
            vm.ops += phase.a
            account.note(w, layout.TR_OPS, v, phase.a)
        elif kind == PH_REPEAT:
            vcpu.loop_left = phase.a
        elif kind == PH_AGAIN:
            vcpu.loop_left -= 1
            if vcpu.loop_left > 0:
                vcpu.pc = phase.a
                continue
        if vcpu.overhead_until_ns > now:  # the phase cost host work: the program goes on after it
            _pause(w, v, now)
            activity.set_event(w, v)
            return
        vcpu.pc = phase.next


@jit
def _pause(w: World, v: int, now: int) -> None:
    """The present phase is done, but its end comes only when the guest goes on."""
    vcpu = w.vcpu[v]
    vcpu.act = ACT_COMPUTE
    vcpu.t_end_ns = account.guest_from(vcpu, now)


@jit
def _compute(w: World, v: int, phase: Phase, now: int) -> bool:
    """Draw a stretch of compute and its ring; bursts and cold caches change its length. False when it is empty."""
    vcpu = w.vcpu[v]
    vm = w.vm[vcpu.vm]
    span = rng.draw(w, vcpu, phase.dist)
    if vm.bursty and phase.option:
        span = (span * (vm.burst_hi_q16 if vcpu.burst else vm.burst_lo_q16)) >> 16
        vcpu.burst_left_ns -= span
        while vcpu.burst_left_ns <= 0:
            vcpu.burst ^= 1
            vcpu.burst_left_ns += max(rng.draw(w, vcpu, vm.burst_dist), 1)
    if phase.kernel_q16 <= 0:
        vcpu.ring0 = 0
    elif phase.kernel_q16 >= 65536:
        vcpu.ring0 = 1
    else:
        vcpu.ring0 = 1 if rng.next32(vcpu) >> 16 < phase.kernel_q16 else 0
    if vcpu.ring0:
        vcpu.kernel_ns += span
    if vcpu.rewarm_debt_ns > 0:
        slower = min(vcpu.rewarm_debt_ns, span)
        vcpu.rewarm_debt_ns -= slower
        vm.rewarm_spent_ns += slower
        span += slower
    if span <= 0:
        return False
    vcpu.act = ACT_COMPUTE
    vcpu.t_end_ns = now + span
    activity.set_event(w, v)
    return True


@jit
def _held(w: World, v: int, phase: Phase) -> int:
    """The lock of the phase's group that the vCPU holds."""
    first = w.vm[w.vcpu[v].vm].locks + phase.a
    k = w.vcpu[v].held_lock
    if k >= first and k < first + phase.b and w.lock[k].owner == v:
        return k
    k = first
    while w.lock[k].owner != v:
        k += 1
    return k


@jit
def _block(w: World, v: int, phase: Phase, now: int) -> None:
    """Halt until a timer; with guest tasks the task waits for one of its own."""
    vcpu = w.vcpu[v]
    w.vm[vcpu.vm].halts += 1
    if w.vm[vcpu.vm].tasks > 0:
        tasks.sleep(w, v, now + max(rng.draw(w, vcpu, phase.dist), 1), now)
        return
    vcpu.wake_ns = now + max(rng.draw(w, vcpu, phase.dist), 1)
    events.set_time(w, int64(vcpu.leaf), vcpu.wake_ns)
    activity.halt(w, v, now)


@jit
def timer_fired(w: World, v: int, now: int) -> None:
    """The timer of a Block phase: an interrupt, and the end of the phase."""
    vcpu = w.vcpu[v]
    vcpu.wake_ns = INF
    events.set_time(w, int64(vcpu.leaf), INF)
    if w.vm[vcpu.vm].is_task == 0:
        vcpu.timer_pending = 1
    activity.release(w, v, now)
    if w.vm[vcpu.vm].is_task == 0:
        ipi.deliver(w, v, now)


@jit
def task_timer_fired(w: World, t: int, now: int) -> None:
    """The timer of a guest task's Block phase: an interrupt of its vCPU, and the task is runnable."""
    v = int64(w.task[t].home)
    tasks.timer_ended(w, t)
    w.vcpu[v].timer_pending = 1
    tasks.wake(w, t, now)
    ipi.deliver(w, v, now)


@jit
def start(w: World, v: int) -> None:
    """Set a new vCPU before its first phase; it enters when it first runs."""
    vcpu = w.vcpu[v]
    vcpu.pc = vcpu.role_start
    vcpu.act = ACT_COMPUTE
    vcpu.t_end_ns = 0
    vcpu.state = BLOCKED
    vcpu.wake_ns = INF
    vcpu.irq_arrived_ns = INF
    vcpu.lhp_since_ns = INF
    vcpu.task = NONE
    vcpu.run_head = NONE
    vcpu.run_tail = NONE
    vcpu.wait_lock = NONE
    vcpu.wait_gate = NONE
    vcpu.wait_next = NONE
    vcpu.wait_prev = NONE
    vcpu.held_lock = NONE
    vcpu.ipi_receiver = NONE
    vcpu.ipi_sender = NONE
    vcpu.tried_serial = NONE
