"""Kernels by name: what a host of that Linux does with a hint, as values of the Host's fields.

Most hosts do not run the newest kernel, and the same policy is worth very different amounts on them. Source:
kernel/sched/fair.c and kernel/sched/features.h of each; virt/kvm/kvm_main.c for the rule of its year. Recalled, not
read: in which version each change came. Left out: distributions' backports.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from kvmgym.codes import Words

NEWEST = "6.19"  # what a host without a kernel's name does


@dataclass(frozen=True)
class Kernel:
    """One Linux version. on_spin: its own rule of kvm_vcpu_on_spin, a policy's name. hint, yielder: in words what a
    hint does for the target, and what the yielder loses. The rest: fields of Host of the same name, which has their
    meaning; what the other scheduler alone reads stands at its last value.
    """

    on_spin: str
    hint: str
    yielder: str
    scheduler: str = "eevdf"
    forfeit: str = "pre-6.19"
    pick_buddy: bool = True
    delay_dequeue: bool = True
    charge_before_wakeup: bool = True
    alt_period: bool = True


def _cfs(on_spin: str, alt_period: bool = True) -> Kernel:
    return Kernel(
        on_spin,
        "heeded within a wakeup granularity",
        "skip buddy",
        scheduler="cfs",
        delay_dequeue=False,
        alt_period=alt_period,
    )


_LATER = "deadline one slice later"
_PASSED = "passed over"
_ELIGIBLE = "heeded where eligible at each level"

KERNELS: Mapping[str, Kernel] = MappingProxyType(
    {
        "5.4": _cfs("2019", alt_period=False),
        "5.15": _cfs("2021"),
        "6.1": _cfs("2021"),
        "6.6": Kernel("legacy", _PASSED, _LATER, pick_buddy=False, delay_dequeue=False),
        "6.12": Kernel("legacy", _PASSED, _LATER, pick_buddy=False, charge_before_wakeup=False),
        "6.14": Kernel("legacy-i-bug", _ELIGIBLE, _LATER, charge_before_wakeup=False),
        "6.18": Kernel("legacy-i-bug", _ELIGIBLE, _LATER, charge_before_wakeup=False),
        "6.19": Kernel("legacy", _ELIGIBLE, "vruntime to its deadline where eligible", forfeit="6.19"),
    }
)
PARTS = tuple(item.name for item in dataclasses.fields(Kernel) if item.name not in ("on_spin", "hint", "yielder"))


def kernel_part(words: Words | None = None) -> Any:
    """A field of Host whose default is its kernel's value; with words, a switch of kvmgym.codes."""
    metadata: dict[str, Any] = {"kernel_part": True} | ({"words": words} if words else {})
    return dataclasses.field(default=None, metadata=metadata)


def default_of(item: Any, field: dataclasses.Field[Any]) -> Any:
    """The default of a field of a dataclass; that of a part of a kernel is what the host's kernel has."""
    if "kernel_part" in field.metadata:
        return getattr(KERNELS[item.kernel or NEWEST], field.name)
    return field.default
