"""Where a woken vCPU goes, and whether it preempts what runs there.

Models kernel/sched/core.c, try_to_wake_up, and fair.c, wakeup_preempt_fair. Left out: wake_affine and the scan for an
idle sibling (the last pCPU, else one that is idle).
"""

from __future__ import annotations

from kvmgym.core import account, events
from kvmgym.core.host import fair, queues
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
def wake(w: World, v: int, now: int) -> None:
    """Make a blocked vCPU runnable: idle pCPUs first, then preempt where the pick says so (try_to_wake_up)."""
    vcpu = w.vcpu[v]
    vm = w.vm[vcpu.vm]
    vm.wakeups += 1
    if w.se[v].delayed:
        p = vcpu.pcpu
        if w.par[0].charge_before_wakeup and fair.update_curr(w, p, now):
            queues.request_resched(w, p)
        fair.wake_queued(w, v, now)
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
    if pcpu.need_resched == 0 and w.par[0].wakeup_preemption and fair.wakeup_preempts(w, v, p):
        queues.request_resched(w, p)
