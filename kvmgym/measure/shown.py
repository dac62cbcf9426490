"""The metrics that stand behind a gain: what rows of results keep, cells average over the seeds, and tables show.

METRICS is the one table. To add one: a line here; kvmgym.measure.metrics has what a Result can be asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kvmgym.measure.metrics import Result


@dataclass(frozen=True)
class Metric:
    """One number of a run. name: in rows and JSON; heading: of its column; read: from a result; text: as shown;
    share: it is 0 to 1."""

    name: str
    heading: str
    read: Callable[[Result], float]
    text: Callable[[float], str]
    share: bool = False


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _index(value: float) -> str:
    return f"{value:.3f}"


def _a_second(result: Result, *counters: str) -> float:
    """Counters of all VMs together, a second."""
    return float(sum(getattr(vm, name) for vm in result.vms for name in counters) / (result.duration_ns / 1e9))


METRICS: tuple[Metric, ...] = (
    Metric("wasted_share", "wasted CPU", lambda result: result.wasted_share, _percent, share=True),
    Metric("ple_exits_per_s", "PLE exits/s", lambda result: _a_second(result, "ple_exits"), _count),
    Metric("yields_ok_per_s", "yields/s", lambda result: _a_second(result, "yields_ok", "relaxed_ok"), _count),
    Metric("fairness", "fairness", lambda result: result.fairness, _index, share=True),
)
