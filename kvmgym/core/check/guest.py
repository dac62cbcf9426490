"""Invariants of the guests: flags, waits, interrupts, times, locks, queues and barriers. Nothing here writes."""

from __future__ import annotations

from kvmgym.codes import MUTEX, TAS
from kvmgym.core import account
from kvmgym.core.check.violations import (
    ACKS,
    ACTIVITY,
    BLOCKED_FLAGS,
    GATE_LEVEL,
    GATE_LIST,
    GOALS,
    HANDLER,
    HOLDS,
    LHP,
    LOCK_FREE,
    LOCK_LIST,
    LOCK_OWNER,
    LOCK_PASSED,
    LOST_WAKEUP,
    PENDING,
    PLE_WINDOW,
    POLLING,
    READY_FLAGS,
    RUNNING_FLAGS,
    SERVING,
    SPIN_LOOP,
    SPIN_TIME,
    TIME_LEFT,
    TIMER,
    VCPU_TIME,
    VM_COUNTS,
    VM_LOAD,
    at,
)
from kvmgym.core.guest import activity
from kvmgym.core.jit import jit
from kvmgym.core.layout import (
    ACT_COMPUTE,
    ACT_HALT,
    ACT_SEND,
    ACT_SPIN_ACK,
    ACT_SPIN_BARRIER,
    ACT_SPIN_LOCK,
    BLOCKED,
    INF,
    NONE,
    PH_BARRIER,
    PH_BLOCK,
    PH_GET,
    READY,
    RUNNING,
    VECTOR_CALL,
)
from kvmgym.core.memory import World


@jit
def vcpu(w: World, v: int) -> int:
    """One vCPU: flags, waits, interrupts, times."""
    fault = _flags(w, v)
    if fault == 0:
        fault = _waits(w, v)
    if fault == 0:
        fault = _interrupts(w, v)
    return _times(w, v) if fault == 0 else fault


@jit
def _flags(w: World, v: int) -> int:
    """KVM's flags of a vCPU against its state."""
    vcpu, par, ask = w.vcpu[v], w.par[0], w.ask[0]
    on_pcpu = w.pcpu[vcpu.pcpu].curr == v
    if vcpu.state == RUNNING:
        if not on_pcpu or vcpu.ready or vcpu.preempted or vcpu.blocking or vcpu.woken:
            return at(RUNNING_FLAGS, v)
        if vcpu.ple_window_ns < par.ple_window_ns or vcpu.ple_window_ns > par.ple_max_ns:
            return at(PLE_WINDOW, v)
    elif vcpu.state == READY:
        if on_pcpu or vcpu.ready == 0 or vcpu.blocking or (vcpu.woken and vcpu.preempted):
            return at(READY_FLAGS, v)
    elif vcpu.ready or vcpu.preempted or vcpu.blocking == 0 or vcpu.act != ACT_HALT:
        return at(BLOCKED_FLAGS, v)
    if vcpu.in_spin_loop:
        asks = ask.open and ask.vm == vcpu.vm and ask.me == vcpu.idx
        leaving = vcpu.state == RUNNING and w.pcpu[vcpu.pcpu].need_resched
        if not (asks or leaving or (vcpu.state == READY and vcpu.preempted)):
            return at(SPIN_LOOP, v)
    elif vcpu.dy_eligible:
        return at(SPIN_LOOP, v)
    polls = vcpu.state == RUNNING and vcpu.act == ACT_HALT and vcpu.in_irq == 0
    if (vcpu.polling and not polls) or vcpu.poll_ns < 0 or vcpu.poll_ns > par.poll_max_ns:
        return at(POLLING, v)
    held_off = vcpu.holds > 0 and vcpu.state != RUNNING
    return 0 if held_off == (vcpu.lhp_since_ns != INF) or (held_off and on_pcpu) else at(LHP, v)


