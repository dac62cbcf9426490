"""What the benchmarks share: figures with their targets, the machine in words, the hosts that are measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kvmgym.measure import provenance
from kvmgym.params import Scenario
from kvmgym.scenarios import equal_vms

WARMUP_NS = 50_000_000
MS = 1_000_000


@dataclass(frozen=True)
class Figure:
    """One measured figure. value: None when what it needs is not installed; target: what it must reach, with its sense;
    met: whether it does (None: no target)."""

    name: str
    value: float | None
    unit: str
    target: str = ""
    met: bool | None = None
    detail: str = ""


def at_least(name: str, value: float, unit: str, low: float, detail: str = "") -> Figure:
    """A figure that should be `low` or more."""
    return Figure(name, value, unit, f">= {low:g}", value >= low, detail)


def at_most(name: str, value: float, unit: str, high: float, detail: str = "") -> Figure:
    """A figure that should be `high` or less."""
    return Figure(name, value, unit, f"<= {high:g}", value <= high, detail)


def machine() -> str:
    """The machine in words."""
    found = provenance.machine()
    return f"{found['cpu']}, {found['cpus']} CPUs, {found['system'].split()[0]}, Python {found['python']}"


def scenario_of(pcpus: int, vms: int, vcpus: int) -> Scenario:
    """dedup on a host of `pcpus` pCPUs with `vms` VMs of `vcpus` vCPUs."""
    return equal_vms(f"dedup-{pcpus}x{vms * vcpus}", "dedup", pcpus, vms, vcpus)


def timed(work: Callable[[], Any]) -> float:
    """The seconds of wall time that some work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
