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

from kvmgym.params.errors import MAX_NS, check
from kvmgym.params.host import Host
from kvmgym.params.vm import HostTask, Vm

_UNIT, _FAR_NS, _MOST = 1024, 2**24, 2**62


def check_slices(host: Host, vms: tuple[Vm, ...], host_tasks: tuple[HostTask, ...]) -> None:
    """Refuse a slice that EEVDF's sums of weight x vruntime cannot bear. ValueError."""
    tasks = [task.weight for task in host_tasks]
    if host.group_scheduling:
        weights = [vm.weight for vm in vms] + tasks
        least = min([max(2, vm.weight // min(vm.vcpus, host.pcpus)) for vm in vms] + tasks)
        inside = max(vm.vcpus for vm in vms)
    else:
        weights = [vm.weight for vm in vms for _ in range(vm.vcpus)] + tasks
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


def check_rewarm(host: Host, vms: tuple[Vm, ...]) -> None:
    """Refuse a working set whose re-warm takes more than MAX_NS. ValueError."""
    for place, vm in enumerate(vms):
        kib = vm.workload.working_set_kib
        cost = host.costs.rewarm_ns_at_1mib * (kib / 1024) ** 2
        allowed = f"less: its cache re-warm would take more than {MAX_NS} ns"
        check(cost <= MAX_NS, f"Scenario.vms[{place}].workload working_set_kib", kib, allowed)
