"""The static tables of a scenario: phases, distributions, quantiles and choices, flattened for the engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kvmgym.codes import KICK_TARGETS, SHOOTDOWN_TARGETS
from kvmgym.core import layout, rng
from kvmgym.params import (
    Barrier,
    Block,
    Branch,
    Choose,
    Compute,
    Dist,
    Get,
    Kick,
    Lock,
    Ops,
    Phase,
    Put,
    Repeat,
    Shootdown,
    Unlock,
    Vm,
)


class Tables:
    """The static tables while they grow: phases, distributions, quantiles, choices."""

    def __init__(self) -> None:
        self.phases: list[dict[str, int]] = []
        self.dists: list[tuple[int, int, int]] = []
        self.known: dict[Dist, int] = {}
        self.quantiles: list[npt.NDArray[np.int64]] = []
        self.chances: list[int] = []

    def dist(self, dist: Dist) -> int:
        """The index of a distribution, entered at its first use."""
        if dist not in self.known:
            self.known[dist] = len(self.dists)
            if dist.kind == "constant":
                self.dists.append((dist.unit_ns, round(dist.numbers[0]), layout.NONE))
            else:
                self.dists.append((dist.unit_ns, 0, sum(map(len, self.quantiles))))
                self.quantiles.append(quantile_table(dist))
        return self.known[dist]

    def choice(self, weights: Sequence[float], targets: Sequence[int]) -> int:
        """The first row in `cum` of a choice: cumulative chances in 1/2^32, then where each leads."""
        total = float(sum(weights))
        first = len(self.chances)
        self.chances += [round(float(part) / total * 2**32) for part in np.cumsum(weights)]
        self.chances += targets
        return first

    def phase(self, kind: int, after: int, **fields: int) -> int:
        """Enter a phase and return its index."""
        self.phases.append({"kind": kind, "next": after, **fields})
        return len(self.phases) - 1


def quantile_table(dist: Dist) -> npt.NDArray[np.int64]:
    """The two-level table that rng.draw reads, int64 [2 * STEPS + 2], its mean corrected to the exact one."""
    steps = rng.STEPS
    coarse = np.arange(steps + 1) / steps
    fine = 1 - (1 - np.arange(steps + 1) / steps) / steps
    fine[-1] = 1 - 2.0**-20  # the table ends here: beyond lies one draw in a million
    coarse[-1] = fine[0]
    rows = [dist.quantiles(coarse), dist.quantiles(fine)]
    means = [(row[:-1] + row[1:]) / 2 for row in rows]
    mean = float(means[0][:-1].sum() + means[1].mean()) / steps
    scale = dist.mean_ns / dist.unit_ns / mean if mean > 0 else 1.0
    return np.concatenate([np.rint(row * scale) for row in rows]).astype(np.int64)


class Program:
    """Flattens the nested phases of one workload into rows of the phase table."""

    def __init__(self, tables: Tables, vm: Vm) -> None:
        self.tables = tables
        self.locks: dict[str, tuple[int, int, int]] = {}  # name -> first lock, count, first row in cum
        first = 0
        for spec in vm.workload.locks:
            weights = [1.0 / rank**spec.zipf for rank in range(1, spec.count + 1)]
            row = tables.choice(weights, [0] * spec.count) if spec.count > 1 else 0
            self.locks[spec.name] = (first, spec.count, row)
            first += spec.count
        gates = [("queue", spec.name) for spec in vm.workload.queues]
        gates += [("barrier", spec.name) for spec in vm.workload.barriers]
        self.gates = {gate: i for i, gate in enumerate(gates)}

    def role(self, program: tuple[Phase, ...]) -> int:
        """Enter a program that runs for ever; returns a row before it, whose end starts the program."""
        first = len(self.tables.phases)
        chance = len(self.tables.chances)
        entry = self._block(program, layout.NONE)
        for phase in self.tables.phases[first:]:
            if phase["next"] == layout.NONE:
                phase["next"] = entry
        for i in range(chance, len(self.tables.chances)):
            if self.tables.chances[i] == layout.NONE:
                self.tables.chances[i] = entry
        return self.tables.phase(layout.PH_OPS, entry)

    def _block(self, phases: tuple[Phase, ...], after: int) -> int:
        """Enter phases that are followed by `after`, last first, and return the first."""
        held: list[bool] = []  # locks are released in reverse order, so an Unlock undoes the last Lock still held
        irq_off: list[bool] = []
        for phase in phases:
            if isinstance(phase, Lock):
                held.append(phase.irq_off)
            irq_off.append(isinstance(phase, Lock | Unlock) and held[-1])
            if isinstance(phase, Unlock):
                held.pop()
        for phase, off in zip(reversed(phases), reversed(irq_off), strict=True):
            after = self._phase(phase, after, off)
        return after

    def _phase(self, phase: Phase, after: int, irq_off: bool) -> int:
        enter, dist = self.tables.phase, self.tables.dist
        match phase:
            case Compute():
                share = round(phase.kernel_share * 65536)
                return enter(
                    layout.PH_COMPUTE, after, dist=dist(phase.dist), kernel_q16=share, option=int(phase.bursty)
                )
            case Lock() | Unlock():
                kind = layout.PH_LOCK if isinstance(phase, Lock) else layout.PH_UNLOCK
                a, b, c = self.locks[phase.lock]
                return enter(kind, after, a=a, b=b, c=c, option=int(irq_off))
            case Shootdown():
                return enter(layout.PH_SHOOTDOWN, after, a=SHOOTDOWN_TARGETS.numbers[phase.targets])
            case Kick():
                return enter(layout.PH_KICK, after, a=KICK_TARGETS.numbers[phase.target])
            case Block():
                return enter(layout.PH_BLOCK, after, dist=dist(phase.dist))
            case Barrier():
                return enter(layout.PH_BARRIER, after, a=self.gates["barrier", phase.barrier])
            case Put():
                return enter(layout.PH_PUT, after, a=self.gates["queue", phase.queue])
            case Get():
                return enter(layout.PH_GET, after, a=self.gates["queue", phase.queue])
            case Ops():
                return enter(layout.PH_OPS, after, a=phase.count)
            case Choose():
                return self._choose(phase.possible, after)
            case Repeat():
                again = enter(layout.PH_AGAIN, after)
                body = self._block(phase.phases, again)
                self.tables.phases[again]["a"] = body
                return enter(layout.PH_REPEAT, body, a=phase.times)

    def _choose(self, branches: tuple[Branch, ...], after: int) -> int:
        entries = [self._block(branch.phases, after) for branch in branches]
        row = self.tables.choice([branch.weight for branch in branches], entries)
        return self.tables.phase(layout.PH_CHOOSE, after, a=len(branches), b=row)
