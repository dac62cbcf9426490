"""Where a woken vCPU goes, and whether it preempts what runs there.

Models kernel/sched/core.c, try_to_wake_up, and fair.c, wakeup_preempt_fair. Left out: wake_affine and the scan for an
idle sibling (the last pCPU, else one that is idle).
"""

from __future__ import annotations

from kvmgym.core import account, events
from kvmgym.core.host import eevdf, queues
from kvmgym.core.jit import jit
from kvmgym.core.layout import NO, NONE, READY
from kvmgym.core.memory import World


@jit
def _select_pcpu(w: World, v: int) -> int:
    """Where a woken vCPU goes: its last pCPU if idle, else the allowed one that went idle last, else its last."""
    prev = w.vcpu[v].pcpu
    if w.pcpu[prev].idle:
        return prev
    p = w.host[0].idle_head
    while p != NONE:
        if queues.allowed(w, v, p):
            return p
        p = w.pcpu[p].idle_next
    return prev


@jit
def _wakeup_preempts(w: World, v: int, p: int) -> bool:
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
def wake(w: World, v: int, now: int) -> None:
    """Make a blocked vCPU runnable: idle pCPUs first, then preempt where the pick says so (try_to_wake_up)."""
    vcpu = w.vcpu[v]
    vm = w.vm[vcpu.vm]
    vm.wakeups += 1
    if w.se[v].delayed:
        p = vcpu.pcpu
        if eevdf.update_curr(w, p, now):
            queues.request_resched(w, p)
        eevdf.wake_delayed(w, v, now)
    else:
        p = _select_pcpu(w, v)
        queues.attach(w, v, p, now, NO)
    account.set_state(w, v, READY, now)
    pcpu = w.pcpu[p]
    if pcpu.idle:
        queues.set_idle(w, p, NO)
        if w.par[0].wake_ns > 0:
            events.set_time(w, p, now + w.par[0].wake_ns)
        else:
            queues.request_resched(w, p)
        return
    vm.wakeups_queued += 1
    if pcpu.curr == NONE:  # about to pick, for a wakeup before this one
        return
    if pcpu.need_resched == 0 and w.par[0].wakeup_preemption and _wakeup_preempts(w, v, p):
        queues.request_resched(w, p)
