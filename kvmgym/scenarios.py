"""The named scenarios: hosts, VMs and what they run. SCENARIOS is the one table, EPISODES_NS its long episodes.

A name is the workload, the host when it is not that of the series (`12p`: 12 pCPUs), what is special, and the number of
VMs. Ticks and first slices begin at random points, drawn from the seed: begun together, the pCPUs would switch between
VMs in step, as under gang scheduling, until blocking guests shift them. Halt polling is on with KVM's longest poll.

Tags: the series of 2 VMs and the small ones are for fitting and training, the series of 3 VMs is for choosing; all
other hosts, and all workloads outside the series, stay unseen until the test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kvmgym.params import HaltPoll, Host, Scenario, Vm, Workload
from kvmgym.params.errors import check, fail, integer, lookup
from kvmgym.workloads import BY_NAME as WORKLOADS
from kvmgym.workloads import guest_tasks

SERIES_WORKLOADS = ("dbench", "dedup", "vips")
SERIES_PCPUS = 16
TAGS = {2: "train", 3: "validation", 4: "test"}  # by number of VMs
HALT_POLL = HaltPoll(max_ns=200_000)
# The parallel workloads that run beside a hog.
BESIDE_HOG = (*SERIES_WORKLOADS, "kernbench", "ebizzy", "pbzip2", "exim", "memclone", "psearchy", "streamcluster",
              "hackbench")  # fmt: skip


def host(pcpus: int, **fields: Any) -> Host:
    """A host as the named scenarios have it; `fields` are further fields of Host. Errors: ValueError, TypeError."""
    return Host(pcpus=pcpus, start="random", **{"halt_poll": HALT_POLL, **fields})


def _workload(name: object) -> Workload:
    """The workload of a name. ValueError for an unknown one."""
    check(isinstance(name, str), "workload", name, "the name of a workload (kvmgym list workloads)")
    assert isinstance(name, str)
    lookup("", "workload", name, WORKLOADS)
    return WORKLOADS[name]


def guest(name: str, workload: str, vcpus: int, **fields: Any) -> Vm:
    """A VM that runs a workload, with as many guest tasks as that has; `fields` are further fields of Vm.

    Errors: ValueError for an unknown workload or an impossible number of vCPUs.

    >>> guest("vm", "hackbench", 12).tasks
    40
    """
    chosen = _workload(workload)
    vcpus = integer("vcpus", vcpus, 1, 1024)
    return Vm(name, vcpus, chosen, **{"tasks": guest_tasks(chosen, vcpus), **fields})


def equal_vms(
    name: str, workload: str, pcpus: int, vms: int, vcpus: int, tag: str = "test", description: str = "", **fields: Any
) -> Scenario:
    """`vms` VMs of `vcpus` vCPUs that run one workload on `pcpus` pCPUs; `fields` are further fields of each Vm.

    Errors: ValueError for an unknown workload.
    """
    vms, pcpus = integer("vms", vms, 1, 1024), integer("pcpus", pcpus, 1, 512)
    guests = tuple(guest(f"vm{i}", workload, vcpus, **fields) for i in range(vms))
    many = f"{vms} VMs" if vms > 1 else "1 VM"
    about = description or f"{many} of {vcpus} vCPUs on {pcpus} pCPUs: {WORKLOADS[workload].description}"
    return Scenario(name, host(pcpus), guests, description=about, tag=tag)


def series(workload: str, vms: int) -> Scenario:
    """`vms` VMs of 16 vCPUs on 16 pCPUs, as in the published series for 2, 3 and 4 VMs.

    Errors: ValueError for an unknown workload or an impossible number of VMs.

    >>> series("dedup", 4).name, series("dedup", 4).vcpus
    ('dedup-4vm', 64)
    """
    workload, vms = _workload(workload).name, integer("vms", vms, 1, 64)
    return equal_vms(f"{workload}-{vms}vm", workload, SERIES_PCPUS, vms, SERIES_PCPUS, TAGS.get(vms, "test"))


def small(name: str, workload: str, pcpus: int = 4, tag: str = "train") -> Scenario:
    """Two VMs, each as wide as a small host."""
    return equal_vms(name, workload, pcpus, 2, pcpus, tag)


def full_width(workload: str, pcpus: int, vms: int, suffix: str = "", about: str = "", **fields: Any) -> Scenario:
    """VMs each as wide as a host that is not the series'; `suffix` and `about` say what the fields of Vm change."""
    name = f"{workload}-{pcpus}p{suffix}-{vms}vm"
    description = f"{vms} VM{'s' * (vms > 1)} as wide as a host of {pcpus} pCPUs{about}"
    return equal_vms(name, workload, pcpus, vms, pcpus, description=description, **fields)


def beside_hog(workload: str, slice_ms: int) -> Scenario:
    """A parallel workload and a hog, both as wide as a host of 12 pCPUs, on slices of `slice_ms`."""
    guests = (guest("vm", workload, 12), guest("hog", "swaptions", 12))
    about = f"{workload} beside a hog as wide, base slices of {slice_ms} ms"
    here = host(12, slice_ns=slice_ms * 1_000_000)
    return Scenario(f"{workload}-12p-hog-{slice_ms}ms", here, guests, description=about, tag="test")


