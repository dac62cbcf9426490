"""The reward of a step: named, pure terms of what passed on the host since the last one, and weights that are data.

The default reward is `progress` alone: minus the time that the host's pCPUs lost (spinning, host work, idleness). A run
of fixed length T on P pCPUs has P·T of pCPU time, and what is not lost is useful guest time; an operation takes a fixed
useful time (kvmgym.workloads). So the sum of the rewards is the throughput but for a constant, and its optimum is the
largest throughput. Counting what is lost, not what is gained, keeps a step's reward from growing with its length.

The other terms are there to shape or to study; one with a weight of 0 reads 0. The unit of all is
100 µs of the whole host. Spins are counted when a stretch ends and host work when it begins, so a single step is exact
to the stretches under way and the sum over an episode to one stretch a vCPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvmgym.core.jit import face_jit
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
)
K = len(TERMS)
SUMS = 4  # of the host: time, spin, overhead, idle; then the CPU time of each VM


def weights(given: Mapping[str, float] | None) -> Any:
    """The weights as float64 [K]: the defaults, or those given with 0 for what is not named. Errors: ValueError for an
    unknown term or a weight that is no number.

    >>> weights({"spin": 2}).tolist()
    [0.0, 2.0, 0.0, 0.0]
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
def read_sums(w, sums):
    """What has passed on the host since the start, int64 [SUMS + G]."""
    host = w.host[0]
    sums[0] = host.now_ns
    sums[1] = host.spin_ns
    sums[2] = host.overhead_ns
    sums[3] = host.idle_ns + host.empty_nr * (host.now_ns - host.idle_since_ns)
    for g in range(w.par[0].vms):
        sums[SUMS + g] = w.vm[g].run_ns


@face_jit
def write_terms(w, before, after, terms):
    """The terms of what passed between two readings of the sums, float64 [K]."""
    unit = 1.0 / (w.par[0].pcpus * UNIT_NS)
    spin = (after[1] - before[1]) * unit
    overhead = (after[2] - before[2]) * unit
    terms[0] = -(spin + overhead + (after[3] - before[3]) * unit)
    terms[1] = -spin
    terms[2] = -overhead
    terms[3] = -(_unfairness(w, after) - _unfairness(w, before)) * unit


@face_jit
def _unfairness(w, sums):
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
