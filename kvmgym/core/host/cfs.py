"""CFS: least vruntime first, buddies, sleepers' credit, slices and granularities.

Models kernel/sched/fair.c of Linux up to 6.5, read in 6.1. What EEVDF's records mean here: `zero_vruntime_ns` of a
queue is its min_vruntime, so that V still follows from the sums; `vprot_ns` is the time that an entity has run since it
was picked; with `rel_deadline` its vruntime counts from min_vruntime, as it moves to another pCPU. Deadlines and lags
mean nothing. The tree of the kernel is a list here, and equal vruntimes go by label. Left out: as in `entities`, and
NEXT_BUDDY, which is off in the kernel.
"""

from __future__ import annotations

from kvmgym.core.host import entities
from kvmgym.core.jit import jit
from kvmgym.core.layout import NO, NONE
from kvmgym.core.memory import World
from kvmgym.core.records import int64

_NR_LATENCY = 8  # so many tasks share the latency; from then on each gets the minimum granularity


@jit
def gran(w: World, k: int) -> int:
    """How far another may be ahead of an entity and still be taken for as good [ns at weight 1024] (wakeup_gran)."""
    return entities.fair(w.par[0].wakeup_granularity_ns, w.se[k].weight)


@jit
def timeslice(w: World, k: int, rq: int) -> int:
    """How long an entity of the queue `rq` may run at a stretch [ns]; one that is not queued yet counts as if it were
    (sched_slice)."""
    par = w.par[0]
    p = rq % par.pcpus
    tasks = w.pcpu[p].nr_running if par.alt_period else int64(w.rq[rq].nr)
    if w.se[k].on_rq == 0:
        tasks += 1
    span = par.latency_ns if tasks <= _NR_LATENCY else tasks * par.min_granularity_ns
    while True:
        weight = int64(w.se[k].weight)
        load = w.rq[rq].load if w.se[k].on_rq else w.rq[rq].load + weight
        span = span // load * weight + span % load * weight // load  # span * weight // load, within 64 bits
        k = entities.owner(w, rq)
        if k == NONE:
            return max(span, par.min_granularity_ns) if par.alt_period else span
        rq = p


@jit
def _least(w: World, rq: int) -> int:
    """The least vruntime of a queue that is not empty."""
    k = int64(w.rq[rq].head)
    least = w.se[k].vruntime_ns
    while k != NONE:
        least = min(least, w.se[k].vruntime_ns)
        k = int64(w.se[k].next)
    return least


@jit
def _raise_min(w: World, rq: int) -> None:
    """min_vruntime follows the least vruntime, and never falls; the moment counts from it (update_min_vruntime)."""
    queue = w.rq[rq]
    if queue.nr == 0:
        return
    passed = _least(w, rq) - queue.zero_vruntime_ns
    if passed > 0:
        queue.zero_vruntime_ns += passed
        queue.moment -= queue.load * passed


@jit
def clear_buddies(w: World, k: int) -> None:
    """An entity loses its marks, and its groups theirs as far up as each names the one below (clear_buddies)."""
    i = k
    while i != NONE and w.rq[w.se[i].rq].next_buddy == i:
        w.rq[w.se[i].rq].next_buddy = NONE
        i = entities.parent(w, i)
    i = k
    while i != NONE and w.rq[w.se[i].rq].last_buddy == i:
        w.rq[w.se[i].rq].last_buddy = NONE
        i = entities.parent(w, i)
    i = k
    while i != NONE and w.rq[w.se[i].rq].skip_buddy == i:
        w.rq[w.se[i].rq].skip_buddy = NONE
        i = entities.parent(w, i)


@jit
def update_curr(w: World, p: int, now: int) -> None:
    """Charge the running vCPU and its group up to `now` (update_curr)."""
    pcpu = w.pcpu[p]
    delta = now - pcpu.exec_start_ns
    pcpu.exec_start_ns = now
    if delta <= 0:
        return
    k = pcpu.curr
    while k != NONE:
        se = w.se[k]
        queue = w.rq[se.rq]
        if se.on_rq == 0 or queue.curr != k:
            return
        passed = entities.fair(delta, se.weight)
        se.vruntime_ns += passed
        se.vprot_ns += delta
        queue.moment += se.weight * passed
        _raise_min(w, se.rq)
        k = entities.owner(w, se.rq)


