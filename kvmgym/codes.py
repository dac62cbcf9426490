"""Switches: each word and its number, declared once. Configuration takes the words, compiled code the numbers.

To add a switch: its numbers and words here, its field in kvmgym.params with `switch(WORDS, default)`, and a field of
the same name in core/layout.py. kvmgym.params.switches checks the word, kvmgym.world.blueprint copies its number.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np


def numbered(n: int, first: int = 0) -> tuple[Any, ...]:
    """Consecutive numbers. They are numpy integers because numba compiles a function anew for each literal argument."""
    return tuple(np.int64(number) for number in range(first, first + n))


def places(names: Iterable[str], kind: str = "Places") -> Any:
    """A NamedTuple of ints that gives each name its place in a table; compiled code sees the places as constants.

    >>> places(("low", "high")).high
    1
    """
    found = tuple(names)
    return namedtuple(kind, found)(*range(len(found)))


class Words(tuple[str, ...]):
    """The words of a switch, in the order in which messages list them. numbers: the number of each."""

    numbers: Mapping[str, Any]

    def __new__(cls, numbers: Mapping[str, Any]) -> Words:
        words = super().__new__(cls, numbers)
        words.numbers = MappingProxyType(dict(numbers))
        return words


# lock kinds; all but the mutex are kernel spinlocks: nothing that can block may happen under one
TAS, FIFO, PVQ, MUTEX = numbered(4)
LOCK_KINDS = Words({"tas": TAS, "fifo": FIFO, "pvq": PVQ, "mutex": MUTEX})
SPIN_KINDS = Words({word: number for word, number in LOCK_KINDS.numbers.items() if number != MUTEX})
# targets of a shootdown and of a kick
TO_OTHERS, TO_BUSY, TO_ONE, TO_NEXT, TO_PREV = numbered(5)
SHOOTDOWN_TARGETS = Words({"others": TO_OTHERS, "busy": TO_BUSY, "one": TO_ONE})
KICK_TARGETS = Words({"random": TO_ONE, "next": TO_NEXT, "prev": TO_PREV})
# how a guest sends an IPI to several vCPUs
X2APIC_PHYSICAL, X2APIC_CLUSTER, PV = numbered(3)
IPI_MODES = Words({"x2apic_physical": X2APIC_PHYSICAL, "x2apic_cluster": X2APIC_CLUSTER, "pv": PV})
# IPI tracking of the series
TRACK_OFF, TRACK_V2, TRACK_V3 = numbered(3)
IPI_TRACKING = Words({"v3": TRACK_V3, "v2": TRACK_V2, "off": TRACK_OFF})
# the fair scheduler of a host
SCHED_EEVDF, SCHED_CFS = numbered(2)
SCHEDULERS = Words({"eevdf": SCHED_EEVDF, "cfs": SCHED_CFS})
# the forfeit of yield_task_fair
FORFEIT_NONE, FORFEIT_PRE_6_19, FORFEIT_6_19 = numbered(3)
FORFEITS = Words({"6.19": FORFEIT_6_19, "pre-6.19": FORFEIT_PRE_6_19, "none": FORFEIT_NONE})
# the scheduler half of the series
DEBOOST_NONE, DEBOOST_V1, DEBOOST_V2, DEBOOST_V3 = numbered(4)
DEBOOSTS = Words({"none": DEBOOST_NONE, "v1": DEBOOST_V1, "v2": DEBOOST_V2, "v3": DEBOOST_V3})
# what a spin exit passes as yield_to_kernel_mode
MODE_NEVER, MODE_RING0, MODE_ALWAYS = numbered(3)
KERNEL_MODES = Words({"always": MODE_ALWAYS, "ring0": MODE_RING0, "never": MODE_NEVER})
# how ticks and first slices begin
START_ALIGNED, START_RANDOM = numbered(2)
STARTS = Words({"aligned": START_ALIGNED, "random": START_RANDOM})
