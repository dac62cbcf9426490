"""The gain of runs over a baseline: the geometric mean over the VMs of each VM's own gain, paired by seed.

VMs that run different programs have no common operation, so operations are never added up: a VM is compared with itself
under the baseline, and all VMs weigh alike. For each seed the logarithms of the VMs' ratios are averaged; mean and
Student-t interval over the seeds are taken of that, and shown as exp(.) - 1. A VM that makes no progress in either run
of a seed is left out there and named. Where a VM stands still in one of the two alone there is no gain, and words say
so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kvmgym.measure.shown import METRICS
from kvmgym.measure.stats import Gain, Interval, interval, log_gain

Row = Mapping[str, Any]  # of kvmgym.measure.compare.row_of

STILL = "stands still"
BASELINE_STILL = "stands still under the baseline alone"
IDLE = "makes no progress in either run"


@dataclass(frozen=True)
class VmGain:
    """One VM under a policy. gain: None when there is none, and `why` says why (STILL, BASELINE_STILL or IDLE).
    left_out: in how many seeds it made no progress in either run."""

    vm: str
    program: str
    ops_per_s: Interval
    gain: Gain | None
    why: str = ""
    left_out: int = 0

    @property
    def text(self) -> str:
        """The gain in per cent, or why there is none."""
        return self.gain.text if self.gain else self.why

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "vm": self.vm,
            "program": self.program,
            "ops_per_s": plain_interval(self.ops_per_s),
            "gain": plain_gain(self.gain),
            "why": self.why,
        }


@dataclass(frozen=True)
class HostGain:
    """All VMs of a host under a policy. gain: the geometric mean; None when a VM stands still in one of the two runs,
    or none makes progress, and `why` says which."""

    gain: Gain | None
    why: str
    vms: tuple[VmGain, ...]

    @property
    def worst(self) -> VmGain | None:
        """The VM with the lowest gain: one that stands still if there is one. None when no VM can be compared."""
        still = [vm for vm in self.vms if vm.why == STILL]
        moving = [(vm.gain.mean, place) for place, vm in enumerate(self.vms) if vm.gain]
        return still[0] if still else self.vms[min(moving)[1]] if moving else None

    @property
    def worst_text(self) -> str:
        """The worst VM's name and gain, as `dedup -12.3 %`."""
        worst = self.worst
        if worst is None:
            return "-"
        return f"{worst.vm} {100 * worst.gain.mean:+.1f} %" if worst.gain else f"{worst.vm} {worst.why}"

    @property
    def left_out(self) -> tuple[str, ...]:
        """The names of the VMs that made no progress in either run of a seed."""
        return tuple(vm.vm for vm in self.vms if vm.left_out)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: gains as fractions, null where there is none."""
        worst = self.worst
        return {
            "gain": plain_gain(self.gain),
            "why": self.why,
            "worst_vm": worst and {"vm": worst.vm, "gain": plain_gain(worst.gain), "why": worst.why},
            "left_out": list(self.left_out),
            "vms": [vm.to_dict() for vm in self.vms],
        }


@dataclass(frozen=True)
class Cell:
    """A policy on a scenario: what the VMs gain over the baseline, and means over the seeds. ops_per_s: of all VMs
    together; None where they run different programs. means: of each of kvmgym.measure.shown.METRICS, which are
    attributes too (cell.fairness: Jain's index of the VMs' CPU time by weight). of: whose gain it is, where the best of
    several stands under a name of its own (kvmgym.measure.bounds)."""

    scenario: str
    policy: str
    host: HostGain
    ops_per_s: Interval | None
    means: Mapping[str, float]
    of: str = ""

    def __getattr__(self, name: str) -> float:
        """A mean by the name of its metric."""
        means: Mapping[str, float] = self.__dict__.get("means", {})
        if name not in means:
            raise AttributeError(f"Cell has no {name}")
        return means[name]

    @property
    def gain(self) -> Gain | None:
        """The geometric mean over the VMs; None where there is none, and host.why says why."""
        return self.host.gain

    @property
    def text(self) -> str:
        """The gain in per cent, or why there is none."""
        return self.gain.text if self.gain else self.host.why

    @property
    def mixed(self) -> bool:
        """Whether the VMs run different programs."""
        return len({vm.program for vm in self.host.vms}) > 1

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; gains as fractions, null where there is none."""
        return {
            "scenario": self.scenario,
            "policy": self.policy,
            **self.host.to_dict(),
            "ops_per_s": self.ops_per_s and plain_interval(self.ops_per_s),
            **self.means,
        }


