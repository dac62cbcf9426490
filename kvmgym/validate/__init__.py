"""`kvmgym validate`: the simulator against exact and closed-form results. CHECKS is the one table.

A check makes scenarios in which theory (in V9: a publication) knows the answer, runs them, and compares. Every scenario
is public input: nothing here reaches into the engine.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from kvmgym.params.errors import check as require
from kvmgym.params.errors import lookup
from kvmgym.validate import conservation, controls, invariance, queueing, series, spinning, stalls
from kvmgym.validate.lab import Lab, Progress
from kvmgym.validate.report import markdown, render, to_dict
from kvmgym.validate.rows import Check, Outcome, Row

__all__ = ["CHECKS", "Check", "Outcome", "Row", "markdown", "render", "run_checks", "to_dict"]

CHECKS: tuple[Check, ...] = (
    Check(
        "V1",
        "pCPUs as servers of a queue",
        "M/M/c//N by the birth-death recursion and the arrival theorem; in brackets the open M/M/c; service 1, costs 0",
        queueing.check_cpu_queue,
    ),
    Check(
        "V2",
        "a lock as a repairman",
        "machine repairman M/M/1//N with exponential think time Z and holds of 1 µs, a pCPU for each vCPU",
        queueing.check_lock_queue,
    ),
    Check(
        "V3",
        "conservation and Little's law",
        "equality in whole ns, over all scenarios and all policies with every mechanism at work",
        conservation.check_conservation,
    ),
    Check(
        "V4",
        "pause-loop exits of an undisturbed spin",
        "arithmetic: an exit each window, the next window after 1 µs of host work, growing or not",
        spinning.check_exits,
    ),
    Check(
        "V5",
        "shootdown latency",
        "(k-1)q - kq/(n+1) (1 - k^-(n+1)) for n = 15 targets, q = 3 ms, the sender alone on its pCPU",
        stalls.check_latency,
    ),
    Check(
        "V6",
        "CPU burnt a shootdown",
        "the integral over [0, q] of (1 - x/q) (1 - ((q + x)/(kq))^n) for n = 15 targets, q = 3 ms",
        stalls.check_burn,
    ),
    Check(
        "V7",
        "FIFO convoy under preemption",
        "N/(kq): each of N = 16 vCPUs takes the lock once a cycle",
        stalls.check_convoy,
    ),
    Check(
        "V8",
        "lock-holder preemption",
        "dead share N u (k-1)/k, N = 16, u = 2/3002; with one lock for all vCPUs to first order",
        stalls.check_dead_share,
    ),
    Check(
        "V9",
        "the series on its own scenario",
        "the published gain over legacy in %, in a band at 2 VMs, in its sign at 3 and 4; what legacy has to waste",
        series.check_series,
    ),
    Check(
        "V10",
        "negative controls",
        "no gain over legacy, under any policy, where no vCPU waits for a pCPU or none spins",
        controls.check_controls,
    ),
    Check(
        "V11",
        "fairness",
        "1/k of the pCPUs for each of k equal VMs over 10 s, under every policy of a kernel or of the series",
        controls.check_fairness,
    ),
    Check(
        "V12",
        "invariances",
        "the same numbers, permuted or multiplied; the same trace for the same seed",
        invariance.check_invariance,
    ),
)


def run_checks(
    ids: Sequence[str] | None = None, quick: bool = False, progress: Progress | None = None, threads: int = 1
) -> list[Outcome]:
    """Run the checks named in `ids` (None: all), in the order of CHECKS.

    quick: shorter runs with fewer rows and wider intervals, which then say so. progress: called with the share done and
    the check that runs. The results do not depend on `threads`. Errors: ValueError for an unknown check or threads < 1.
    """
    names = [check.id for check in CHECKS]
    for name in ids or ():
        lookup("", "check", name, names)
    require(threads >= 1, "threads", threads, "1 or more")
    chosen = [check for check in CHECKS if ids is None or check.id in ids]
    lab = Lab(quick, threads, progress)
    outcomes = []
    for check in lab.each(chosen):
        lab.title = f"{check.id} {check.title}"
        began = time.perf_counter()
        rows = tuple(check.function(lab))
        outcomes.append(Outcome(check, rows, quick, time.perf_counter() - began))
    return outcomes
