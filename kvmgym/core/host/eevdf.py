"""EEVDF: lag, placement, the pick, and delayed dequeue.

Models kernel/sched/fair.c of Linux 6.6-6.19. As in the kernel a queue keeps the sums that V follows from. Queues are
short here (a few VMs a pCPU), so the pick scans a list where the kernel has an augmented tree; the result is the same.
"""

from __future__ import annotations

from kvmgym.codes import FORFEIT_6_19, FORFEIT_PRE_6_19
from kvmgym.core.host import entities
from kvmgym.core.jit import jit
from kvmgym.core.layout import NO, NONE, YES
from kvmgym.core.memory import World
from kvmgym.core.records import Queue, int64

_FAR = 24  # V is far from the reference after 2^24 ns


@jit
def _keep_near(queue: Queue) -> None:
    """Take the moment from V when that has gone far, so that no product of a weight and a distance can overflow. V does
    not depend on where the moment is taken from."""
    if queue.moment > queue.load << _FAR:
        passed = queue.moment // queue.load
        queue.zero_vruntime_ns += passed
        queue.moment -= queue.load * passed


@jit
def advance_vruntime(w: World, k: int, delta_ns: int) -> None:
    """Add virtual time to a queued entity."""
    se = w.se[k]
    queue = w.rq[se.rq]
    se.vruntime_ns += delta_ns
    queue.moment += se.weight * delta_ns
    _keep_near(queue)


@jit
def eligible(w: World, k: int) -> bool:
    """entity_eligible: the queued entity's vruntime has not passed V, tested without a division."""
    queue = w.rq[w.se[k].rq]
    return queue.load * (w.se[k].vruntime_ns - queue.zero_vruntime_ns) <= queue.moment


@jit
def lag_limit(w: World, k: int) -> int:
    """The most lag that a queued entity may have: the largest queued slice and a tick, by its weight."""
    longest = w.ent[k].slice_ns
    if not w.par[0].one_slice:
        i = int64(w.rq[w.se[k].rq].head)
        while i != NONE:
            longest = max(longest, w.ent[i].slice_ns)
            i = int64(w.se[i].next)
    return entities.fair(longest + w.par[0].tick_ns, w.se[k].weight)


@jit
def _clamped_lag(w: World, k: int) -> int:
    """V - vruntime of a queued entity, within what the largest queued slice and a tick allow."""
    se = w.se[k]
    limit = lag_limit(w, k)
    return min(max(entities.average(w, se.rq) - se.vruntime_ns, -limit), limit)


@jit
def _link(w: World, rq: int, k: int) -> None:
    _keep_near(w.rq[rq])
    entities.link(w, rq, k)


@jit
def _unlink(w: World, k: int) -> None:
    """Take an entity out of its queue; an empty queue keeps its last V."""
    entities.unlink(w, k)
    queue = w.rq[w.se[k].rq]
    if queue.nr == 0:
        queue.zero_vruntime_ns = w.se[k].vruntime_ns


@jit
def _place(w: World, rq: int, k: int, initial: int) -> None:
    """place_entity: vruntime from V and the lag it left with, deadline one slice on (half a slice for a new task)."""
    se, load = w.se[k], w.rq[rq].load
    lag = 0
    if w.par[0].place_lag and load > 0 and se.vlag_ns != 0:
        lag = se.vlag_ns * (load + se.weight) // load
    se.vruntime_ns = entities.average(w, rq) - lag
    if se.rel_deadline:
        se.deadline_ns += se.vruntime_ns
        se.rel_deadline = 0
        return
    span = entities.fair(w.ent[k].slice_ns, se.weight)
    se.deadline_ns = se.vruntime_ns + (span >> 1 if initial else span)


@jit
def _leave(w: World, k: int, sleep: int) -> None:
    """Take an entity off its queue for good: keep its lag and, unless it sleeps, its relative deadline."""
    se = w.se[k]
    queue = w.rq[se.rq]
    se.vlag_ns = _clamped_lag(w, k)
    if not sleep:
        se.deadline_ns -= se.vruntime_ns
        se.rel_deadline = 1
    if se.delayed:
        se.delayed = 0
        se.vlag_ns = min(se.vlag_ns, 0)  # DELAY_ZERO
    if queue.next_buddy == k:
        queue.next_buddy = NONE
    if queue.curr == k:
        queue.curr = NONE
    _unlink(w, k)


@jit
def _requeue(w: World, k: int) -> None:
    """requeue_delayed_entity: a delayed entity wakes; DELAY_ZERO forgives what it gained meanwhile."""
    se = w.se[k]
    lag = _clamped_lag(w, k)
    if lag > 0:
        rq = se.rq
        _unlink(w, k)
        se.vlag_ns = 0
        _place(w, rq, k, NO)
        _link(w, rq, k)
    se.delayed = 0


