"""Scheduling entities and their queues: what every fair scheduler of kvmgym shares.

Models the parts of kernel/sched/fair.c that CFS and EEVDF have in common: virtual time by weight, two levels of queues
with their sums, shares of groups. A queue's `moment` counts from its zero_vruntime_ns, so that V follows from it. Left
out: idle and throttled entities, SCHED_BATCH, PELT of single entities (a VM's load is one decayed average).
"""

from __future__ import annotations

import numpy as np

from kvmgym.core.jit import jit
from kvmgym.core.layout import NONE
from kvmgym.core.memory import World
from kvmgym.core.records import Vm, int64

_UNIT = 1024  # weight of nice 0
_PERIOD_SHIFT = 20  # load averages decay in periods of 2^20 ns, by half in 32 of them
_DECAY_Q16 = np.array([round(65536 * 0.5 ** (n / 32)) for n in range(32)], dtype=np.int64)


@jit
def fair(delta_ns: int, weight: int) -> int:
    """Virtual time that `delta_ns` of running is worth at `weight` (calc_delta_fair)."""
    if weight == _UNIT:
        return delta_ns
    return delta_ns * _UNIT // weight


@jit
def own_queue(w: World, k: int) -> int:
    """The queue of a group entity, NONE for a vCPU."""
    first_group = w.par[0].vcpus
    return w.par[0].pcpus + k - first_group if k >= first_group else NONE


@jit
def owner(w: World, rq: int) -> int:
    """The group entity that a queue belongs to, NONE for a root queue."""
    first_group = w.par[0].pcpus
    return w.par[0].vcpus + rq - first_group if rq >= first_group else NONE


@jit
def parent(w: World, k: int) -> int:
    """The group entity above an entity that is queued or was, or NONE."""
    return owner(w, w.se[k].rq)


@jit
def average(w: World, rq: int) -> int:
    """V of a queue, the current entity included (avg_vruntime); that of an empty one is its last."""
    queue = w.rq[rq]
    if queue.load == 0:
        return queue.zero_vruntime_ns
    return queue.zero_vruntime_ns + queue.moment // queue.load


@jit
def link(w: World, rq: int, k: int) -> None:
    """Put an entity at the head of a queue's list, and into its sums."""
    queue, se = w.rq[rq], w.se[k]
    queue.load += se.weight
    queue.moment += se.weight * (se.vruntime_ns - queue.zero_vruntime_ns)
    se.rq = rq
    se.prev = NONE
    se.next = queue.head
    if queue.head != NONE:
        w.se[queue.head].prev = k
    queue.head = k
    queue.nr += 1
    se.on_rq = 1


@jit
def unlink(w: World, k: int) -> None:
    """The reverse."""
    se = w.se[k]
    queue = w.rq[se.rq]
    queue.load -= se.weight
    queue.moment -= se.weight * (se.vruntime_ns - queue.zero_vruntime_ns)
    if se.prev != NONE:
        w.se[se.prev].next = se.next
    else:
        queue.head = se.next
    if se.next != NONE:
        w.se[se.next].prev = se.prev
    queue.nr -= 1
    se.on_rq = 0


@jit
def set_next_buddy(w: World, k: int) -> None:
    """Name an entity, and all groups above it, as what should run next on its pCPU (set_next_buddy)."""
    while k != NONE:
        w.rq[w.se[k].rq].next_buddy = k
        k = parent(w, k)


@jit
def meeting(w: World, k: int, c: int) -> tuple[int, int]:
    """The entities of two chains on one pCPU at the level where they share a queue (find_matching_se)."""
    if w.se[k].rq == w.se[c].rq:
        return k, c
    above_k, above_c = parent(w, k), parent(w, c)
    return (k if above_k == NONE else above_k), (c if above_c == NONE else above_c)


@jit
def put_prev(w: World, prev: int, chosen: int) -> None:
    """What ran and is not on the chain of what was chosen is current no more (put_prev_entity)."""
    k = prev
    while k != NONE:
        if w.rq[w.se[k].rq].curr == k:
            parent_of_chosen = NONE if chosen == NONE else parent(w, chosen)
            if k != chosen and k != parent_of_chosen:
                w.rq[w.se[k].rq].curr = NONE
        k = parent(w, k)


@jit
def set_runnable(w: World, v: int, change: int, now: int) -> None:
    """Count a vCPU in or out of the runnable ones of its VM, whose decayed load is brought up to date first."""
    vm = w.vm[w.vcpu[v].vm]
    decay_load(vm, now)
    vm.nr_runnable += change
    w.rq[w.se[v].rq].nr_runnable += change


@jit
def decay_load(vm: Vm, now: int) -> None:
    """Bring the decayed average of a VM's runnable vCPUs up to date."""
    period = now >> _PERIOD_SHIFT
    passed = period - vm.load_period
    if passed > 0:
        vm.load_period = period
        target = vm.nr_runnable * _UNIT
        gap = vm.load_x1024 - target
        if passed >= 32 * 20:
            gap = 0
        else:
            gap = (gap * _DECAY_Q16[passed & 31]) // 65536 // (1 << (passed >> 5))
        vm.load_x1024 = target + gap


@jit
def group_weight(w: World, k: int, now: int) -> int:
    """calc_group_shares: the VM's shares, in the proportion of its load that is on this pCPU."""
    queue = w.rq[own_queue(w, k)]
    vm = w.vm[(k - w.par[0].vcpus) // w.par[0].pcpus]
    decay_load(vm, now)
    local = queue.nr_runnable * _UNIT
    if local == 0:
        return int64(w.se[k].weight)
    load = max(vm.load_x1024, local)
    return min(max(vm.shares * local // load, 2), int64(vm.shares))
