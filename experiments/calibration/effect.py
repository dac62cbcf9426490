"""How many successful yields take effect, read off a trace: does the target run at once, and where was it?"""

from __future__ import annotations

from typing import Any

from kvmgym.core import engine, layout
from kvmgym.core.memory import view
from kvmgym.measure.simulate import advance
from kvmgym.params import Scenario
from kvmgym.params.errors import check
from kvmgym.policies import Policy
from kvmgym.world.blueprint import Blueprint

AT_ONCE_NS = 20_000  # yield, reschedule and switch take about 5 µs
ROWS = 1_500_000


def hint_effect(scenario: Scenario, policy: Policy, seed: int, begin_ns: int, end_ns: int) -> dict[str, float]:
    """Shares of the successful yields between begin_ns and end_ns: target on the yielder's pCPU, target running within
    AT_ONCE_NS, for all and by whether the pCPU was the same."""
    blueprint = Blueprint(policy.prepare(scenario), ROWS)
    row = blueprint.worlds([seed])[0]
    world = view(row, blueprint.static)
    policy.install(world)
    advance(blueprint, row, end_ns, policy)
    engine.settle_row(row, blueprint.static, layout.NO)
    count = int(world.host[0]["trace_len"])
    check(count <= ROWS, "end_ns", end_ns, f"early enough for {ROWS} rows of trace")
    return read(world.trace[:count], begin_ns)


def read(trace: Any, begin_ns: int) -> dict[str, float]:
    """The shares from trace rows in order of time."""
    place: dict[int, int] = {}
    waiting: dict[int, list[tuple[int, bool]]] = {}
    yields, same, hits = 0, 0, {True: 0, False: 0}
    moves = (layout.TR_RUN, layout.TR_PREEMPT, layout.TR_WAKE, layout.TR_MIGRATE)
    columns = (trace[name].tolist() for name in ("time_ns", "kind", "vcpu", "arg"))
    for now, kind, vcpu, arg in zip(*columns, strict=True):
        if kind in moves:
            place[vcpu] = arg
        if kind == layout.TR_RUN:
            for since, here in waiting.pop(vcpu, []):
                hits[here] += now - since <= AT_ONCE_NS
        elif kind == layout.TR_YIELD and arg % 4 == 2 and now >= begin_ns:
            target = arg // 4
            here = place.get(target) == place.get(vcpu)
            yields, same = yields + 1, same + here
            waiting.setdefault(target, []).append((now, here))
    other = yields - same
    return {
        "yields": yields,
        "same_pcpu": same / max(yields, 1),
        "at_once": sum(hits.values()) / max(yields, 1),
        "at_once_same_pcpu": hits[True] / max(same, 1),
        "at_once_other_pcpu": hits[False] / max(other, 1),
    }