@jit
def move_to_lag(w: World, k: int, lag_ns: int) -> None:
    """Move a queued entity to where its lag is `lag_ns`, as far as lags may go; its deadline moves with it."""
    se = w.se[k]
    rq = se.rq
    protected = se.vprot_ns - se.vruntime_ns
    se.deadline_ns -= se.vruntime_ns
    se.rel_deadline = 1
    se.vlag_ns = min(lag_ns, lag_limit(w, k))
    _unlink(w, k)
    _place(w, rq, k, NO)
    se.vprot_ns = se.vruntime_ns + protected
    _link(w, rq, k)


@jit
def update_group(w: World, k: int, now: int) -> None:
    """update_cfs_group: give a queued group entity its present weight; lag and deadline keep their meaning."""
    if k == NONE or w.se[k].on_rq == 0:
        return
    se = w.se[k]
    weight = entities.group_weight(w, k, now)
    before = int64(se.weight)
    if weight == before:
        return
    rq = se.rq
    se.vlag_ns = _clamped_lag(w, k) * before // weight
    protected = (se.vprot_ns - se.vruntime_ns) * before // weight
    se.deadline_ns = (se.deadline_ns - se.vruntime_ns) * before // weight
    se.rel_deadline = 1
    _unlink(w, k)
    se.weight = weight
    _place(w, rq, k, NO)
    se.vprot_ns = se.vruntime_ns + protected
    _link(w, rq, k)


@jit
def update_curr(w: World, p: int, now: int) -> bool:
    """Charge the running vCPU and its group up to `now`. True when the pCPU should reschedule: some level's slice or
    protection has ended and others are queued there (update_curr, update_deadline)."""
    pcpu = w.pcpu[p]
    delta = now - pcpu.exec_start_ns
    pcpu.exec_start_ns = now
    k = pcpu.curr
    resched = False
    while k != NONE:
        se = w.se[k]
        queue = w.rq[se.rq]
        if se.on_rq == 0 or queue.curr != k:
            break
        if delta > 0:
            advance_vruntime(w, k, entities.fair(delta, se.weight))
        if se.vruntime_ns >= se.deadline_ns:
            se.deadline_ns = se.vruntime_ns + entities.fair(w.ent[k].slice_ns, se.weight)
            if queue.nr > 1:
                resched = True
            if queue.next_buddy == k:
                queue.next_buddy = NONE
        elif se.vruntime_ns >= se.vprot_ns and queue.nr > 1:
            resched = True
        k = entities.owner(w, se.rq)
    return resched


@jit
def enqueue(w: World, v: int, rq: int, now: int, initial: int) -> None:
    """Queue a vCPU, and its group above it, on the queue `rq` of its pCPU (enqueue_task_fair)."""
    p = w.vcpu[v].pcpu
    group = entities.owner(w, rq)
    w.se[v].delayed = 0
    _place(w, rq, v, initial)
    _link(w, rq, v)
    w.pcpu[p].nr_running += 1
    entities.set_runnable(w, v, 1, now)
    if group == NONE:
        return
    if w.se[group].on_rq == 0:
        w.se[group].weight = entities.group_weight(w, group, now)
        w.se[group].rel_deadline = 0
        _place(w, p, group, initial)
        _link(w, p, group)
    else:
        if w.se[group].delayed:
            _requeue(w, group)
        update_group(w, group, now)


@jit
def wake_delayed(w: World, v: int, now: int) -> None:
    """Wake a vCPU that never left its queue."""
    _requeue(w, v)
    entities.set_runnable(w, v, 1, now)
    update_group(w, entities.parent(w, v), now)


@jit
def dequeue(w: World, v: int, sleep: int, now: int) -> None:
    """Take a vCPU off its queue; one that sleeps with negative lag stays queued, delayed (dequeue_task_fair)."""
    entities.set_runnable(w, v, -1, now)
    se = w.se[v]
    queue = w.rq[se.rq]
    if sleep and w.par[0].delay_dequeue and not eligible(w, v):
        se.delayed = 1
        if queue.next_buddy == v:
            queue.next_buddy = NONE
        if queue.curr == v:
            queue.curr = NONE
        update_group(w, entities.parent(w, v), now)
        return
    finish_dequeue(w, v, sleep, now)


@jit
def finish_dequeue(w: World, v: int, sleep: int, now: int) -> None:
    """Really take a vCPU off its queue, and its group when that was the last one."""
    group = entities.parent(w, v)
    _leave(w, v, sleep)
    w.pcpu[w.vcpu[v].pcpu].nr_running -= 1
    if group == NONE:
        return
    if w.rq[entities.own_queue(w, group)].nr > 0:
        update_group(w, group, now)
    elif sleep and w.par[0].delay_dequeue and not eligible(w, group):
        w.se[group].delayed = 1
        root = w.rq[w.se[group].rq]
        if root.next_buddy == group:
            root.next_buddy = NONE
        if root.curr == group:
            root.curr = NONE
    else:
        _leave(w, group, sleep)


