"""What is compared, policies and trained agents in their groups, and the gain over a baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from kvmgym.measure.metrics import Result
from kvmgym.measure.stats import Interval, interval, paired_gain
from kvmgym.params import Scenario
from kvmgym.policies import Policy

Row = dict[str, Any]
Entrant = TypeVar("Entrant", bound="Policy | Learned")
# Groups of policies in the order of the tables, with their headings.
GROUPS: Mapping[str, str] = MappingProxyType(
    {"bounds": "bound (privileged)", "kernel": "kernel", "series": "series", "others": "others"}
)
LEARNED = "learned"  # the group of trained agents, after these
HEADINGS: Mapping[str, str] = MappingProxyType({**GROUPS, LEARNED: LEARNED})


class Evaluate(Protocol):
    """Runs a trained agent on a scenario for each seed and returns the rows of `row_of`."""

    def __call__(
        self,
        scenario: Scenario,
        seeds: Sequence[int],
        duration_ns: int,
        warmup_ns: int,
        *,
        tell: Callable[[float], None],
    ) -> list[Row]: ...


@dataclass(frozen=True)
class Learned:
    """A trained agent beside policies. digest: of what decides its actions; evaluate: how it is run."""

    name: str
    digest: str
    evaluate: Evaluate
    year: str = "-"
    source: str = "trained agent"
    privileged: bool = False


def group_of(policy: Policy | Learned) -> str:
    """Which of HEADINGS a policy or trained agent belongs to: bounds see the guest, kernel was or is Linux, series is
    of the patch series, whole or in part."""
    if isinstance(policy, Learned):
        return LEARNED
    if policy.privileged:
        return "bounds"
    if policy.source.startswith("Linux"):
        return "kernel"
    return "others" if policy.year == "-" else "series"


def grouped(policies: Iterable[Entrant]) -> list[Entrant]:
    """The policies in the order of their groups, bounds first; within a group in their own order."""
    order = list(HEADINGS)
    return sorted(policies, key=lambda policy: order.index(group_of(policy)))


def row_of(result: Result) -> Row:
    """What the tables need of a result, and what it is of."""
    seconds = result.duration_ns / 1e9
    return {
        "scenario": result.scenario,
        "policy": result.policy,
        "seed": result.seed,
        "duration_ns": result.duration_ns,
        "warmup_ns": result.warmup_ns,
        "ops_per_s": result.ops_per_s,
        "vm_ops_per_s": [vm.ops_per_s for vm in result.vms],
        "wasted_share": result.wasted_share,
        "fairness": result.fairness,
        "ple_exits_per_s": sum(vm.ple_exits for vm in result.vms) / seconds,
        "yields_ok_per_s": sum(vm.yields_ok + vm.relaxed_ok for vm in result.vms) / seconds,
        "yields_attempted_per_s": sum(vm.yields_attempted + vm.relaxed_attempted for vm in result.vms) / seconds,
        "lock_wait_p99_ns": max((vm.lock_wait.p99_ns or 0.0 for vm in result.vms), default=0.0),
        "ipi_latency_p99_ns": max((vm.ipi_latency.p99_ns or 0.0 for vm in result.vms), default=0.0),
        "events": result.events,
        "decisions": result.decisions,
    }


@dataclass(frozen=True)
class Cell:
    """A policy on a scenario: gain over the baseline, paired by seed, and means over the seeds."""

    scenario: str
    policy: str
    gain: Interval
    ops_per_s: Interval
    wasted_share: float
    ple_exits_per_s: float
    yields_ok_per_s: float
    fairness: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; gains as fractions."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in ("scenario", "policy")}
        for name in ("gain", "ops_per_s"):
            value: Interval = getattr(self, name)
            plain[name] = {"mean": value.mean, "low": value.low, "high": value.high, "seeds": value.n}
        for name in ("wasted_share", "ple_exits_per_s", "yields_ok_per_s", "fairness"):
            plain[name] = getattr(self, name)
        return plain


def cells(rows: Iterable[dict[str, Any]], baseline: str, level: float = 0.95) -> list[Cell]:
    """One Cell for each scenario and policy of the rows, in their order."""
    grouped: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault((row["scenario"], row["policy"]), {})[row["seed"]] = row
    found = []
    for (scenario, policy), by_seed in grouped.items():
        base = grouped[scenario, baseline]
        values = {name: [row[name] for row in by_seed.values()] for name in next(iter(by_seed.values()))}
        means = {
            name: sum(values[name]) / len(values[name])
            for name in ("wasted_share", "ple_exits_per_s", "yields_ok_per_s", "fairness")
        }
        gain = paired_gain(values["ops_per_s"], [base[seed]["ops_per_s"] for seed in by_seed], level)
        found.append(Cell(scenario, policy, gain, interval(values["ops_per_s"], level), **means))
    return found
