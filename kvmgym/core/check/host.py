"""Invariants of the host: the event law, pCPUs, run queues, and where vCPUs are queued. Nothing here writes."""

from __future__ import annotations

import numpy as np

from kvmgym.codes import SCHED_CFS
from kvmgym.core import events
from kvmgym.core.check.violations import (
    IDLE_LIST,
    LEAF,
    PCPU_COUNTS,
    PCPU_CURR,
    PCPU_EVENT,
    PCPU_IDLE,
    PCPU_LEAF,
    PCPU_TICK,
    PCPU_TIME,
    RESCHED_LIST,
    RQ_BUDDY,
    RQ_COUNTS,
    RQ_CURR,
    RQ_ELIGIBLE,
    RQ_LIST,
    RQ_MIN,
    RQ_OVERFLOW,
    RQ_SUMS,
    SE_DEADLINE,
    SE_GROUP,
    SE_LISTED,
    SE_PLACE,
    SE_STATE,
    TIME_BACK,
    TREE,
    at,
)
from kvmgym.core.guest import activity
from kvmgym.core.host import entities, queues
from kvmgym.core.jit import jit
from kvmgym.core.layout import ACT_COMPUTE, ACT_HALT, ACT_SEND, BLOCKED, INF, NONE, POLL_ENDS, READY, RUNNING
from kvmgym.core.memory import World
from kvmgym.core.records import Numbers, Vcpu, int64

_SAFE = 4.0e18  # products of weights and vruntimes stay below this, clear of 2^63


@jit
def clock(w: World) -> int:
    """The event law: winners, leaves and the next time."""
    n, pcpus, vcpus = w.par[0].leaves, w.par[0].pcpus, w.par[0].vcpus
    for node in range(1, n):
        a = 2 * node - n if 2 * node >= n else w.tree[2 * node]
        b = 2 * node + 1 - n if 2 * node >= n else w.tree[2 * node + 1]
        if w.tree[node] != (a if w.tree_ns[a] <= w.tree_ns[b] else b):
            return at(TREE, node)
    for leaf in range(pcpus, n):
        time_ns = INF
        if leaf < pcpus + vcpus:
            time_ns = w.vcpu[w.by_leaf[leaf - pcpus]].wake_ns
        elif leaf < pcpus + vcpus + w.par[0].tasks:
            time_ns = w.task[w.by_leaf[leaf - pcpus] - vcpus].wake_ns
        if w.tree_ns[leaf] != time_ns:
            return at(LEAF, leaf)
    if w.tree_ns[events.first(w)] < w.host[0].now_ns:
        return at(TIME_BACK, events.first(w))
    return 0


@jit
def pcpu_lists(w: World) -> int:
    """The lists of idle pCPUs and of those that must reschedule hold whom they should, once each."""
    host, pcpus = w.host[0], w.par[0].pcpus
    idle = 0
    empty = 0
    marked = 0
    for p in range(pcpus):
        idle += 1 if w.pcpu[p].idle else 0
        empty += 1 if w.pcpu[p].curr == NONE else 0
        marked += 1 if w.pcpu[p].need_resched else 0
    count = 0
    before = NONE
    p = host.idle_head
    while p != NONE and count <= pcpus:
        if w.pcpu[p].idle == 0 or w.pcpu[p].idle_prev != before:
            return at(IDLE_LIST, p)
        count += 1
        before = p
        p = w.pcpu[p].idle_next
    if count != idle or host.idle_nr != idle or host.empty_nr != empty:
        return at(IDLE_LIST, 0)
    count = 0
    p = host.resched_head
    while p != NONE and count <= pcpus:
        if w.pcpu[p].need_resched == 0 or (w.pcpu[p].resched_next == NONE and p != host.resched_tail):
            return at(RESCHED_LIST, p)
        count += 1
        p = w.pcpu[p].resched_next
    return 0 if count == marked else at(RESCHED_LIST, 0)


