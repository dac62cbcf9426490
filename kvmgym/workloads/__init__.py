"""The workloads: what the guests run. FAMILIES is the one table of profiles, WORKLOADS that of all workloads.

To add one: a file with its Profile and how its cycle becomes programs, and a line in FAMILIES.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from kvmgym.params import Workload
from kvmgym.params.errors import check, lookup, number
from kvmgym.workloads import (
    compute,
    dbench,
    dedup,
    ebizzy,
    exim,
    hackbench,
    kernbench,
    memclone,
    micro,
    pbzip2,
    psearchy,
    streamcluster,
    swaptions,
    vips,
)
from kvmgym.workloads.profile import RANDOM, Family, Profile

__all__ = ["BY_NAME", "FAMILIES", "RANDOM", "WORKLOADS", "Family", "Profile", "guest_tasks", "randomised"]

FAMILIES: tuple[Family, ...] = (
    dbench.FAMILY,
    dedup.FAMILY,
    vips.FAMILY,
    kernbench.FAMILY,
    ebizzy.FAMILY,
    hackbench.FAMILY,
    pbzip2.FAMILY,
    exim.FAMILY,
    memclone.FAMILY,
    psearchy.FAMILY,
    streamcluster.FAMILY,
    swaptions.FAMILY,
    compute.FAMILY,
    dedup.SMALL,
)

WORKLOADS: tuple[Workload, ...] = (
    *(family.workload for family in FAMILIES),
    micro.HOTLOCK,
    micro.SHOOTDOWNS,
    micro.PINGPONG,
    micro.SERVER,
)

BY_NAME: Mapping[str, Workload] = MappingProxyType({workload.name: workload for workload in WORKLOADS})


def guest_tasks(workload: Workload, vcpus: int) -> int | None:
    """Vm.tasks for a VM of that many vCPUs that runs a profile, randomised or not; None: one task a vCPU.

    >>> guest_tasks(BY_NAME["hackbench"], 16), guest_tasks(BY_NAME["dedup"], 16)
    (40, None)
    """
    for family in FAMILIES:
        mine = workload.name == family.profile.name or workload.name.startswith(f"{family.profile.name}-")
        if mine and family.tasks > vcpus:
            return family.tasks
    return None


def randomised(
    name: str,
    rng: np.random.Generator | None = None,
    factors: Mapping[str, float] | None = None,
    label: str = "randomised",
) -> Workload:
    """The workload of a profile with its numbers multiplied; it is called `<name>-<label>`.

    rng: draws a factor for each field of RANDOM from 1/2 to 2, evenly on the logarithm; `factors` come first and may
    stand alone. Two workloads of one scenario need two labels. Errors: ValueError for a name that is no profile or
    a field that is not in RANDOM.

    >>> randomised("dedup", factors={"shootdowns": 2.0}).rates.shootdowns
    1200.0
    """
    families = {family.profile.name: family for family in FAMILIES}
    check(isinstance(name, str), "profile", name, "a name")
    lookup("", "profile", name, families)
    right = rng is None or isinstance(rng, np.random.Generator)
    check(right, "randomised rng", rng, "None or a numpy Generator")
    check(factors is None or isinstance(factors, Mapping), "randomised factors", factors, "None or factors by field")
    for field, factor in (factors or {}).items():
        number(f"randomised factors[{field}]", factor, 0, 1e6)
    check(isinstance(label, str) and label != "", "randomised label", label, "a name")
    check(rng is not None or factors is not None, "randomised rng", rng, "a Generator when no factors are given")
    drawn = {} if rng is None else {field: float(2 ** rng.uniform(-1, 1)) for field in RANDOM}
    family = families[name]
    return family.build(family.profile.multiplied({**drawn, **(factors or {})}, label))
