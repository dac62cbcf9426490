"""The reward of a step: named, pure terms of what passed on the host since the last one, and weights that are data.

The default reward is `progress` alone: minus the time that the host's pCPUs lost (spinning, host work, idleness). A run
of fixed length T on P pCPUs has P·T of pCPU time, and what is not lost is useful guest time. So the sum of the rewards
is the useful CPU time of all VMs together but for a constant, and that is its optimum. An operation takes a fixed
useful time (kvmgym.workloads), so where all VMs run one program it is the largest throughput. Counting what is lost,
not what is gained, keeps a step's reward from growing with its length.

Where VMs run different programs their useful times are not worth the same, and `headline` has the optimum that
comparisons have (kvmgym.measure.gains). It is the growth of the mean over the VMs of log(1 + useful time / 100 µs), the
useful time counted since the start: a microsecond weighs 1 over what its VM has had so far, so the weights by VM find
themselves. The sum over an episode is a function of its end, and the difference between two returns of one world is the
logarithm of the gain, with useful time in the place of operations. It reads what `progress` reads, but by VM and to the
moment.

The other terms are there to shape or to study; one with a weight of 0 reads 0. The unit of all but `headline` is
100 µs of the whole host. Spins are counted when a stretch ends and host work when it begins, so a single step is exact
to the stretches under way and the sum over an episode to one stretch a vCPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvmgym.codes import places
from kvmgym.core.account import spun_since
from kvmgym.core.jit import face_jit
from kvmgym.core.layout import RUNNING
from kvmgym.core.memory import World
from kvmgym.core.records import Numbers
from kvmgym.params.errors import check, lookup, number

UNIT_NS = 100_000  # of each pCPU


@dataclass(frozen=True)
class Term:
    """A reward term. weight: in the default reward."""

    name: str
    weight: float
    meaning: str


TERMS: tuple[Term, ...] = (
    Term("progress", 1.0, "minus the pCPU time lost to spinning, host work and idleness"),
    Term("spin", 0.0, "minus the pCPU time spent spinning"),
    Term("overhead", 0.0, "minus the pCPU time in exits, switches and other host work"),
    Term("fairness", 0.0, "minus the growth of half the sum of differences between the VMs' CPU time and their shares"),
    Term("headline", 0.0, "the growth of the mean over the VMs of log(1 + useful time since the start / 100 µs)"),
)
K = len(TERMS)
TERM = places(term.name for term in TERMS)
SUM = places(("now_ns", "spin_ns", "overhead_ns", "idle_ns", "headline"))  # of the host
SUMS = len(SUM)  # then comes the CPU time of each VM
LOG_UNIT = 2.0**40  # of the sum `headline`: 1 in the logarithm


def weights(given: Mapping[str, float] | None) -> Any:
    """The weights as float64 [K]: the defaults, or those given with 0 for what is not named. Errors: ValueError for an
    unknown term or a weight that is no number.

    >>> weights({"spin": 2}).tolist()
    [0.0, 2.0, 0.0, 0.0, 0.0]
    """
    if given is None:
        return np.array([term.weight for term in TERMS])
    names = [term.name for term in TERMS]
    right = isinstance(given, Mapping) and all(isinstance(name, str) for name in given)
    check(right, "reward", given, "None or a table of weights by term")
    found = np.zeros(K)
    for name, value in given.items():
        lookup("", "reward term", name, names)
        found[names.index(name)] = number(f"reward[{name}]", value, -1e9, 1e9)
    return found


@face_jit
def read_sums(w: World, sums: Numbers, headline: int) -> None:
    """What has passed on the host since the start, int64 [SUMS + G]. headline: whether its sum is wanted, which costs a
    look at each vCPU."""
    host = w.host[0]
    sums[SUM.now_ns] = host.now_ns
    sums[SUM.spin_ns] = host.spin_ns
    sums[SUM.overhead_ns] = host.overhead_ns
    sums[SUM.idle_ns] = host.idle_ns + host.empty_nr * (host.now_ns - host.idle_since_ns)
    sums[SUM.headline] = int(_mean_log(w) * LOG_UNIT) if headline else 0
    for g in range(w.par[0].vms):
        sums[SUMS + g] = w.vm[g].run_ns


@face_jit
def write_terms(w: World, before: Numbers, after: Numbers, terms: Numbers) -> None:
    """The terms of what passed between two readings of the sums, float64 [K]."""
    unit = 1.0 / (w.par[0].pcpus * UNIT_NS)
    spin = (after[SUM.spin_ns] - before[SUM.spin_ns]) * unit
    overhead = (after[SUM.overhead_ns] - before[SUM.overhead_ns]) * unit
    terms[TERM.progress] = -(spin + overhead + (after[SUM.idle_ns] - before[SUM.idle_ns]) * unit)
    terms[TERM.spin] = -spin
    terms[TERM.overhead] = -overhead
    terms[TERM.fairness] = -(_unfairness(w, after) - _unfairness(w, before)) * unit
    terms[TERM.headline] = (after[SUM.headline] - before[SUM.headline]) / LOG_UNIT


@face_jit
def _mean_log(w: World) -> float:
    """The mean over the VMs of log(1 + useful time / UNIT_NS), to the moment."""
    now = w.host[0].now_ns
    total = 0.0
    vms = 0
    for g in range(w.par[0].vms):
        vm = w.vm[g]
        if vm.is_task:
            continue
        useful = now - now
        for v in range(vm.first, vm.first + vm.vcpus):
            vcpu = w.vcpu[v]
            useful += vcpu.run_ns - vcpu.spin_ns - vcpu.overhead_ns - spun_since(vcpu, now)
            if vcpu.state == RUNNING:
                useful += now - vcpu.state_since_ns + max(vcpu.overhead_until_ns - now, 0)
        total += math.log1p(max(useful, 0) / UNIT_NS)
        vms += 1
    return total / vms


@face_jit
def _unfairness(w: World, sums: Numbers) -> float:
    """How far the CPU time of the VMs since the start is from their shares of it: half the sum of differences [ns]."""
    ran = 0
    shares = 0
    for g in range(w.par[0].vms):
        if w.vm[g].is_task == 0:
            ran += sums[SUMS + g]
            shares += w.vm[g].shares
    off = 0.0
    for g in range(w.par[0].vms):
        if w.vm[g].is_task == 0:
            off += abs(sums[SUMS + g] - ran * w.vm[g].shares / shares)
    return 0.5 * off