def cells(rows: Iterable[Row], baseline: str, level: float = 0.95) -> list[Cell]:
    """One Cell for each scenario and policy of the rows, in their order.

    Errors: ValueError when the baseline has no row for a scenario and seed.
    """
    by_place: dict[tuple[str, str], dict[int, Row]] = {}
    for row in rows:
        by_place.setdefault((row["scenario"], row["policy"]), {})[row["seed"]] = row
    found = []
    for (scenario, policy), by_seed in by_place.items():
        base, mine = by_place.get((scenario, baseline), {}), list(by_seed.values())
        lacking = [seed for seed in by_seed if seed not in base]
        if lacking:
            raise ValueError(f"baseline = {baseline}: has no row of {scenario} for seed {lacking[0]}")
        host = host_gain(mine, [base[seed] for seed in by_seed], level)
        total = [row["ops_per_s"] for row in mine]
        rate = None if None in total else interval(total, level)
        means = {metric.name: math.fsum(row[metric.name] for row in mine) / len(mine) for metric in METRICS}
        found.append(Cell(scenario, policy, host, rate, means))
    return found


def host_gain(rows: Sequence[Row], baseline: Sequence[Row], level: float = 0.95) -> HostGain:
    """What the VMs of one scenario gain over the baseline's rows, paired by place (the same seed).

    Errors: ValueError when the rows are not of as many seeds and of the same VMs.
    """
    if len(rows) != len(baseline):
        raise ValueError(f"baseline has {len(baseline)} rows: must be {len(rows)}, one for each seed")
    names = rows[0]["vm_names"]
    for row in (*rows, *baseline):
        if row["vm_names"] != names:
            raise ValueError(f"vm_names = {row['vm_names']}: must be {names}, as in the first row")
    mine, base = ([row["vm_ops_per_s"] for row in table] for table in (rows, baseline))
    vms = tuple(
        _vm_gain(name, rows[0]["vm_programs"][g], [ops[g] for ops in mine], [ops[g] for ops in base], level)
        for g, name in enumerate(names)
    )
    for why in (STILL, BASELINE_STILL):
        named = [vm.vm for vm in vms if vm.why == why]
        if named:
            several = f"{named[0]} and {len(named) - 1} more {why.replace('stands', 'stand')}"
            return HostGain(None, several if len(named) > 1 else f"{named[0]} {why}", vms)
    means = [logs for logs in map(_mean_log, mine, base) if logs is not None]
    return HostGain(log_gain(means, level), "", vms) if means else HostGain(None, f"every VM {IDLE}", vms)


def _vm_gain(vm: str, program: str, mine: Sequence[float], base: Sequence[float], level: float) -> VmGain:
    """The gain of one VM from its operations a second by seed."""
    rate, pairs = interval(mine, level), list(zip(mine, base, strict=True))
    left_out = sum(value == was == 0 for value, was in pairs)
    why = (
        STILL if any(value == 0 < was for value, was in pairs)
        else BASELINE_STILL if any(was == 0 < value for value, was in pairs)
        else IDLE if left_out == len(pairs)
        else ""
    )  # fmt: skip
    gain = None if why else log_gain([math.log(value / was) for value, was in pairs if was > 0], level)
    return VmGain(vm, program, rate, gain, why, left_out)


def _mean_log(mine: Sequence[float], base: Sequence[float]) -> float | None:
    """The mean over the VMs of log(mine / base) in one seed; None when none makes progress."""
    logs = [math.log(value / was) for value, was in zip(mine, base, strict=True) if was > 0]
    return math.fsum(logs) / len(logs) if logs else None


def plain_gain(gain: Gain | None) -> dict[str, Any] | None:
    """Plain data for JSON: what is infinite (of one seed) is null."""
    if gain is None:
        return None
    ends = {name: finite(getattr(gain, name)) for name in ("mean", "low", "high", "half_width")}
    return {**ends, "seeds": gain.n}


def plain_interval(found: Interval) -> dict[str, Any]:
    """Plain data for JSON: what is infinite (of one seed) is null."""
    return {**{name: finite(getattr(found, name)) for name in ("mean", "low", "high")}, "seeds": found.n}


def finite(value: float) -> float | None:
    """The value, or None for what JSON has no word for."""
    return value if math.isfinite(value) else None