@jit
def pcpu(w: World, p: int) -> int:
    """One pCPU: who is on it, what it counts, when it changes next, where its time went."""
    pcpu, now, period = w.pcpu[p], w.host[0].now_ns, w.par[0].tick_ns
    running = 0
    ready = 0
    for v in range(w.par[0].vcpus):
        if w.vcpu[v].pcpu == p:
            running += 1 if w.se[v].on_rq else 0
            ready += 1 if w.vcpu[v].state == READY else 0
    if pcpu.nr_running != running or pcpu.nr_ready != ready:
        return at(PCPU_COUNTS, p)
    here = now - pcpu.curr_since_ns
    if here < 0 or pcpu.used_ns + pcpu.idle_ns + here != now - w.host[0].window_since_ns:
        return at(PCPU_TIME, p)
    if pcpu.curr == NONE or pcpu.idle:
        return 0 if _idle_fits(w, p) else at(PCPU_IDLE, p)
    vcpu = w.vcpu[pcpu.curr]
    if vcpu.pcpu != p or not (vcpu.state == RUNNING or (vcpu.state == BLOCKED and pcpu.need_resched)):
        return at(PCPU_CURR, p)
    if pcpu.overhead_ns - max(0, vcpu.overhead_until_ns - now) > pcpu.used_ns + here:
        return at(PCPU_TIME, p)
    if pcpu.next_tick_ns - now > period or (pcpu.next_tick_ns - pcpu.tick_offset_ns) % period != 0:
        return at(PCPU_TICK, p)
    if not _settled(w, p):
        return 0
    if w.tree_ns[p] != min(pcpu.ev_ns, pcpu.next_tick_ns):
        return at(PCPU_LEAF, p)
    return 0 if pcpu.ev_ns == _next_change(w, vcpu) else at(PCPU_EVENT, p)


@jit
def _idle_fits(w: World, p: int) -> bool:
    """True when a pCPU that nobody runs on sleeps with nothing to do, or wakes up for a vCPU, or is to pick one."""
    pcpu = w.pcpu[p]
    if pcpu.curr != NONE or pcpu.next_tick_ns != INF:
        return False
    if pcpu.idle:
        return pcpu.need_resched == 0 and pcpu.nr_running == 0 and w.tree_ns[p] == INF
    return pcpu.need_resched == 1 or w.tree_ns[p] <= w.host[0].now_ns + w.par[0].wake_ns


@jit
def _next_change(w: World, vcpu: Vcpu) -> int:
    """When the guest of a running vCPU does something next [ns]."""
    if vcpu.in_irq:
        return vcpu.irq_end_ns
    if vcpu.act == ACT_COMPUTE or vcpu.act == ACT_SEND:
        return vcpu.t_end_ns
    if vcpu.act == ACT_HALT and vcpu.polling == POLL_ENDS:
        return w.host[0].now_ns
    if vcpu.act == ACT_HALT or activity.must_look(w, vcpu):
        return max(vcpu.spin_from_ns, vcpu.overhead_until_ns)
    patience = vcpu.spin_budget_ns
    if activity.ple_watches(w, vcpu):
        patience = min(patience, vcpu.ple_window_ns)
    return min(vcpu.spin_from_ns + patience, INF)


@jit
def _settled(w: World, p: int) -> bool:
    """True when pCPU `p` neither must reschedule nor has a spin exit open."""
    ask = w.ask[0]
    return w.pcpu[p].need_resched == 0 and not (ask.open and w.vcpu[w.vm[ask.vm].first + ask.me].pcpu == p)