@jit
def _waits(w: World, v: int) -> int:
    """What a vCPU waits for exists and will release it; one that does not wait has nothing to wait for."""
    vcpu = w.vcpu[v]
    act, kind = vcpu.act, w.phase[vcpu.pc].kind
    queued = vcpu.wait_lock != NONE and vcpu.retry == 0
    mutex = vcpu.wait_lock != NONE and w.lock[vcpu.wait_lock].kind == MUTEX
    gated = vcpu.wait_gate != NONE
    timed = vcpu.wake_ns != INF
    if timed and (kind != PH_BLOCK or act != ACT_HALT):
        return at(TIMER, v)
    if vcpu.retry and (not mutex or act != ACT_COMPUTE):
        return at(ACTIVITY, v)
    reasons = (1 if queued else 0) + (1 if gated else 0) + (1 if timed else 0)
    if act == ACT_COMPUTE or act == ACT_SEND:
        return 0 if reasons == 0 else at(ACTIVITY, v)
    if act == ACT_SPIN_ACK:
        return 0 if vcpu.acks_left > 0 and reasons == 0 else at(LOST_WAKEUP, v)
    if act == ACT_HALT and w.vm[vcpu.vm].tasks > 0 and vcpu.task == NONE:  # nothing to run
        return 0 if reasons == 0 and vcpu.run_head == NONE else at(LOST_WAKEUP, v)
    if reasons != 1 or vcpu.acks_left != 0:
        return at(LOST_WAKEUP, v)
    if (act == ACT_SPIN_LOCK and (not queued or mutex)) or (act == ACT_SPIN_BARRIER and kind != PH_BARRIER):
        return at(LOST_WAKEUP, v)
    if act == ACT_HALT and queued and w.lock[vcpu.wait_lock].kind != MUTEX and w.lock[vcpu.wait_lock].owner == NONE:
        return at(LOST_WAKEUP, v)
    return 0


@jit
def _interrupts(w: World, v: int) -> int:
    """Interrupts of one vCPU: taken as soon as they may be, served in a handler, acknowledgements accounted for."""
    vcpu, words = w.vcpu[v], w.par[0].pend_words
    waiting = activity.has_interrupt(w, v)
    may_wait = vcpu.state == READY or vcpu.irq_off > 0 or vcpu.in_irq == 1
    if waiting != (vcpu.irq_arrived_ns != INF) or (waiting and not may_wait):
        return at(PENDING, v)
    if vcpu.in_irq and (vcpu.state == BLOCKED or not (vcpu.irq_call or vcpu.irq_resched or vcpu.irq_timer)):
        return at(HANDLER, v)
    goals = 0
    for i in range(v * words, (v + 1) * words):
        goals += _bits(w.goal[i])
        if w.serve[i] != 0 and not (vcpu.in_irq and vcpu.irq_call):
            return at(SERVING, v)
    if (goals > 0) != (vcpu.act == ACT_SEND):
        return at(GOALS, v)
    if vcpu.acks_left == 0 and (goals == 0 or vcpu.send_vector != VECTOR_CALL):
        return 0
    owed = goals
    vm = w.vm[vcpu.vm]
    word, bit = vcpu.idx >> 5, vcpu.idx & 31
    for r in range(vm.first, vm.first + vm.vcpus):
        owed += (w.pend[r * words + word] >> bit) & 1
        owed += (w.serve[r * words + word] >> bit) & 1
    awaits = vcpu.send_vector == VECTOR_CALL and (vcpu.act == ACT_SEND or vcpu.act == ACT_SPIN_ACK)
    return 0 if awaits and owed == vcpu.acks_left else at(ACKS, v)


@jit
def _bits(word: int) -> int:
    """How many bits are set."""
    count = 0
    while word != 0:
        word &= word - 1
        count += 1
    return count


@jit
def _times(w: World, v: int) -> int:
    """One vCPU's times: ends in the future, nothing negative left, and where the past went."""
    vcpu, now = w.vcpu[v], w.host[0].now_ns
    from_ns = now if vcpu.state == RUNNING else 0
    if vcpu.in_irq and vcpu.irq_end_ns < from_ns:
        return at(TIME_LEFT, v)
    if vcpu.act == ACT_COMPUTE or vcpu.act == ACT_SEND:
        if vcpu.t_end_ns < from_ns or (vcpu.in_irq and vcpu.t_end_ns < vcpu.irq_end_ns):
            return at(TIME_LEFT, v)
    elif vcpu.act != ACT_HALT and vcpu.spin_budget_ns < 0:
        return at(TIME_LEFT, v)
    here = now - vcpu.state_since_ns
    if here < 0 or vcpu.run_ns + vcpu.ready_ns + vcpu.blocked_ns != vcpu.state_since_ns - w.host[0].window_since_ns:
        return at(VCPU_TIME, v)
    unspent = 0
    ran = vcpu.run_ns
    if vcpu.state == RUNNING:
        ran += here
        unspent = max(0, vcpu.overhead_until_ns - now)
    worked = vcpu.overhead_ns - unspent
    spun = vcpu.spin_ns + account.spun_since(vcpu, now)
    return 0 if spun >= 0 and worked >= 0 and spun + worked <= ran else at(SPIN_TIME, v)


