"""The closed forms that the simulator is held against. Times are in whatever unit the arguments have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Queue:
    """A queue of c servers with mean service 1. p_wait: chance that an arrival waits; wait: mean wait of all arrivals;
    throughput: services a unit of time."""

    p_wait: float
    wait: float
    throughput: float


def erlang_c(servers: int, load: float) -> Queue:
    """M/M/c with utilisation `load` and service 1 (Erlang's C formula).

    >>> round(erlang_c(16, 0.8).p_wait, 6), round(erlang_c(16, 0.8).wait, 6)
    (0.304884, 0.095276)
    """
    offered = servers * load
    term = total = 1.0
    for n in range(1, servers):
        term *= offered / n
        total += term
    term *= offered / servers / (1 - load)
    p_wait = term / (total + term)
    return Queue(p_wait, p_wait / (servers * (1 - load)), offered)


def finite_source(servers: int, sources: int, think: float) -> Queue:
    """M/M/c//N: `sources` customers that think exponentially (mean `think`), then need service 1 of `servers` servers.

    The birth-death recursion; an arrival sees the queue as if there were one source less (arrival theorem: Sevcik and
    Mitrani; Lavenberg and Reiser, 1980-81). The mean number in the system, hence the wait, is the same for any order of
    service that does not look at service times, and under equal sharing.
    """
    states = _birth_death(servers, sources, think)
    seen = _birth_death(servers, sources - 1, think)
    throughput = sum(p * min(n, servers) for n, p in enumerate(states))
    waiting = sum(p * (n - servers) for n, p in enumerate(states) if n > servers)
    return Queue(sum(seen[servers:]), waiting / throughput, throughput)


def _birth_death(servers: int, sources: int, think: float) -> Sequence[float]:
    """The stationary probabilities of 0 .. sources customers in the system."""
    logs = [0.0]
    for n in range(1, sources + 1):
        logs.append(logs[-1] + math.log((sources - n + 1) / think / min(n, servers)))
    largest = max(logs)
    weights = [math.exp(log - largest) for log in logs]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def think_for(servers: int, sources: int, load: float) -> float:
    """The mean think time at which the servers of a finite-source queue are busy for a share `load` of the time."""
    low, high = 0.0, 2 * sources / (servers * load)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if finite_source(servers, sources, middle).throughput > servers * load else (low, middle)
        )
    return (low + high) / 2


def repairman(vcpus: int, think: float, hold: float) -> tuple[float, float]:
    """The machine repairman: throughput and mean response (wait and hold) of one lock.

    `vcpus` machines think exponentially (mean `think`) and hold the lock exponentially (mean `hold`).
    """
    queue = finite_source(1, vcpus, think / hold)
    return queue.throughput / hold, (queue.wait + 1) * hold


def ple_exits(spin: int, window: int, cost: int, grow: int) -> int:
    """Pause-loop exits in an undisturbed spin: each comes a window after the last one ended, and windows grow.

    >>> [ple_exits(spin, 16384, 10000, 2) for spin in (50_000, 500_000, 5_000_000, 30_000_000)]
    [1, 4, 8, 10]
    """
    exits, now = 0, window
    while now <= spin:
        exits += 1
        window *= grow
        now += cost + window
    return exits


def shootdown_latency(vms: int, targets: int, slice_: float) -> float:
    """Mean time until the last of `targets` vCPUs has run, when each shares a pCPU with vms - 1 others in slices of
    `slice_`, at independent uniform phases.

    >>> round(shootdown_latency(2, 15, 3.0), 4), round(shootdown_latency(4, 15, 3.0), 4)
    (2.625, 8.25)
    """
    cycle = vms * slice_
    return cycle - slice_ - cycle / (targets + 1) * (1 - float(vms) ** -(targets + 1))


def shootdown_burn(vms: int, targets: int, slice_: float) -> float:
    """Mean time that the sender of a shootdown spins on its pCPU: what is left of its slice, or the latency if shorter.

    After the slice the sender is away for (vms - 1) slices, in which every target runs. With a remainder uniform in a
    slice and latency M, the integral over x of (1 - x/slice) P(M > x); P(M <= x) = ((slice + x) / (vms slice))^targets.

    >>> round(shootdown_burn(2, 15, 3.0), 3), round(shootdown_burn(3, 15, 3.0), 3)
    (1.456, 1.5)
    """
    n = targets
    # the integral of (1 - t) ((1 + t)/vms)^n over t in [0, 1], with u = 1 + t
    tail = (2 * (2.0 ** (n + 1) - 1) / (n + 1) - (2.0 ** (n + 2) - 1) / (n + 2)) / float(vms) ** n
    return slice_ * (0.5 - tail)


def convoy_rate(vcpus: int, vms: int, slice_: float) -> float:
    """Lock operations a unit of time of a FIFO lock whose waiters are preempted: each vCPU gets it once a cycle."""
    return vcpus / (vms * slice_)


def dead_share(vcpus: int, vms: int, hold: float, think: float) -> float:
    """Share of time in which a lock is held by a preempted vCPU, without contention: N u (k-1)/k."""
    return vcpus * hold / (hold + think) * (vms - 1) / vms
