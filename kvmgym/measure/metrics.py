"""What a run measured, read off a world after `settle`. Times are ns over the measured window unless they say
otherwise.

State is declared in core/layout.py; here are only sums, rates and quantiles of it.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kvmgym.core import layout
from kvmgym.core.memory import World
from kvmgym.world.blueprint import Blueprint

Counts = npt.NDArray[np.int32]


class MixedProgramsWarning(UserWarning):
    """Operations of VMs that run different programs were added up: chunks and requests have no common sum."""


@dataclass(frozen=True)
class Quantiles:
    """A latency histogram's count and quantiles [ns]; None without an observation. Bins are a quarter octave wide."""

    count: int
    p50_ns: float | None
    p99_ns: float | None
    p999_ns: float | None


@dataclass(frozen=True)
class VcpuMetrics:
    """Where one vCPU's time went: run + ready + blocked = window; spin and overhead are parts of run."""

    run_ns: int
    ready_ns: int
    blocked_ns: int
    spin_ns: int
    overhead_ns: int
    kernel_ns: int
    ple_exits: int

    @property
    def useful_ns(self) -> int:
        """Time on a pCPU that was neither spin nor host work."""
        return self.run_ns - self.spin_ns - self.overhead_ns


@dataclass(frozen=True)
class PcpuMetrics:
    """Where one pCPU's time went: busy + idle + overhead = window."""

    busy_ns: int
    idle_ns: int
    overhead_ns: int
    ready_integral_ns: int
    switches: int
    migrations: int


@dataclass(frozen=True)
class LockMetrics:
    """A guest lock: the integral of waiters over time, and the sum of single waits (Little's law says they agree)."""

    vm: int
    acquires: int
    contended: int
    wait_integral_ns: int
    wait_sum_ns: int


@dataclass(frozen=True)
class VmMetrics:
    """One VM. program: its workload's name; progress: what an operation of it is called. Yields of round 1 are
    yields_*, those of the relaxed round relaxed_*."""

    name: str
    program: str
    progress: str
    ops: int
    ops_per_s: float
    ple_exits: int
    yields_attempted: int
    yields_ok: int
    yields_esrch: int
    relaxed_attempted: int
    relaxed_ok: int
    relaxed_esrch: int
    named_attempted: int
    named_ok: int
    polls: int
    polls_ok: int
    flags_left: int
    guest_switches: int
    preemptions: int
    wakeups: int
    wakeups_queued: int
    lock_acquires: int
    mutex_acquires: int
    lhp_ns: int
    shootdowns: int
    shootdowns_sent: int
    shootdown_ns: int
    kicks: int
    halts: int
    rewarm_spent_ns: int
    ipi_latency: Quantiles
    lock_wait: Quantiles
    shootdown_latency: Quantiles
    vcpus: tuple[VcpuMetrics, ...]

    def total(self, field: str) -> int:
        """The sum of a VcpuMetrics field over the VM's vCPUs."""
        return int(sum(getattr(vcpu, field) for vcpu in self.vcpus))


@dataclass(frozen=True)
class Result:
    """One run. wasted_share: part of the host's time that went into spinning and host work; fairness: Jain's index of
    the VMs' CPU time by weight (1: equal); events and decisions: of the measured window; mixed: the VMs run different
    programs."""

    scenario: str
    policy: str
    seed: int
    duration_ns: int
    warmup_ns: int
    events: int
    decisions: int
    mixed: bool
    wasted_share: float
    fairness: float
    vms: tuple[VmMetrics, ...]
    tasks: tuple[VmMetrics, ...]
    pcpus: tuple[PcpuMetrics, ...]
    locks: tuple[LockMetrics, ...]

    @property
    def ops_per_s(self) -> float:
        """Operations a second of all VMs together, for hosts whose VMs run one program.

        On other hosts the sum is of different things: a MixedProgramsWarning says so (Python shows it once for each
        place in the code). There, read `vms` one by one, and compare runs by kvmgym.measure.gains.
        """
        if self.mixed:
            programs = ", ".join(dict.fromkeys(vm.program for vm in self.vms))
            text = f"Result.ops_per_s of {self.scenario} adds up operations of different programs ({programs})"
            warnings.warn(f"{text}: read vms[i].ops_per_s, compare by kvmgym.measure.gains", MixedProgramsWarning, 2)
        return sum(vm.ops_per_s for vm in self.vms)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; ops_per_s is None where the VMs run different programs."""
        return {**asdict(self), "ops_per_s": None if self.mixed else self.ops_per_s}


def bin_edges() -> npt.NDArray[np.float64]:
    """The lower edges of the latency bins and the upper edge of the last, float64 [HIST_BINS + 1], in ns."""
    steps = layout.HIST_STEPS
    edges = [float(i) for i in range(steps)]
    edges += [float((steps + i) << octave) for octave in range(layout.HIST_OCTAVES - 1) for i in range(steps)]
    return np.array([*edges, float((2 * steps) << (layout.HIST_OCTAVES - 2))])


def quantiles(counts: Counts) -> Quantiles:
    """p50, p99 and p99.9 of a histogram, linear within a bin."""
    total = int(counts.sum())
    if total == 0:
        return Quantiles(0, None, None, None)
    edges, reached = bin_edges(), np.cumsum(counts)
    values = []
    for share in (0.5, 0.99, 0.999):
        place = int(np.searchsorted(reached, share * total))
        before = reached[place] - counts[place]
        part = (share * total - before) / counts[place]
        values.append(float(edges[place] + part * (edges[place + 1] - edges[place])))
    return Quantiles(total, *values)


def jain(shares: npt.NDArray[np.float64]) -> float:
    """Jain's fairness index of shares [N]: 1 when equal, 1/N when one has all (Jain, Chiu, Hawe 1984)."""
    square = float((shares**2).sum())
    return float(shares.sum()) ** 2 / (len(shares) * square) if square > 0 else 1.0