def mixed() -> Scenario:
    """Four VMs, each as wide as a host of 8 pCPUs and with a workload of its own."""
    guests = tuple(guest(name, name, 8) for name in ("dbench", "dedup", "vips", "kernbench"))
    return Scenario("mixed-8p-4vm", host(8), guests, description="4 different VMs as wide as the host", tag="test")


def pooled(workload: str) -> tuple[Scenario, ...]:
    """One VM of 16 vCPUs that share 8 pCPUs, and its controls: each vCPU on a pCPU of its own, 8 on 8 (the same host)
    and 16 on 16 (the same guest)."""

    def one(kind: str, pcpus: int, vcpus: int, about: str, **fields: Any) -> Scenario:
        guests = (guest("vm", workload, vcpus, **fields),)
        name = f"{workload}-{pcpus}p-{kind}-1vm"
        return Scenario(name, host(pcpus), guests, description=about, tag="test")

    return (
        one("pooled", 8, 16, "1 VM whose 16 vCPUs share 8 pCPUs"),
        one("pinned", 8, 8, "the control of pooling: a vCPU on each pCPU of the same host", pin=tuple(range(8))),
        one("pinned", 16, 16, "the control of pooling: the same guest with a pCPU for each vCPU", pin=tuple(range(16))),
    )


def noisy_neighbours(workload: str) -> Scenario:
    """A VM as wide as the host, 4 hogs and 2 servers that halt most of the time."""
    hogs = tuple(guest(f"hog{i}", "swaptions", 4) for i in range(4))
    servers = tuple(guest(f"server{i}", "server", 8) for i in range(2))
    guests = (guest("vm", workload, SERIES_PCPUS), *hogs, *servers)
    about = f"{workload} on 16 vCPUs beside 4 hogs of 4 and 2 halting servers of 8"
    return Scenario(f"{workload}-noisy-7vm", host(SERIES_PCPUS), guests, description=about, tag="test")


def large(workload: str) -> Scenario:
    """A VM as wide as a large host, and hogs that take turns with it on half of the pCPUs."""
    hogs = tuple(guest(f"hog{i}", "swaptions", 8) for i in range(6))
    guests = (guest("vm", workload, 96), *hogs)
    about = f"{workload} on 96 vCPUs as wide as the host, beside 6 hogs of 8"
    return Scenario(f"{workload}-96p-hogs-7vm", host(96), guests, description=about, tag="test")


# How long an episode is where 20 ms have fewer than 20 decisions, for 20 or more; 0: next to nothing to decide.
EPISODES_NS: Mapping[str, int] = MappingProxyType(
    {
        "compute-2vm": 0,
        "pingpong-small": 0,
        "ebizzy-80p-1vm": 0,  # about one exit a second with a possible target: each vCPU has a pCPU
        "vips-12p-hog-30ms": 100_000_000,
        "dedup-12p-hog-30ms": 50_000_000,
        "kernbench-12p-hog-30ms": 100_000_000,
        "pbzip2-12p-hog-3ms": 300_000_000,
        "pbzip2-12p-hog-30ms": 1_000_000_000,
        "streamcluster-12p-hog-3ms": 300_000_000,
        "streamcluster-12p-hog-30ms": 1_000_000_000,
        "kernbench-32p-fifo-1vm": 3_000_000_000,
        "kernbench-32p-pvq-1vm": 3_000_000_000,
        "dedup-8p-pinned-1vm": 3_000_000_000,
        "dedup-16p-pinned-1vm": 1_000_000_000,
    }
)
_ALL: tuple[Scenario, ...] = (
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
    small("pingpong-small", "pingpong", pcpus=2, tag="test"),
    *(full_width("ebizzy", 80, vms) for vms in (1, 2, 3)),
    mixed(),
    *(beside_hog(workload, slice_ms) for workload in BESIDE_HOG for slice_ms in (3, 30)),
    *(
        full_width("kernbench", 32, vms, f"-{kind}", f", {kind} spinlocks", lock_kind=kind)
        for kind in ("fifo", "pvq")
        for vms in (1, 2)
    ),
    *pooled("dedup"),
    noisy_neighbours("dedup"),
    large("dedup"),
)

SCENARIOS = tuple(replace(scenario, episode_ns=EPISODES_NS.get(scenario.name)) for scenario in _ALL)
BY_NAME: Mapping[str, Scenario] = MappingProxyType({scenario.name: scenario for scenario in SCENARIOS})


def as_scenario(source: object, further: str = "") -> Scenario:
    """A scenario from a name, a TOML file or a Scenario. further: what else the caller takes, for the message.

    Errors: ValueError for anything else, an unknown name or a bad file; OSError when a file cannot be read.

    >>> as_scenario("dedup-small").host.pcpus
    4
    """
    if isinstance(source, Scenario):
        return source
    check("\0" not in str(source), "scenario", source, "a name or a path without a NUL")
    if isinstance(source, Path) or (isinstance(source, str) and source.endswith(".toml")):
        return Scenario.from_toml(source, WORKLOADS)
    if isinstance(source, str):
        lookup("", "scenario", source, BY_NAME)
        return BY_NAME[source]
    fail("scenario", source, f"a name (kvmgym list scenarios), a .toml file, a Scenario{further}")