@jit
def place_sleeper(w: World, rq: int, k: int) -> None:
    """What comes back after a sleep has at most half a latency of credit (place_entity, GENTLE_FAIR_SLEEPERS)."""
    se = w.se[k]
    se.vruntime_ns = max(se.vruntime_ns, w.rq[rq].zero_vruntime_ns - (w.par[0].latency_ns >> 1))


@jit
def _place(w: World, rq: int, v: int, initial: int) -> None:
    """place_entity of a vCPU: a new one a virtual slice after min_vruntime (START_DEBIT); one that migrates as far from
    it as it was; a woken one as a sleeper, its vruntime first brought from its old queue to this one."""
    se, zero = w.se[v], w.rq[rq].zero_vruntime_ns
    if initial:
        se.vruntime_ns = zero + entities.fair(timeslice(w, v, rq), se.weight)
    elif se.rel_deadline:
        se.vruntime_ns += zero
    else:
        if se.rq != rq:
            se.vruntime_ns += zero - w.rq[se.rq].zero_vruntime_ns
        place_sleeper(w, rq, v)
    se.rel_deadline = 0


@jit
def update_group(w: World, k: int, now: int) -> None:
    """update_cfs_group: give a queued group entity its present weight; its vruntime stays."""
    if k == NONE or w.se[k].on_rq == 0:
        return
    se = w.se[k]
    change = entities.group_weight(w, k, now) - se.weight
    if change != 0:
        queue = w.rq[se.rq]
        se.weight += change
        queue.load += change
        queue.moment += change * (se.vruntime_ns - queue.zero_vruntime_ns)


@jit
def enqueue(w: World, v: int, rq: int, now: int, initial: int) -> None:
    """Queue a vCPU, and its group above it, on the queue `rq` of its pCPU (enqueue_task_fair)."""
    p = w.vcpu[v].pcpu
    group = entities.owner(w, rq)
    _place(w, rq, v, initial)
    entities.link(w, rq, v)
    w.pcpu[p].nr_running += 1
    entities.set_runnable(w, v, 1, now)
    if group == NONE:
        return
    if w.se[group].on_rq == 0:
        w.se[group].weight = entities.group_weight(w, group, now)
        place_sleeper(w, p, group)
        entities.link(w, p, group)
    else:
        update_group(w, group, now)


@jit
def _leave(w: World, k: int) -> None:
    """Take an entity off its queue; whoever does raises min_vruntime afterwards."""
    queue = w.rq[w.se[k].rq]
    clear_buddies(w, k)
    if queue.curr == k:
        queue.curr = NONE
    entities.unlink(w, k)


@jit
def dequeue(w: World, v: int, sleep: int, now: int) -> None:
    """Take a vCPU off its queue, and its group when that was the last one (dequeue_task_fair)."""
    entities.set_runnable(w, v, -1, now)
    se = w.se[v]
    group = entities.parent(w, v)
    _leave(w, v)
    if sleep == NO:
        se.vruntime_ns -= w.rq[se.rq].zero_vruntime_ns
        se.rel_deadline = 1
    _raise_min(w, se.rq)
    w.pcpu[w.vcpu[v].pcpu].nr_running -= 1
    if group == NONE:
        return
    if w.rq[se.rq].nr > 0:
        update_group(w, group, now)
    else:
        _leave(w, group)
        _raise_min(w, w.se[group].rq)


@jit
def _first(w: World, rq: int, leave: int) -> int:
    """The entity of least vruntime, lower label first, but for `leave` (or NONE); NONE without any."""
    best = NONE
    k = int64(w.rq[rq].head)
    while k != NONE:
        if k != leave:
            if best == NONE:
                best = k
            else:
                gap = w.se[k].vruntime_ns - w.se[best].vruntime_ns
                if gap < 0 or (gap == 0 and w.ent[k].order < w.ent[best].order):
                    best = k
        k = int64(w.se[k].next)
    return best


