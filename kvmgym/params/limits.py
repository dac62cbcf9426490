"""What 64 bits bear: the products that the core forms of times and weights, bounded before anything runs.

EEVDF keeps, for each queue, the sum over its entities of weight x (vruntime - V's reference), and compares load x
distance with it (core/host/eevdf.py, `eligible`). An entity is at most a slice and a tick from V, 1024 / weight times
as long in virtual time, and the reference is at most 2^24 ns behind. So with `load` the sum of the weights that can
meet in a queue and `least` the least of them,

    load * (1024 * (slice + tick) / least + 2^24) <= 2^62

keeps every product inside 64 bits. A group's weight is its VM's, shared out over the pCPUs, and at least 2. The credit
of the series' v3 is a multiple of the slice in 2^-16 for each other entity: (entities * scale * 2^16) * slice too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmgym.params.errors import MAX_NS, check
from kvmgym.params.program import Compute, walk

if TYPE_CHECKING:
    from kvmgym.params.scenario import Scenario
    from kvmgym.params.workload import Workload

_UNIT, _FAR_NS, _MOST = 1024, 2**24, 2**62
_TURNS = 10_000  # of a burst within one stretch of compute: each is a step of a loop


def check_slices(scenario: Scenario) -> None:
    """Refuse a slice that EEVDF's sums of weight x vruntime cannot bear. ValueError."""
    host = scenario.host
    tasks = [task.weight for task in scenario.host_tasks]
    if host.group_scheduling:
        weights = [vm.weight for vm in scenario.vms] + tasks
        least = min([max(2, vm.weight // min(vm.vcpus, host.pcpus)) for vm in scenario.vms] + tasks)
        inside = max(vm.vcpus for vm in scenario.vms)
    else:
        weights = [vm.weight for vm in scenario.vms for _ in range(vm.vcpus)] + tasks
        least, inside = min(weights), 0
    load = sum(weights)
    most = (_MOST // load - _FAR_NS) * least // _UNIT - host.tick_ns
    if inside:  # a group's own queue: each vCPU or task weighs 1024
        most = min(most, _MOST // (inside * _UNIT) - _FAR_NS - host.tick_ns)
    credit = round(host.lag_credit_scale * 65536) * (len(weights) + inside)
    if host.yield_deboost == "v3" and credit > 0:
        most = min(most, _MOST // credit * least // _UNIT)
    if host.base_slice_ns > most:
        field = "Host.slice_ns" if host.slice_ns is not None else "Host.tick_scale"
        value = host.slice_ns if host.slice_ns is not None else host.tick_scale
        check(False, field, value, f"less: weights of {load} together and {least} at least bear slices up to {most} ns")


def check_rewarm(scenario: Scenario) -> None:
    """Refuse a working set whose re-warm takes more than MAX_NS. ValueError."""
    for place, vm in enumerate(scenario.vms):
        kib = vm.workload.working_set_kib
        cost = scenario.host.costs.rewarm_ns_at_1mib * (kib / 1024) ** 2
        allowed = f"less: its cache re-warm would take more than {MAX_NS} ns"
        check(cost <= MAX_NS, f"Scenario.vms[{place}].workload working_set_kib", kib, allowed)


def check_bursts(workload: Workload) -> None:
    """Refuse bursts that are too short for the stretches that follow them, or too strong. ValueError."""
    burst = workload.burst
    if burst is None:
        return
    for number, role in enumerate(workload.roles):
        for here, phase in walk(role.program, f"Workload({workload.name}).roles[{number}].program"):
            if isinstance(phase, Compute) and phase.bursty:
                longest = phase.dist.longest_ns * (1 + burst.factor) / 2
                check(
                    longest * 65536 <= _MOST, f"{here}.dist", phase.dist, "shorter: a burst multiplies it past 64 bits"
                )
                enough = longest <= _TURNS * burst.mean_ns * burst.unit_ns
                allowed = f"at least 1/{_TURNS} of the longest bursty Compute ({longest:g} ns at {here})"
                check(enough, "Burst.mean_ns", burst.mean_ns, allowed)
