"""What is compared, policies and trained agents in their groups, and the gain over a baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from kvmgym.measure.metrics import Result
from kvmgym.measure.shown import METRICS
from kvmgym.params import Scenario
from kvmgym.policies import GROUPS as GROUPS

Row = dict[str, Any]
Entrant = TypeVar("Entrant", bound="InGroup")
# Groups of policies in the order of the tables, with their headings.
LEARNED = "learned"  # the group of trained agents, after these
HEADINGS: Mapping[str, str] = MappingProxyType({**GROUPS, LEARNED: LEARNED})


class InGroup(Protocol):
    """Anything that a table has a line for."""

    @property
    def name(self) -> str:
        """Its name there."""
        ...

    @property
    def group(self) -> str:
        """Which of HEADINGS it belongs to."""
        ...


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
    group: str = LEARNED


def grouped(policies: Iterable[Entrant]) -> list[Entrant]:
    """The policies in the order of their groups, bounds first; within a group in their own order."""
    order = list(HEADINGS)
    return sorted(policies, key=lambda policy: order.index(policy.group))


def row_of(result: Result) -> Row:
    """What the tables need of a result, and what it is of. ops_per_s is None where the VMs run different programs."""
    seconds = result.duration_ns / 1e9
    return {
        "scenario": result.scenario,
        "policy": result.policy,
        "seed": result.seed,
        "duration_ns": result.duration_ns,
        "warmup_ns": result.warmup_ns,
        "ops_per_s": None if result.mixed else result.ops_per_s,
        "vm_names": [vm.name for vm in result.vms],
        "vm_programs": [vm.program for vm in result.vms],
        "vm_ops_per_s": [vm.ops_per_s for vm in result.vms],
        **{metric.name: metric.read(result) for metric in METRICS},
        "yields_attempted_per_s": sum(vm.yields_attempted + vm.relaxed_attempted for vm in result.vms) / seconds,
        "lock_wait_p99_ns": max((vm.lock_wait.p99_ns or 0.0 for vm in result.vms), default=0.0),
        "ipi_latency_p99_ns": max((vm.ipi_latency.p99_ns or 0.0 for vm in result.vms), default=0.0),
        "events": result.events,
        "decisions": result.decisions,
    }