@jit
def pick(w: World, rq: int) -> int:
    """pick_next_entity: of those within `gran` of the leftmost entity the next buddy, else the last buddy, else the
    second where the leftmost is to be skipped; else the leftmost."""
    queue = w.rq[rq]
    if queue.nr == 1:
        return int64(queue.head)
    left = _first(w, rq, NONE)
    reach = w.se[left].vruntime_ns + gran(w, left)
    if queue.next_buddy != NONE and w.se[queue.next_buddy].vruntime_ns <= reach:
        return int64(queue.next_buddy)
    if queue.last_buddy != NONE and w.se[queue.last_buddy].vruntime_ns <= reach:
        return int64(queue.last_buddy)
    if queue.skip_buddy == left:
        second = _first(w, rq, left)
        if w.se[second].vruntime_ns <= reach:
            return second
    return left


@jit
def pick_vcpu(w: World, p: int) -> int:
    """The vCPU that should run on pCPU `p`, or NONE; what is picked loses its marks."""
    if w.rq[p].nr == 0:
        return NONE
    k = pick(w, p)
    below = entities.own_queue(w, k)
    if below != NONE:
        clear_buddies(w, k)
        k = pick(w, below)
    clear_buddies(w, k)
    return k


@jit
def set_current(w: World, prev: int, chosen: int) -> None:
    """put_prev_entity and set_next_entity along both chains: what starts to run has run for no time."""
    entities.put_prev(w, prev, chosen)
    k = chosen
    while k != NONE:
        queue = w.rq[w.se[k].rq]
        if queue.curr != k:
            queue.curr = k
            w.se[k].vprot_ns = 0
        k = entities.parent(w, k)


@jit
def tick(w: World, p: int) -> bool:
    """check_preempt_tick at each level of the running vCPU's chain, which is charged already. True when the pCPU should
    reschedule: a slice has ended, or somebody waits that is a whole slice behind."""
    resched = False
    k = int64(w.pcpu[p].curr)
    while k != NONE:
        se = w.se[k]
        if w.rq[se.rq].nr > 1:
            span = timeslice(w, k, se.rq)
            if se.vprot_ns > span:
                resched = True
                clear_buddies(w, k)
            elif se.vprot_ns >= w.par[0].min_granularity_ns and se.vruntime_ns - _least(w, se.rq) > span:
                resched = True
        k = entities.owner(w, se.rq)
    return resched


@jit
def wakeup_preempts(w: World, v: int, p: int) -> bool:
    """True when the running vCPU's chain is more than `gran` ahead of the wakee's where the two meet. Then the wakee is
    the next buddy from there on up, and in a long queue what ran is the last one (check_preempt_wakeup)."""
    curr = int64(w.pcpu[p].curr)
    k, c = entities.meeting(w, v, curr)
    if w.se[k].rq != w.se[c].rq or w.se[c].vruntime_ns - w.se[k].vruntime_ns <= gran(w, k):
        return False
    entities.set_next_buddy(w, k)
    if w.rq[w.se[curr].rq].nr >= _NR_LATENCY and c == curr:
        while c != NONE:
            w.rq[w.se[c].rq].last_buddy = c
            c = entities.parent(w, c)
    return True


@jit
def forfeit(w: World, v: int) -> None:
    """What the running vCPU `v` gives up when it yields: its marks, and its turn at every level (yield_task_fair)."""
    if w.pcpu[w.vcpu[v].pcpu].nr_running == 1:
        return
    clear_buddies(w, v)
    k = v
    while k != NONE:
        w.rq[w.se[k].rq].skip_buddy = k
        k = entities.parent(w, k)


@jit
def begin(w: World, k: int, left_ns: int) -> None:
    """Put an entity of a root queue, and all of its queue, `left_ns` after min_vruntime."""
    _move(w, k, entities.fair(left_ns, w.se[k].weight))
    below = entities.own_queue(w, k)
    child = NONE if below == NONE else int64(w.rq[below].head)
    while child != NONE:
        _move(w, child, left_ns)
        child = int64(w.se[child].next)


@jit
def _move(w: World, k: int, ahead_ns: int) -> None:
    """Put a queued entity that far after min_vruntime."""
    se = w.se[k]
    queue = w.rq[se.rq]
    queue.moment -= se.weight * (se.vruntime_ns - queue.zero_vruntime_ns - ahead_ns)
    se.vruntime_ns = queue.zero_vruntime_ns + ahead_ns
