"""What the benchmarks share: figures with their targets, the machine in words, the hosts that are measured."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kvmgym.params import Scenario
from kvmgym.scenarios import equal_vms

WARMUP_NS = 50_000_000
MS = 1_000_000


@dataclass(frozen=True)
class Figure:
    """One measured figure. target: what it must reach, with its sense; met: whether it does (None: no target)."""

    name: str
    value: float
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
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model}, {os.cpu_count()} CPUs, {platform.system()}, Python {platform.python_version()}"


def scenario_of(pcpus: int, vms: int, vcpus: int) -> Scenario:
    """dedup on a host of `pcpus` pCPUs with `vms` VMs of `vcpus` vCPUs."""
    return equal_vms(f"dedup-{pcpus}x{vms * vcpus}", "dedup", pcpus, vms, vcpus)


def timed(work: Callable[[], Any]) -> float:
    """The seconds of wall time that some work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