@jit
def pick(w: World, rq: int, short_wakee: int) -> int:
    """pick_next_entity: the only one, else an eligible buddy, else the protected current, else the earliest eligible
    deadline (lower label first). `short_wakee` (or NONE): a wakee whose shorter slice cancels the protection."""
    queue = w.rq[rq]
    par = w.par[0]
    if queue.nr == 1:
        return int64(queue.head)
    if par.pick_buddy and queue.next_buddy != NONE and eligible(w, int64(queue.next_buddy)):
        return int64(queue.next_buddy)
    curr = int64(queue.curr)
    if curr != NONE and par.run_to_parity and short_wakee == NONE:
        if w.se[curr].vruntime_ns < w.se[curr].vprot_ns and eligible(w, curr):
            return curr
    best = NONE
    k = int64(queue.head)
    while k != NONE:
        se = w.se[k]
        if eligible(w, k):
            if best == NONE:
                best = k
            else:
                gap = se.deadline_ns - w.se[best].deadline_ns
                if gap < 0 or (gap == 0 and w.ent[k].order < w.ent[best].order):
                    best = k
        k = int64(se.next)
    return best


@jit
def pick_vcpu(w: World, p: int, now: int) -> int:
    """The vCPU that should run on pCPU `p`, or NONE; delayed entities that come up leave their queue here."""
    while w.rq[p].nr > 0:
        rq = p
        while True:
            k = pick(w, rq, NONE)
            if w.se[k].delayed:
                break
            rq = entities.own_queue(w, k)
            if rq == NONE:
                return k
        if entities.own_queue(w, k) == NONE:
            finish_dequeue(w, k, YES, now)
        else:
            _leave(w, k, YES)
    return NONE


@jit
def set_current(w: World, prev: int, chosen: int) -> None:
    """put_prev_entity and set_next_entity along both chains: what starts to run is protected for a slice."""
    par = w.par[0]
    entities.put_prev(w, prev, chosen)
    k = chosen
    while k != NONE:
        se = w.se[k]
        queue = w.rq[se.rq]
        if queue.next_buddy == k:
            queue.next_buddy = NONE
        if queue.curr != k:
            queue.curr = k
            shortest = w.ent[k].slice_ns
            i = NONE if par.one_slice else int64(queue.head)
            while i != NONE:
                shortest = min(shortest, w.ent[i].slice_ns)
                i = int64(w.se[i].next)
            se.vprot_ns = min(se.deadline_ns, se.vruntime_ns + entities.fair(shortest, se.weight))
        k = entities.owner(w, se.rq)


@jit
def wakeup_preempts(w: World, v: int, p: int) -> bool:
    """True when the pick, at the level where the chains meet, is the wakee (wakeup_preempt_fair)."""
    k, c = entities.meeting(w, v, int64(w.pcpu[p].curr))
    if w.se[k].rq != w.se[c].rq:
        return False
    if w.par[0].next_buddy:
        w.rq[w.se[k].rq].next_buddy = k
    short = k if w.par[0].preempt_short and w.ent[k].slice_ns < w.ent[c].slice_ns else NONE
    return pick(w, int64(w.se[k].rq), short) == k


@jit
def forfeit(w: World, v: int) -> None:
    """What the running vCPU `v` gives up when it yields: yield_task_fair on its leaf entity."""
    se, par = w.se[v], w.par[0]
    if w.pcpu[w.vcpu[v].pcpu].nr_running == 1:
        return
    if w.rq[se.rq].next_buddy == v:
        w.rq[se.rq].next_buddy = NONE
    span = entities.fair(w.ent[v].slice_ns, se.weight)
    if par.forfeit == FORFEIT_6_19:
        if eligible(w, v):
            advance_vruntime(w, v, se.deadline_ns - se.vruntime_ns)
            se.deadline_ns += span
            se.vprot_ns = se.vruntime_ns
    elif par.forfeit == FORFEIT_PRE_6_19:
        se.deadline_ns += span


@jit
def begin(w: World, k: int, left_ns: int) -> None:
    """Leave an entity of a root queue, and all of its queue, `left_ns` of their first slice."""
    w.se[k].deadline_ns = w.se[k].vruntime_ns + entities.fair(left_ns, w.se[k].weight)
    below = entities.own_queue(w, k)
    child = NONE if below == NONE else int64(w.rq[below].head)
    while child != NONE:
        w.se[child].deadline_ns = w.se[child].vruntime_ns + left_ns
        child = int64(w.se[child].next)
