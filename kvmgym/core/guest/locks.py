"""Guest locks: unfair test-and-set, FIFO (ticket or queued), pvqspinlock (spin, halt, be kicked), and a user mutex.

The kind decides what preemption does: a tas lock passes over waiters that do not run, a FIFO lock waits for the one
whose turn it is. pvqspinlock's lock stealing is left out: its queue is strict here.
"""

from __future__ import annotations

from kvmgym.codes import MUTEX, PVQ, TAS
from kvmgym.core import account, layout, rng
from kvmgym.core.guest import activity, ipi
from kvmgym.core.jit import jit
from kvmgym.core.layout import ACT_HALT, ACT_SPIN_LOCK, HIST_LOCK, INF, NONE, RUNNING
from kvmgym.core.memory import World
from kvmgym.core.records import Lock, Vcpu, int64


@jit
def take(w: World, v: int, k: int, irq_off: int, now: int) -> bool:
    """Take lock `k`, or begin to wait for it. True when taken."""
    vcpu, lock = w.vcpu[v], w.lock[k]
    if lock.kind != MUTEX:
        vcpu.ring0 = 1
        vcpu.irq_off += irq_off
    if lock.owner == NONE:
        _own(w, v, k)
        return True
    vcpu.wait_lock = k
    vcpu.wait_since_ns = now
    account.count_waiting(lock, 1, now)
    activity.append_waiter(w, lock, v)
    account.note(w, layout.TR_WAIT, v, k)
    _look_for_cycle(w, v)
    wait_on(w, v, now)
    return False


@jit
def wait_on(w: World, v: int, now: int) -> None:
    """Spin for the lock that `v` is queued at, or halt for a mutex."""
    lock = w.lock[w.vcpu[v].wait_lock]
    if lock.kind == MUTEX:
        activity.halt_for_another(w, v, now)
    else:
        budget = w.vm[w.vcpu[v].vm].pv_spin_ns if lock.kind == PVQ else INF
        activity.spin(w, v, ACT_SPIN_LOCK, budget, now)


@jit
def look_again(w: World, v: int, now: int) -> None:
    """The guest of a tas spinner goes on after the host interrupted it: take the lock if it is free."""
    vcpu = w.vcpu[v]
    vcpu.resume_check = 0
    w.host[0].events += 1
    if w.lock[vcpu.wait_lock].owner == NONE:
        _grant(w, v, now)
    else:
        activity.set_event(w, v)


@jit
def retry(w: World, v: int, now: int) -> bool:
    """A vCPU that was woken for a mutex tries again; the first in line when it fails. True when taken."""
    vcpu = w.vcpu[v]
    k = vcpu.wait_lock
    lock = w.lock[k]
    vcpu.retry = 0
    if lock.owner == NONE:
        _end_wait(w, v, now)
        _own(w, v, k)
        return True
    vcpu.wait_prev = NONE
    vcpu.wait_next = lock.head
    if lock.head == NONE:
        lock.tail = v
    else:
        w.vcpu[lock.head].wait_prev = v
    lock.head = v
    wait_on(w, v, now)
    return False


@jit
def pass_on(w: World, v: int, k: int, irq_off: int, now: int) -> None:
    """Release lock `k`: to a running waiter (tas, by lot), the first waiter (fifo, pvq), or for all to try (mutex)."""
    lock, vcpu = w.lock[k], w.vcpu[v]
    lock.owner = NONE
    account.note(w, layout.TR_UNLOCK, v, k)
    if lock.kind == MUTEX:
        if lock.head != NONE:
            first = int64(lock.head)
            activity.remove_waiter(w, lock, first)
            w.vcpu[first].retry = 1
            w.vm[vcpu.vm].nr_waiting -= 1
            activity.release(w, first, now)
            ipi.kick(w, v, first, now)
        return
    vcpu.irq_off -= irq_off
    vcpu.holds -= 1
    if lock.head == NONE:
        return
    if lock.kind == TAS:
        winner = _running_waiter(w, lock, now)
        if winner != NONE:
            _grant(w, winner, now)
        return
    first = int64(lock.head)
    halted = w.vcpu[first].act == ACT_HALT
    _grant(w, first, now)
    if halted:
        account.charge(w, v, w.par[0].ipi_ns, now)
        if w.vm[vcpu.vm].pv_kick_yields:
            ipi.yield_named(w, v, first, now)


@jit
def _own(w: World, v: int, k: int) -> None:
    vcpu, lock = w.vcpu[v], w.lock[k]
    account.note(w, layout.TR_LOCK, v, k)
    lock.owner = v
    lock.acquires += 1
    vcpu.held_lock = k
    if lock.kind == MUTEX:
        w.vm[vcpu.vm].mutex_acquires += 1
    else:
        w.vm[vcpu.vm].lock_acquires += 1
        vcpu.holds += 1


@jit
def _end_wait(w: World, v: int, now: int) -> None:
    vcpu = w.vcpu[v]
    lock = w.lock[vcpu.wait_lock]
    account.count_waiting(lock, -1, now)
    lock.contended += 1
    lock.wait_sum_ns += now - max(vcpu.wait_since_ns, w.host[0].window_since_ns)
    account.observe(w, vcpu.vm, HIST_LOCK, now - vcpu.wait_since_ns)
    vcpu.wait_lock = NONE


@jit
def _grant(w: World, v: int, now: int) -> None:
    """Give the lock to a waiter; one that does not run holds it all the same (a preempted holder)."""
    vcpu = w.vcpu[v]
    k = vcpu.wait_lock
    activity.remove_waiter(w, w.lock[k], v)
    _end_wait(w, v, now)
    _own(w, v, k)
    w.vm[vcpu.vm].nr_waiting -= 1
    if vcpu.state != RUNNING:
        vcpu.lhp_since_ns = min(vcpu.lhp_since_ns, now)
    activity.release(w, v, now)


@jit
def _running_waiter(w: World, lock: Lock, now: int) -> int:
    """One of the waiters whose guests run at this instant, by lot; NONE without one."""
    live = 0
    v = int64(lock.head)
    while v != NONE:
        live += 1 if _is_live(w.vcpu[v], now) else 0
        v = w.vcpu[v].wait_next
    if live == 0:
        return NONE
    skip = rng.below(lock, live) if live > 1 else 0
    v = int64(lock.head)
    while True:
        if _is_live(w.vcpu[v], now):
            if skip == 0:
                return v
            skip -= 1
        v = w.vcpu[v].wait_next


@jit
def _is_live(vcpu: Vcpu, now: int) -> bool:
    return vcpu.state == RUNNING and vcpu.in_irq == 0 and vcpu.overhead_until_ns <= now


@jit
def _look_for_cycle(w: World, v: int) -> None:
    """Report a deadlock when the chain of owners and what they wait for comes back to `v`."""
    k = w.vcpu[v].wait_lock
    for _ in range(w.par[0].locks + 1):
        owner = int64(w.lock[k].owner)
        if owner == NONE:
            return
        if owner == v:
            w.host[0].deadlock_vm = w.vcpu[v].vm
            return
        k = w.vcpu[owner].wait_lock
        if k == NONE:
            return
