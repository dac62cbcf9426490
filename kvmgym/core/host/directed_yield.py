"""yield_to: the hint for a target's run queue, and what the yielder gives up, as the host's scheduler has them.

Models kernel/sched/syscalls.c, yield_to. Left out: throttling, other scheduling classes.
"""

from __future__ import annotations

from kvmgym.codes import DEBOOST_NONE, DEBOOST_V3
from kvmgym.core.host import deboost, fair, queues
from kvmgym.core.jit import jit
from kvmgym.core.layout import READY, YIELD_ESRCH, YIELD_FREE, YIELD_OK
from kvmgym.core.memory import World


@jit
def yield_to(w: World, me: int, target: int, now: int) -> int:
    """yield_to of the running vCPU `me`: YIELD_ESRCH, YIELD_FREE or YIELD_OK (kernel.md 2.1). On success the target is
    the next buddy at every level of its chain, and both pCPUs pick anew."""
    mine, other = w.vcpu[me].pcpu, w.vcpu[target].pcpu
    if w.pcpu[mine].nr_running == 1 and w.pcpu[other].nr_running == 1:
        return YIELD_ESRCH
    if w.vcpu[target].state != READY or w.se[target].on_rq == 0 or w.se[target].delayed:
        return YIELD_FREE
    fair.hint(w, target)
    fair.update_curr(w, mine, now)
    if w.par[0].yield_deboost == DEBOOST_V3:
        if other == mine or w.par[0].lag_credit_across:
            if other != mine and fair.update_curr(w, other, now):
                queues.request_resched(w, other)
            deboost.credit(w, me, target, now)
    elif w.par[0].yield_deboost != DEBOOST_NONE:
        deboost.push_back(w, me, target, now)
    fair.forfeit(w, me)
    queues.request_resched(w, mine)
    if other != mine:
        w.pcpu[other].carry_ns += w.par[0].yield_target_ns
        queues.request_resched(w, other)
    return YIELD_OK