@jit
def lock(w: World, k: int) -> int:
    """One lock: its owner, its waiters, and that a free one is not waited for in vain."""
    lock, now = w.lock[k], w.host[0].now_ns
    if lock.owner != NONE and (
        w.vcpu[lock.owner].vm != lock.vm or (lock.kind != MUTEX and w.vcpu[lock.owner].holds == 0)
    ):
        return at(LOCK_OWNER, k)
    vm = w.vm[lock.vm]
    listed = 0
    trying = 0
    for v in range(vm.first, vm.first + vm.vcpus):
        if w.vcpu[v].wait_lock == k:
            trying += 1 if w.vcpu[v].retry else 0
            listed += 0 if w.vcpu[v].retry else 1
    if lock.waiting != listed + trying:
        return at(LOCK_LIST, k)
    before = NONE
    v = lock.head
    while v != NONE:
        vcpu = w.vcpu[v]
        if listed == 0 or vcpu.wait_lock != k or vcpu.retry or vcpu.wait_prev != before:
            return at(LOCK_LIST, k)
        if lock.owner == NONE and lock.kind == TAS and vcpu.state == RUNNING and vcpu.in_irq == 0:
            looks_ns = max(vcpu.spin_from_ns, vcpu.overhead_until_ns)
            if vcpu.resume_check == 0 or looks_ns < now:
                return at(LOCK_PASSED, k)
        listed -= 1
        before = v
        v = vcpu.wait_next
    if listed != 0 or lock.tail != before:
        return at(LOCK_LIST, k)
    in_vain = lock.owner == NONE and lock.waiting > 0 and lock.kind != TAS and trying == 0
    return at(LOCK_FREE, k) if in_vain else 0


@jit
def gate(w: World, k: int) -> int:
    """One queue or barrier: the list of its waiters, who all wait for the same, and that its level justifies it."""
    gate = w.gate[k]
    if gate.of_tasks:
        return 0
    waiting = 0
    for v in range(w.par[0].vcpus):
        waiting += 1 if w.vcpu[v].wait_gate == k else 0
    if gate.waiting != waiting or gate.level < 0 or gate.level > gate.capacity:
        return at(GATE_LIST, k)
    kind = PH_BARRIER if gate.head == NONE else w.phase[w.vcpu[gate.head].pc].kind
    before = NONE
    v = gate.head
    while v != NONE:
        vcpu = w.vcpu[v]
        if waiting == 0 or vcpu.wait_gate != k or vcpu.wait_prev != before or w.phase[vcpu.pc].kind != kind:
            return at(GATE_LIST, k)
        waiting -= 1
        before = v
        v = vcpu.wait_next
    if waiting != 0 or gate.tail != before:
        return at(GATE_LIST, k)
    if gate.waiting == 0:
        return 0
    if kind == PH_BARRIER:
        return 0 if gate.level == gate.waiting and gate.level < gate.capacity else at(GATE_LEVEL, k)
    justified = gate.level == 0 if kind == PH_GET else gate.level == gate.capacity
    return 0 if justified else at(GATE_LEVEL, k)


@jit
def vm(w: World, g: int) -> int:
    """One VM: what it counts, its owed acknowledgements, its locks' holders, its queues and barriers."""
    vm, words = w.vm[g], w.par[0].pend_words
    runnable = 0
    waiting = 0
    owed = 0
    for v in range(vm.first, vm.first + vm.vcpus):
        vcpu = w.vcpu[v]
        runnable += 1 if vcpu.state != BLOCKED else 0
        waiting += 1 if vcpu.act == ACT_SPIN_ACK or vcpu.wait_gate != NONE else 0
        waiting += 1 if vcpu.wait_lock != NONE and vcpu.retry == 0 else 0
        owed += vcpu.acks_left
        for i in range(v * words, (v + 1) * words):
            owed -= _bits(w.pend[i]) + _bits(w.serve[i])
            if vcpu.send_vector == VECTOR_CALL:
                owed -= _bits(w.goal[i])
        if not _holds_agree(w, v):
            return at(HOLDS, v)
    if runnable != vm.nr_runnable or waiting != vm.nr_waiting:
        return at(VM_COUNTS, g)
    if owed != 0:
        return at(SERVING, g)
    return 0 if 0 <= vm.load_x1024 <= 1024 * vm.vcpus else at(VM_LOAD, g)


@jit
def _holds_agree(w: World, v: int) -> bool:
    vcpu = w.vcpu[v]
    spins = vcpu.wait_lock != NONE and w.lock[vcpu.wait_lock].kind != MUTEX
    if vcpu.irq_off < 0 or vcpu.irq_off > vcpu.holds + (1 if spins else 0):
        return False
    held = 0
    if vcpu.holds != 0:
        for k in range(w.par[0].locks):
            held += 1 if w.lock[k].owner == v and w.lock[k].kind != MUTEX else 0
    return held == vcpu.holds