@jit
def run_queues(w: World) -> int:
    """All run queues of both levels, and that no queued entity is missing from them."""
    listed = 0
    for rq in range(w.par[0].pcpus * (1 + w.par[0].vms)):
        fault = _queue(w, rq)
        if fault != 0:
            return fault
        listed += w.rq[rq].nr
    first_group = w.par[0].vcpus
    for k in range(first_group + w.par[0].vms * w.par[0].pcpus):
        se = w.se[k]
        listed -= 1 if se.on_rq else 0
        if k >= first_group:
            nr = w.rq[entities.own_queue(w, k)].nr
            if (se.on_rq == 1) != (nr > 0 or se.delayed == 1) or (se.delayed and nr > 0):
                return at(SE_GROUP, k)
            if se.on_rq and (se.weight < 2 or se.weight > w.vm[(k - first_group) // w.par[0].pcpus].shares):
                return at(SE_GROUP, k)
    return 0 if listed == 0 else at(SE_LISTED, 0)


@jit
def tally(w: World, rq: int) -> tuple[int, int]:
    """What `load` and `moment` of a queue should be, entity by entity."""
    queue = w.rq[rq]
    load = 0
    moment = 0
    k = int64(queue.head)
    while k != NONE:
        se = w.se[k]
        load += se.weight
        moment += se.weight * (se.vruntime_ns - queue.zero_vruntime_ns)
        k = int64(se.next)
    return load, moment


@jit
def _queue(w: World, rq: int) -> int:
    """One run queue: its list, counts, current entity, buddies, deadlines or min_vruntime, and eligibility."""
    queue = w.rq[rq]
    limit = w.par[0].vcpus + w.par[0].vms
    nr = 0
    runnable = 0
    cfs = w.par[0].scheduler == SCHED_CFS
    strays = 0  # buddies that are not found in the list
    for buddy in (queue.next_buddy, queue.last_buddy, queue.skip_buddy):
        strays += 1 if buddy != NONE else 0
    least = 0
    before = NONE
    k = int64(queue.head)
    while k != NONE:
        se = w.se[k]
        if nr == limit or se.rq != rq or se.on_rq == 0 or se.prev != before:
            return at(RQ_LIST, rq)
        if se.rel_deadline or (not cfs and se.vruntime_ns > se.deadline_ns):
            return at(SE_DEADLINE, k)
        nr += 1
        runnable += 1 if entities.own_queue(w, k) == NONE and se.delayed == 0 else 0
        strays -= 1 if queue.next_buddy == k and se.delayed == 0 else 0
        if cfs:
            strays -= (1 if queue.last_buddy == k else 0) + (1 if queue.skip_buddy == k else 0)
        ahead = se.vruntime_ns - queue.zero_vruntime_ns
        least = ahead if nr == 1 else min(least, ahead)
        if abs(float(ahead)) * max(queue.load, se.weight) > _SAFE:
            return at(RQ_OVERFLOW, rq)
        before = k
        k = int64(se.next)
    if nr != queue.nr or runnable != queue.nr_runnable:
        return at(RQ_COUNTS, rq)
    if strays != 0:
        return at(RQ_BUDDY, rq)
    if cfs and nr > 0 and least < -(w.par[0].latency_ns >> 1):
        return at(RQ_MIN, rq)
    load, moment = tally(w, rq)
    if nr > 0 and load * least > moment:
        return at(RQ_ELIGIBLE, rq)
    if load != queue.load or moment != queue.moment:
        return at(RQ_SUMS, rq)
    return 0 if _current_agrees(w, rq) else at(RQ_CURR, rq)


@jit
def floors(w: World) -> Numbers:
    """min_vruntime of every run queue, int64 [P + G*P]; nothing of use under EEVDF, which has none."""
    found = np.zeros(w.par[0].pcpus * (1 + w.par[0].vms), np.int64)
    for rq in range(found.size):
        found[rq] = w.rq[rq].zero_vruntime_ns
    return found


@jit
def min_vruntimes(w: World, before: Numbers) -> int:
    """Under CFS none is lower than it was `before` (`floors`), which is brought up to date."""
    if w.par[0].scheduler != SCHED_CFS:
        return 0
    for rq in range(before.size):
        if w.rq[rq].zero_vruntime_ns < before[rq]:
            return at(RQ_MIN, rq)
        before[rq] = w.rq[rq].zero_vruntime_ns
    return 0


@jit
def _current_agrees(w: World, rq: int) -> bool:
    """True when the queue's current entity is the running vCPU of its pCPU, or that vCPU's group, or none."""
    v = w.pcpu[rq % w.par[0].pcpus].curr
    curr = w.rq[rq].curr
    if v == NONE:
        return curr == NONE
    group = entities.parent(w, v)
    if w.vcpu[v].state != RUNNING:  # it has halted, and its group may stay current until the pCPU picks anew
        return curr == NONE or curr == group
    if w.se[v].rq == rq:
        return curr == v
    return curr == (group if group != NONE and w.se[group].rq == rq else NONE)


@jit
def placement(w: World, v: int) -> int:
    """A vCPU is on the queue that its state, its pCPU and its group ask for, and on a pCPU that it may use."""
    vcpu, se = w.vcpu[v], w.se[v]
    if (vcpu.state != BLOCKED) != (se.on_rq == 1 and se.delayed == 0) or (se.delayed and se.on_rq == 0):
        return at(SE_STATE, v)
    wrong = se.on_rq and se.rq != queues.queue_of(w, v, vcpu.pcpu)
    return at(SE_PLACE, v) if wrong or not queues.allowed(w, v, vcpu.pcpu) else 0
