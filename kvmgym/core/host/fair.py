"""The fair scheduler of the host, behind one set of verbs: who calls them does not know which one it is.

A scheduler is a file beside this one (eevdf, cfs) and a branch in each verb. Time is charged lazily, by `update_curr`
before anything that depends on it.
"""

from __future__ import annotations

from kvmgym.codes import SCHED_CFS
from kvmgym.core.host import cfs, eevdf, entities
from kvmgym.core.jit import jit
from kvmgym.core.memory import World


@jit
def update_curr(w: World, p: int, now: int) -> bool:
    """Charge what runs on pCPU `p` up to `now`. True when the pCPU should reschedule."""
    if w.par[0].scheduler == SCHED_CFS:
        cfs.update_curr(w, p, now)
        return False  # CFS looks at slices in the tick only
    return eevdf.update_curr(w, p, now)


@jit
def enqueue(w: World, v: int, rq: int, now: int, initial: int) -> None:
    """Queue a vCPU that is new (`initial`), woken or moved on the queue `rq` of its pCPU, which is charged."""
    if w.par[0].scheduler == SCHED_CFS:
        cfs.enqueue(w, v, rq, now, initial)
    else:
        eevdf.enqueue(w, v, rq, now, initial)


@jit
def wake_queued(w: World, v: int, now: int) -> None:
    """Wake a vCPU that never left its queue (`se.delayed`), as EEVDF alone has them."""
    eevdf.wake_delayed(w, v, now)


@jit
def dequeue(w: World, v: int, sleep: int, now: int) -> None:
    """Take a vCPU off its queue because it sleeps, or moves; its pCPU is charged."""
    if w.par[0].scheduler == SCHED_CFS:
        cfs.dequeue(w, v, sleep, now)
    else:
        eevdf.dequeue(w, v, sleep, now)


@jit
def pick_vcpu(w: World, p: int, now: int) -> int:
    """The vCPU that should run on pCPU `p`, or NONE."""
    if w.par[0].scheduler == SCHED_CFS:
        return cfs.pick_vcpu(w, p)
    return eevdf.pick_vcpu(w, p, now)


@jit
def set_current(w: World, prev: int, chosen: int) -> None:
    """The pCPU of both switches from `prev` to `chosen`, either of which may be NONE."""
    if w.par[0].scheduler == SCHED_CFS:
        cfs.set_current(w, prev, chosen)
    else:
        eevdf.set_current(w, prev, chosen)


@jit
def tick(w: World, p: int, now: int) -> bool:
    """The tick of a busy pCPU: charge, and weigh its group anew. True when the pCPU should reschedule."""
    group = entities.parent(w, w.pcpu[p].curr)
    if w.par[0].scheduler == SCHED_CFS:
        cfs.update_curr(w, p, now)
        cfs.update_group(w, group, now)
        return cfs.tick(w, p)
    resched = eevdf.update_curr(w, p, now)
    eevdf.update_group(w, group, now)
    return resched


@jit
def wakeup_preempts(w: World, v: int, p: int) -> bool:
    """True when the woken vCPU `v` should run now instead of what runs on its pCPU `p`."""
    if w.par[0].scheduler == SCHED_CFS:
        return cfs.wakeup_preempts(w, v, p)
    return eevdf.wakeup_preempts(w, v, p)


@jit
def hint(w: World, target: int) -> None:
    """yield_to's half for the target: next buddy at every level; what that is worth is the pick's business."""
    entities.set_next_buddy(w, target)


@jit
def forfeit(w: World, v: int) -> None:
    """yield_to's half for the running vCPU that yields, which is charged."""
    if w.par[0].scheduler == SCHED_CFS:
        cfs.forfeit(w, v)
    else:
        eevdf.forfeit(w, v)


@jit
def begin(w: World, k: int, left_ns: int) -> None:
    """Let an entity of a root queue, and all below it, begin within their first turn: `left_ns` are drawn for it."""
    if w.par[0].scheduler == SCHED_CFS:
        cfs.begin(w, k, left_ns)
    else:
        eevdf.begin(w, k, left_ns)


@jit
def rank_ns(w: World, k: int) -> int:
    """The virtual time that entities are picked by, the earliest first [ns at weight 1024]."""
    if w.par[0].scheduler == SCHED_CFS:
        return w.se[k].vruntime_ns
    return w.se[k].deadline_ns
