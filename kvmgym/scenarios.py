"""The named scenarios: hosts, VMs and what they run. SCENARIOS is the one table.

Ticks and first slices begin at random points, drawn from the seed: begun together, the pCPUs would switch between VMs
in step, as under gang scheduling, until blocking guests shift them. Tags: 2 VMs are for fitting and training, 3 for
choosing, 4 and the workloads outside the series for testing.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from kvmgym.params import Host, Scenario, Vm
from kvmgym.params.errors import lookup
from kvmgym.workloads import BY_NAME as WORKLOADS

SERIES_WORKLOADS = ("dbench", "dedup", "vips")
SERIES_PCPUS = 16
TAGS = {2: "train", 3: "validation", 4: "test"}  # by number of VMs


def equal_vms(
    name: str, workload: str, pcpus: int, vms: int, vcpus: int, tag: str = "test", description: str = ""
) -> Scenario:
    """`vms` VMs of `vcpus` vCPUs that run one workload on `pcpus` pCPUs. Errors: ValueError for an unknown workload."""
    lookup("", "workload", workload, WORKLOADS)
    about = description or f"{vms} VMs of {vcpus} vCPUs on {pcpus} pCPUs: {WORKLOADS[workload].description}"
    guests = tuple(Vm(f"vm{i}", vcpus, WORKLOADS[workload]) for i in range(vms))
    return Scenario(name, Host(pcpus=pcpus, start="random"), guests, description=about, tag=tag)


def series(workload: str, vms: int) -> Scenario:
    """`vms` VMs of 16 vCPUs on 16 pCPUs, as in the published series for 2, 3 and 4 VMs.

    Errors: ValueError for an unknown workload or fewer than 1 VM.

    >>> series("dedup", 4).name, series("dedup", 4).vcpus
    ('dedup-4vm', 64)
    """
    return equal_vms(f"{workload}-{vms}vm", workload, SERIES_PCPUS, vms, SERIES_PCPUS, TAGS.get(vms, "test"))


def small(name: str, workload: str, pcpus: int = 4) -> Scenario:
    """Two VMs, each as wide as a small host."""
    return equal_vms(name, workload, pcpus, 2, pcpus, "train")


SCENARIOS: tuple[Scenario, ...] = (
    series("dbench", 2),
    series("dbench", 3),
    series("dbench", 4),
    series("dedup", 2),
    series("dedup", 3),
    series("dedup", 4),
    series("vips", 2),
    series("vips", 3),
    series("vips", 4),
    small("dbench-small", "dbench"),
    small("dedup-small", "dedup-small"),
    small("vips-small", "vips"),
    equal_vms("ebizzy-2vm", "ebizzy", SERIES_PCPUS, 2, SERIES_PCPUS),
    equal_vms("kernbench-2vm", "kernbench", SERIES_PCPUS, 2, SERIES_PCPUS),
    equal_vms("compute-2vm", "compute", SERIES_PCPUS, 2, SERIES_PCPUS),
    small("hotlock-small", "hotlock"),
    small("shootdowns-small", "shootdowns"),
    small("pingpong-small", "pingpong", pcpus=2),
)

BY_NAME: Mapping[str, Scenario] = MappingProxyType({scenario.name: scenario for scenario in SCENARIOS})