def _vcpus(world: World, first: int, n: int) -> tuple[VcpuMetrics, ...]:
    names = tuple(VcpuMetrics.__dataclass_fields__)
    rows = world.vcpu[first : first + n]
    spins = (rows["act"] > layout.ACT_SEND) & (rows["act"] < layout.ACT_HALT) & (rows["in_irq"] == 0)
    spun = np.maximum(world.host[0]["now_ns"] - rows["spin_from_ns"], 0) * (spins & (rows["state"] == layout.RUNNING))
    unspent = np.maximum(rows["overhead_until_ns"] - world.host[0]["now_ns"], 0) * (rows["state"] == layout.RUNNING)
    corrected = {"overhead_ns": rows["overhead_ns"] - unspent, "spin_ns": rows["spin_ns"] + spun}
    columns = [corrected.get(name, rows[name]) for name in names]
    return tuple(VcpuMetrics(*map(int, row)) for row in zip(*columns, strict=True))


def _vm(blueprint: Blueprint, world: World, g: int, seconds: float) -> VmMetrics:
    row = world.vm[g]
    hist = world.hist.reshape(-1, layout.HISTS, layout.HIST_BINS)[g]
    vm = blueprint.vms[g]
    counted = {name: int(row[name]) for name in VmMetrics.__dataclass_fields__ if name in row.dtype.names}
    counted.pop("vcpus")
    return VmMetrics(
        name=vm.name,
        program=vm.workload.name,
        progress=vm.workload.progress,
        ops_per_s=int(row["ops"]) / seconds,
        ipi_latency=quantiles(hist[layout.HIST_IPI]),
        lock_wait=quantiles(hist[layout.HIST_LOCK]),
        shootdown_latency=quantiles(hist[layout.HIST_SHOOTDOWN]),
        vcpus=_vcpus(world, int(row["first"]), vm.vcpus),
        **counted,
    )


def _pcpus(world: World) -> tuple[PcpuMetrics, ...]:
    now, found = int(world.host[0]["now_ns"]), []
    for row in world.pcpu:
        unspent = 0 if row["curr"] < 0 else max(0, int(world.vcpu[row["curr"]]["overhead_until_ns"]) - now)
        overhead = int(row["overhead_ns"]) - unspent
        counts = (int(row[name]) for name in ("ready_integral_ns", "switches", "migrations"))
        found.append(PcpuMetrics(int(row["used_ns"]) - overhead, int(row["idle_ns"]), overhead, *counts))
    return tuple(found)


def _locks(blueprint: Blueprint, world: World) -> tuple[LockMetrics, ...]:
    now, since = int(world.host[0]["now_ns"]), int(world.host[0]["window_since_ns"])
    begun = np.zeros(len(world.lock), np.int64)
    waiting = world.vcpu[world.vcpu["wait_lock"] >= 0]
    np.add.at(begun, waiting["wait_lock"], now - np.maximum(waiting["wait_since_ns"], since))
    count = int(world.par[0]["locks"])
    names = ("vm", "acquires", "contended", "wait_integral_ns")
    return tuple(
        LockMetrics(**{name: int(row[name]) for name in names}, wait_sum_ns=int(row["wait_sum_ns"] + begun[k]))
        for k, row in enumerate(world.lock[:count])
    )


def read(blueprint: Blueprint, world: World, policy: str, seed: int) -> Result:
    """The Result of a settled world whose window began at its last reset."""
    host = world.host[0]
    warmup, now = int(host["window_since_ns"]), int(host["now_ns"])
    seconds = (now - warmup) / 1e9
    vms = tuple(_vm(blueprint, world, g, seconds) for g in range(len(blueprint.vms)))
    guests = vms[: len(blueprint.scenario.vms)]
    pcpus = _pcpus(world)
    wasted = sum(p.overhead_ns for p in pcpus) + sum(vm.total("spin_ns") for vm in guests)
    shares = np.array([vm.total("run_ns") for vm in guests]) / [vm.weight for vm in blueprint.scenario.vms]
    return Result(
        scenario=blueprint.scenario.name,
        policy=policy,
        seed=seed,
        duration_ns=now - warmup,
        warmup_ns=warmup,
        events=int(host["events"]),
        decisions=int(host["decisions"]),
        mixed=blueprint.scenario.mixed,
        wasted_share=wasted / max((now - warmup) * len(pcpus), 1),
        fairness=jain(shares),
        vms=guests,
        tasks=vms[len(guests) :],
        pcpus=pcpus,
        locks=_locks(blueprint, world),
    )
