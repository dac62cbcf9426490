"""yield_to: the hint for a target's run queue, and what the yielder gives up.

Models kernel/sched/syscalls.c, yield_to, and fair.c, yield_task_fair. Left out: throttling, other scheduling classes.
"""

from __future__ import annotations

from kvmgym.codes import DEBOOST_NONE, DEBOOST_V3, FORFEIT_6_19, FORFEIT_PRE_6_19
from kvmgym.core.host import deboost, eevdf, queues
from kvmgym.core.jit import jit
from kvmgym.core.layout import NONE, READY, YIELD_ESRCH, YIELD_FREE, YIELD_OK
from kvmgym.core.memory import World


@jit
def _forfeit(w: World, v: int) -> None:
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
def yield_to(w: World, me: int, target: int, now: int) -> int:
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
    if w.par[0].yield_deboost == DEBOOST_V3:
        if other == mine or w.par[0].lag_credit_across:
            if other != mine and eevdf.update_curr(w, other, now):
                queues.request_resched(w, other)
            deboost.credit(w, me, target, now)
    elif w.par[0].yield_deboost != DEBOOST_NONE:
        deboost.push_back(w, me, target, now)
    _forfeit(w, me)
    queues.request_resched(w, mine)
    if other != mine:
        w.pcpu[other].carry_ns += w.par[0].yield_target_ns
        queues.request_resched(w, other)
    return YIELD_OK
