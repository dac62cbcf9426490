"""What a policy may be shown at an attempt besides the records: run-queue lags, and what the spinner truly waits for.

Both cost time, so they are worked out only for policies that ask (host.shows), and nothing here changes the course of
the world. What the spinner waits for is privileged: a host cannot see it.
"""

from __future__ import annotations

from kvmgym.codes import FIFO, PVQ
from kvmgym.core import account
from kvmgym.core.host import entities, fair
from kvmgym.core.jit import jit
from kvmgym.core.layout import ACT_SPIN_ACK, ACT_SPIN_BARRIER, ACT_SPIN_LOCK, NONE, READY, RUNNING, SHOW_GUEST, SHOW_LAG
from kvmgym.core.memory import World
from kvmgym.core.records import int64

_HOPS = 8  # how far a chain of waits is followed


@jit
def show(w: World) -> None:
    """Fill in what host.shows asks for, before an attempt of the open spin exit."""
    ask = w.ask[0]
    vm = w.vm[ask.vm]
    if w.host[0].shows & SHOW_LAG:
        for v in range(vm.first, vm.first + vm.vcpus):
            w.vcpu[v].lag_ns = lag_ns(w, v)
    if w.host[0].shows & SHOW_GUEST:
        v = waits_for(w, vm.first + ask.me)
        ask.waits_for = NONE if v == NONE else v - vm.first


@jit
def lag_ns(w: World, v: int) -> int:
    """The least V - vruntime of a queued vCPU over the levels of its chain, as of the last update of each queue [ns at
    weight 1024]; positive or 0: eligible throughout. 0 when it is not queued."""
    return standing(w, v)[0]


@jit
def standing(w: World, v: int) -> tuple[int, int]:
    """`lag_ns`, and how far what the pick goes by (EEVDF: the deadline) is ahead of V at the
    highest level [same]."""
    least = int64(0)
    ahead = int64(0)
    first = True
    k = int64(v)
    while k != NONE and w.se[k].on_rq:
        se = w.se[k]
        average = se.vruntime_ns if w.rq[se.rq].nr == 1 else entities.average(w, se.rq)
        lag = average - se.vruntime_ns
        least = lag if first else min(least, lag)
        ahead = fair.rank_ns(w, k) - average
        first = False
        k = entities.owner(w, se.rq)
    return least, ahead


@jit
def waits_for(w: World, v: int) -> int:
    """The vCPU that would have to run for the spin of `v` to end: the holder of its lock, the first preempted one
    before it in the lock's queue, a receiver that has not acknowledged, one that has not come to the barrier. Chains of
    waits are followed to a vCPU that does not spin; if that runs, the last ready one on the way. NONE when all run."""
    awaited = NONE
    for _ in range(_HOPS):
        v = _next_in_chain(w, v)
        if v == NONE:
            return awaited
        if w.vcpu[v].state == READY:
            awaited = v
        if not account.spinning(w.vcpu[v]):
            return v if w.vcpu[v].state == READY else awaited
    return awaited


@jit
def _next_in_chain(w: World, v: int) -> int:
    act = w.vcpu[v].act
    if act == ACT_SPIN_LOCK:
        return _before_in_line(w, v)
    if act == ACT_SPIN_ACK:
        return _unacknowledged(w, v)
    if act == ACT_SPIN_BARRIER:
        return _missing(w, v)
    return NONE


@jit
def _before_in_line(w: World, v: int) -> int:
    """The holder of the lock that `v` spins for; if that runs, the first in line before `v` that does not."""
    lock = w.lock[w.vcpu[v].wait_lock]
    owner = int64(lock.owner)
    if owner == NONE or w.vcpu[owner].state != RUNNING or account.spinning(w.vcpu[owner]):
        return owner
    if lock.kind == FIFO or lock.kind == PVQ:
        i = int64(lock.head)
        while i != NONE and i != v:
            if w.vcpu[i].state == READY:
                return i
            i = int64(w.vcpu[i].wait_next)
    return owner


@jit
def _unacknowledged(w: World, v: int) -> int:
    """Of the vCPUs that owe `v` an acknowledgement the one that is ready for the longest time, or NONE."""
    vm, words = w.vm[w.vcpu[v].vm], w.par[0].pend_words
    word, bit = w.vcpu[v].idx >> 5, w.vcpu[v].idx & 31
    best = NONE
    for r in range(vm.first, vm.first + vm.vcpus):
        owed = (w.pend[r * words + word] | w.serve[r * words + word]) >> bit
        if owed & 1 and w.vcpu[r].state == READY:
            if best == NONE or w.vcpu[r].ready_since_ns < w.vcpu[best].ready_since_ns:
                best = int64(r)
    return best


@jit
def _missing(w: World, v: int) -> int:
    """Of the vCPUs that do not wait at the barrier of `v` (its parties, where every role uses it) the one that is ready
    for the longest time, or NONE."""
    vm, gate = w.vm[w.vcpu[v].vm], w.vcpu[v].wait_gate
    best = NONE
    for r in range(vm.first, vm.first + vm.vcpus):
        if w.vcpu[r].wait_gate != gate and w.vcpu[r].state == READY:
            if best == NONE or w.vcpu[r].ready_since_ns < w.vcpu[best].ready_since_ns:
                best = int64(r)
    return best
