"""The host scheduler around EEVDF: rescheduling, wakeups, ticks, balancing and yield_to.

Models kernel/sched/{core,fair,syscalls}.c. Left out: scheduling domains above one (a balance looks at `llc_pcpus`
pCPUs from its own on), PELT-based load (counts instead), throttling, other scheduling classes.
"""

from __future__ import annotations

from kvmgym.core import account, deboost, eevdf, events
from kvmgym.core.jit import jit
from kvmgym.core.layout import (
    DEBOOST_NONE,
    DEBOOST_V3,
    FORFEIT_6_19,
    FORFEIT_PRE_6_19,
    INF,
    NO,
    NONE,
    POLL_ENDS,
    READY,
    YES,
    YIELD_ESRCH,
    YIELD_FREE,
    YIELD_OK,
)


@jit
def request_resched(w, p):
    """Put a pCPU at the end of the list of those that pick anew before time goes on (resched_curr)."""
    pcpu, host = w.pcpu[p], w.host[0]
    if pcpu.need_resched:
        return
    pcpu.need_resched = 1
    pcpu.resched_next = NONE
    if host.resched_head == NONE:
        host.resched_head = p
    else:
        w.pcpu[host.resched_tail].resched_next = p
    host.resched_tail = p


@jit
def next_resched(w):
    """Take the first pCPU off that list."""
    host = w.host[0]
    p = host.resched_head
    pcpu = w.pcpu[p]
    host.resched_head = pcpu.resched_next
    pcpu.need_resched = 0
    return p


@jit
def set_idle(w, p, idle):
    """Enter or leave the list of idle pCPUs, last in first out."""
    pcpu, host = w.pcpu[p], w.host[0]
    if pcpu.idle == idle:
        return
    pcpu.idle = idle
    if idle:
        pcpu.idle_prev = NONE
        pcpu.idle_next = host.idle_head
        if host.idle_head != NONE:
            w.pcpu[host.idle_head].idle_prev = p
        host.idle_head = p
        host.idle_nr += 1
    else:
        if pcpu.idle_prev != NONE:
            w.pcpu[pcpu.idle_prev].idle_next = pcpu.idle_next
        else:
            host.idle_head = pcpu.idle_next
        if pcpu.idle_next != NONE:
            w.pcpu[pcpu.idle_next].idle_prev = pcpu.idle_prev
        host.idle_nr -= 1


@jit
def count_empty(w, change):
    """Add `change` to the pCPUs without a vCPU, and the time since the last change to the idle time."""
    host = w.host[0]
    host.idle_ns += host.empty_nr * (host.now_ns - host.idle_since_ns)
    host.idle_since_ns = host.now_ns
    host.empty_nr += change


@jit
def allowed(w, v, p):
    """True when vCPU `v` may run on pCPU `p`."""
    return (w.affin[v * w.par[0].affin_words + (p >> 5)] >> (p & 31)) & 1 == 1


@jit
def queue_of(w, v, p):
    """The queue that vCPU `v` joins on pCPU `p`: its VM's group there, or the root."""
    g = w.vcpu[v].vm
    if w.par[0].grouped and not w.vm[g].is_task:
        return w.par[0].pcpus * (1 + g) + p
    return p


@jit
def attach(w, v, p, now, initial):
    """Queue a vCPU on pCPU `p`, whose current one is charged first."""
    if eevdf.update_curr(w, p, now):
        request_resched(w, p)
    w.vcpu[v].pcpu = p
    eevdf.enqueue(w, v, queue_of(w, v, p), now, initial)
    curr = w.pcpu[p].curr
    if curr != NONE and w.vcpu[curr].polling:  # a halt poll ends as soon as somebody else wants to run
        w.vcpu[curr].polling = POLL_ENDS
        w.pcpu[p].ev_ns = now
        events.set_time(w, p, now)


@jit
def _select_pcpu(w, v):
    """Where a woken vCPU goes: its last pCPU if idle, else the allowed one that went idle last, else its last."""
    prev = w.vcpu[v].pcpu
    if w.pcpu[prev].idle:
        return prev
    p = w.host[0].idle_head
    while p != NONE:
        if allowed(w, v, p):
            return p
        p = w.pcpu[p].idle_next
    return prev


