"""Moving waiting vCPUs between pCPUs: newidle, periodic and nohz balance.

Models kernel/sched/fair.c, sched_balance_*. Left out: scheduling domains above one (a balance looks at `llc_pcpus`
pCPUs from its own on), PELT-based load (counts instead).
"""

from __future__ import annotations

from kvmgym.core import account, layout
from kvmgym.core.host import entities, fair, queues
from kvmgym.core.jit import jit
from kvmgym.core.layout import NO, NONE, READY
from kvmgym.core.memory import World
from kvmgym.core.records import int64


@jit
def _waiting_on(w: World, source: int, p: int, now: int) -> int:
    """A vCPU that waits in the queues of `source`, may run on `p` and is not cache-hot: the one that ran longest ago;
    NONE without one."""
    best = NONE
    k = int64(w.rq[source].head)
    while k != NONE:
        below = entities.own_queue(w, k)
        i = k if below == NONE else int64(w.rq[below].head)
        while i != NONE:
            vcpu = w.vcpu[i]
            if (
                vcpu.state == READY
                and now - vcpu.last_ran_ns >= w.par[0].migration_cost_ns
                and queues.allowed(w, i, p)
                and (
                    best == NONE
                    or vcpu.last_ran_ns < w.vcpu[best].last_ran_ns
                    or (vcpu.last_ran_ns == w.vcpu[best].last_ran_ns and w.ent[i].order < w.ent[best].order)
                )
            ):
                best = i
            i = int64(w.se[i].next) if i != k else NONE
        k = int64(w.se[k].next)
    return best


@jit
def _busiest(w: World, p: int, least: int) -> int:
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
def _migrate(w: World, v: int, p: int, now: int) -> None:
    """Move a waiting vCPU to pCPU `p`; its lag and relative deadline move with it."""
    vcpu = w.vcpu[v]
    if fair.update_curr(w, vcpu.pcpu, now):
        queues.request_resched(w, vcpu.pcpu)
    account.count_ready(w, vcpu.pcpu, -1, now)
    fair.dequeue(w, v, NO, now)
    queues.attach(w, v, p, now, NO)
    account.count_ready(w, p, 1, now)
    w.pcpu[p].migrations += 1
    account.note(w, layout.TR_MIGRATE, v, p)


@jit
def _push_to_idle(w: World, p: int, now: int) -> None:
    """Let an idle pCPU pull what waits here (nohz balance)."""
    target = w.host[0].idle_head
    while target != NONE:
        v = _waiting_on(w, p, target, now)
        if v != NONE:
            _migrate(w, v, target, now)
            queues.set_idle(w, target, NO)
            queues.request_resched(w, target)
            return
        target = w.pcpu[target].idle_next


@jit
def pull_newidle(w: World, p: int, now: int) -> bool:
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
def at_tick(w: World, p: int, now: int) -> None:
    """What the tick of a busy pCPU spreads: to an idle pCPU what waits here, and to this one from the busiest when its
    periodic balance is due."""
    pcpu, par = w.pcpu[p], w.par[0]
    if pcpu.nr_ready > 0 and w.host[0].idle_nr > 0:
        _push_to_idle(w, p, now)
    if now >= pcpu.next_balance_ns:
        pcpu.next_balance_ns = now + par.balance_interval_ns
        busiest = _busiest(w, p, pcpu.nr_running + 1)
        if busiest != NONE:
            v = _waiting_on(w, busiest, p, now)
            if v != NONE:
                _migrate(w, v, p, now)
