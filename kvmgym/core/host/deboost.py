"""The scheduler half of the 2025-26 series: what makes a directed yield take effect where EEVDF would pass it over.

v1 and v2 push the YIELDER back: at the level where the two chains of entities meet, its vruntime grows by a penalty, so
that the target comes first. v3 credits the TARGET: where it is not eligible it is moved to a small positive lag, if the
two share a pCPU. Source: the series' cover letters and patches, November 2025 to June 2026. Assumed: the size of v3's
credit, which was not public: `lag_credit_scale` slices for each other queued entity. A pair is remembered when the
debooster acts, so that between the limiter (6 ms) and the reverse pair (0.6 ms) the latter never decides.
"""

from __future__ import annotations

from kvmgym.codes import DEBOOST_V1
from kvmgym.core.host import eevdf, entities
from kvmgym.core.jit import jit
from kvmgym.core.layout import NONE
from kvmgym.core.memory import World
from kvmgym.core.records import int64

INTERVAL_NS = 6_000_000  # at most one act a run queue, and one credit from other pCPUs, within this time
REVERSE_NS = 600_000  # a yield back within this time is debounced


@jit
def cap_x2(nr: int) -> int:
    """The largest penalty with `nr` queued entities, in half grans."""
    if nr <= 2:
        return 12
    if nr == 3:
        return 8
    if nr <= 6:
        return 5
    if nr <= 8:
        return 4
    return 3 if nr <= 12 else 2


@jit
def penalty(gran: int, need: int, nr: int, reversed_pair: int) -> int:
    """The virtual time that the yielder is pushed back by [ns at weight 1024]: gran + 1.1 need; right after the reverse
    yield only what is needed; within [gran, cap]."""
    pushed = gran + need + need // 10
    if reversed_pair:
        pushed = min(pushed, max(need, gran))
    return min(max(pushed, gran), cap_x2(nr) * gran // 2)


@jit
def push_back(w: World, me: int, target: int, now: int) -> None:
    """v1 and v2: penalise the running yielder `me` in favour of `target` on the same pCPU, before the forfeit. The
    limiter comes first, so that yields to other pCPUs use it up too; v1's starts anew at every yield."""
    pcpu, unit = w.pcpu[w.vcpu[me].pcpu], w.par[0].unit_ns
    limited = now - pcpu.deboosted_ns <= INTERVAL_NS * unit
    if not limited or w.par[0].yield_deboost == DEBOOST_V1:
        pcpu.deboosted_ns = now
    if limited or w.vcpu[target].pcpu != w.vcpu[me].pcpu or w.se[me].on_rq == 0 or w.se[target].on_rq == 0:
        return
    se = w.se[me]  # two vCPUs of a VM on one pCPU share a queue: their chains meet at the leaves
    if w.rq[se.rq].nr <= 1:
        return
    gran = entities.fair(w.par[0].slice_ns, se.weight)
    need = max(w.se[target].vruntime_ns - se.vruntime_ns, 0)
    reverse = pcpu.pair_from == target and pcpu.pair_to == me and now - pcpu.pair_ns <= REVERSE_NS * unit
    eevdf.advance_vruntime(w, me, penalty(gran, need, w.rq[se.rq].nr, reverse))
    se.deadline_ns = se.vruntime_ns + entities.fair(w.ent[me].slice_ns, se.weight)
    pcpu.pair_ns = now
    pcpu.pair_from = me
    pcpu.pair_to = target


@jit
def credit(w: World, me: int, target: int, now: int) -> None:
    """v3: give the target a positive lag wherever it has none, and end the yielder's slice protection."""
    _credit_target(w, me, target, now)
    pcpu = w.pcpu[w.vcpu[me].pcpu]
    if now - pcpu.deboosted_ns <= INTERVAL_NS * w.par[0].unit_ns:
        return
    pcpu.deboosted_ns = now
    k = int64(me)
    while k != NONE:
        w.se[k].vprot_ns = w.se[k].vruntime_ns
        k = entities.parent(w, k)


@jit
def _credit_target(w: World, me: int, target: int, now: int) -> None:
    """The target's half of the credit; on another pCPU than the yielder's at most once within INTERVAL_NS there."""
    pcpu = w.pcpu[w.vcpu[target].pcpu]
    across = w.vcpu[target].pcpu != w.vcpu[me].pcpu
    if across and now - pcpu.credited_ns <= INTERVAL_NS * w.par[0].unit_ns:
        return
    k = target
    while k != NONE:
        if not eevdf.eligible(w, k):
            others = w.rq[w.se[k].rq].nr - 1
            span = entities.fair(w.ent[k].slice_ns, w.se[k].weight)
            eevdf.move_to_lag(w, k, (span * others * w.par[0].lag_credit_q16) >> 16)
            if across:
                pcpu.credited_ns = now
        k = entities.parent(w, k)