@jit
def _wakeup_preempts(w, v, p):
    """True when the pick, at the level where the chains meet, is the wakee (wakeup_preempt_fair)."""
    curr = w.pcpu[p].curr
    k, c = v, curr
    if w.se[k].rq != w.se[c].rq:
        above_k, above_c = eevdf.parent(w, k), eevdf.parent(w, c)
        k = k if above_k == NONE else above_k
        c = c if above_c == NONE else above_c
    if w.se[k].rq != w.se[c].rq:
        return False
    if w.par[0].next_buddy:
        w.rq[w.se[k].rq].next_buddy = k
    short = k if w.par[0].preempt_short and w.ent[k].slice_ns < w.ent[c].slice_ns else NONE
    return eevdf.pick(w, w.se[k].rq, short) == k


@jit
def wake(w, v, now):
    """Make a blocked vCPU runnable: idle pCPUs first, then preempt where the pick says so (try_to_wake_up)."""
    vcpu = w.vcpu[v]
    vm = w.vm[vcpu.vm]
    vm.wakeups += 1
    if w.se[v].delayed:
        p = vcpu.pcpu
        if eevdf.update_curr(w, p, now):
            request_resched(w, p)
        eevdf.wake_delayed(w, v, now)
    else:
        p = _select_pcpu(w, v)
        attach(w, v, p, now, NO)
    account.set_state(w, v, READY, now)
    pcpu = w.pcpu[p]
    if pcpu.idle:
        set_idle(w, p, NO)
        if w.par[0].wake_ns > 0:
            events.set_time(w, p, now + w.par[0].wake_ns)
        else:
            request_resched(w, p)
        return
    vm.wakeups_queued += 1
    if pcpu.curr == NONE:  # about to pick, for a wakeup before this one
        return
    if pcpu.need_resched == 0 and w.par[0].wakeup_preemption and _wakeup_preempts(w, v, p):
        request_resched(w, p)


@jit
def tick(w, p, now):
    """The scheduler tick of a busy pCPU: charge, see the end of slices, spread what waits (task_tick_fair)."""
    pcpu, par = w.pcpu[p], w.par[0]
    pcpu.next_tick_ns += par.tick_ns
    if eevdf.update_curr(w, p, now):
        request_resched(w, p)
    eevdf.update_group(w, eevdf.parent(w, pcpu.curr), now)
    if w.vm[w.vcpu[pcpu.curr].vm].is_task == 0:
        account.charge(w, pcpu.curr, par.exit_ns, now)
    if not par.balance:
        return
    if pcpu.nr_ready > 0 and w.host[0].idle_nr > 0:
        _push_to_idle(w, p, now)
    if now >= pcpu.next_balance_ns:
        pcpu.next_balance_ns = now + par.balance_interval_ns
        busiest = _busiest(w, p, pcpu.nr_running + 1)
        if busiest != NONE:
            v = _waiting_on(w, busiest, p, now)
            if v != NONE:
                _migrate(w, v, p, now)


@jit
def start_ticks(w, p, now):
    """The next tick of a pCPU that leaves idleness, on its own grid."""
    pcpu, period = w.pcpu[p], w.par[0].tick_ns
    pcpu.next_tick_ns = now + period - (now - pcpu.tick_offset_ns) % period


@jit
def _waiting_on(w, source, p, now):
    """A vCPU that waits in the queues of `source`, may run on `p` and is not cache-hot: the one that ran longest ago;
    NONE without one."""
    best = NONE
    k = w.rq[source].head
    while k != NONE:
        below = eevdf.own_queue(w, k)
        i = k if below == NONE else w.rq[below].head
        while i != NONE:
            vcpu = w.vcpu[i]
            if (
                vcpu.state == READY
                and now - vcpu.last_ran_ns >= w.par[0].migration_cost_ns
                and allowed(w, i, p)
                and (
                    best == NONE
                    or vcpu.last_ran_ns < w.vcpu[best].last_ran_ns
                    or (vcpu.last_ran_ns == w.vcpu[best].last_ran_ns and w.ent[i].order < w.ent[best].order)
                )
            ):
                best = i
            i = w.se[i].next if i != k else NONE
        k = w.se[k].next
    return best


@jit
def _busiest(w, p, least):
    """The pCPU within `llc_pcpus` after `p` that has ready vCPUs and the most tasks, more than `least`; or NONE."""
    best = NONE
    q = p
    for _ in range(min(w.par[0].llc_pcpus, w.par[0].pcpus) - 1):
        q += 1
        if q == w.par[0].pcpus:
            q = 0
        pcpu = w.pcpu[q]
        if pcpu.nr_ready > 0 and pcpu.nr_running > least:
            best = q
            least = pcpu.nr_running
    return best


@jit
def _migrate(w, v, p, now):
    """Move a waiting vCPU to pCPU `p`; its lag and relative deadline move with it."""
    vcpu = w.vcpu[v]
    if eevdf.update_curr(w, vcpu.pcpu, now):
        request_resched(w, vcpu.pcpu)
    account.count_ready(w, vcpu.pcpu, -1, now)
    eevdf.dequeue(w, v, NO, now)
    attach(w, v, p, now, NO)
    account.count_ready(w, p, 1, now)
    w.pcpu[p].migrations += 1
    account.note(w, account.TR_MIGRATE, v, p)


@jit
def _push_to_idle(w, p, now):
    """Let an idle pCPU pull what waits here (nohz balance)."""
    target = w.host[0].idle_head
    while target != NONE:
        v = _waiting_on(w, p, target, now)
        if v != NONE:
            _migrate(w, v, target, now)
            set_idle(w, target, NO)
            request_resched(w, target)
            return
        target = w.pcpu[target].idle_next


@jit
def pull_newidle(w, p, now):
    """Before going idle, pull a vCPU that waits elsewhere (sched_balance_newidle). True when one came."""
    if not w.par[0].balance:
        return False
    q = p
    for _ in range(min(w.par[0].llc_pcpus, w.par[0].pcpus) - 1):
        q += 1
        if q == w.par[0].pcpus:
            q = 0
        if w.pcpu[q].nr_ready > 0:
            v = _waiting_on(w, q, p, now)
            if v != NONE:
                _migrate(w, v, p, now)
                return True
    return False


@jit
def _forfeit(w, v):
    """yield_task_fair on the leaf entity of the running vCPU `v` (kernel.md 2.2)."""
    se, par = w.se[v], w.par[0]
    if w.pcpu[w.vcpu[v].pcpu].nr_running == 1:
        return
    if w.rq[se.rq].next_buddy == v:
        w.rq[se.rq].next_buddy = NONE
    span = eevdf.fair(w.ent[v].slice_ns, se.weight)
    if par.forfeit == FORFEIT_6_19:
        if eevdf.eligible(w, v):
            eevdf.advance_vruntime(w, v, se.deadline_ns - se.vruntime_ns)
            se.deadline_ns += span
            se.vprot_ns = se.vruntime_ns
    elif par.forfeit == FORFEIT_PRE_6_19:
        se.deadline_ns += span


@jit
def yield_to(w, me, target, now):
    """yield_to of the running vCPU `me`: YIELD_ESRCH, YIELD_FREE or YIELD_OK (kernel.md 2.1). On success the target is
    the next buddy at every level of its chain, and both pCPUs pick anew."""
    mine, other = w.vcpu[me].pcpu, w.vcpu[target].pcpu
    if w.pcpu[mine].nr_running == 1 and w.pcpu[other].nr_running == 1:
        return YIELD_ESRCH
    if w.vcpu[target].state != READY or w.se[target].on_rq == 0 or w.se[target].delayed:
        return YIELD_FREE
    k = target
    while k != NONE:
        w.rq[w.se[k].rq].next_buddy = k
        k = eevdf.parent(w, k)
    eevdf.update_curr(w, mine, now)
    if w.par[0].deboost == DEBOOST_V3:
        if other == mine or w.par[0].lag_credit_across:
            if other != mine and eevdf.update_curr(w, other, now):
                request_resched(w, other)
            deboost.credit(w, me, target, now)
    elif w.par[0].deboost != DEBOOST_NONE:
        deboost.push_back(w, me, target, now)
    _forfeit(w, me)
    request_resched(w, mine)
    if other != mine:
        w.pcpu[other].carry_ns += w.par[0].yield_target_ns
        request_resched(w, other)
    return YIELD_OK


@jit
def go_idle(w, p):
    """Stop the ticks of a pCPU with nothing to run and list it as idle."""
    w.pcpu[p].next_tick_ns = INF
    set_idle(w, p, YES)
