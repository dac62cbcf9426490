"""The policies: who is tried at each attempt of a directed yield. POLICIES is the one table.

A policy is a function `policy(vm, vcpus, me, ask) -> index`: `vm` is a VM record, `vcpus` the VM's VCPU records, `me`
the spinner's index among them, `ask` the ASK record of this spin exit (kvmgym.core.layout has every field). It returns
the index to try, or NONE (-1) to let the spinner go on. It may write to nothing but `ask` and, as the kernel does,
`dy_eligible`. Plain Python or `@numba.njit`; both are compiled to one signature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numba
from numba import types

from kvmgym.core.jit import cached_in_own_folder, disabled
from kvmgym.core.layout import ASK, VCPU, VM
from kvmgym.params.errors import lookup
from kvmgym.policies import kernel, simple

PolicyFunction = Callable[[Any, Any, int, Any], int]

SIGNATURE = types.int64(
    numba.from_dtype(VM), types.Array(numba.from_dtype(VCPU), 1, "C"), types.int64, numba.from_dtype(ASK)
)


class _Address(types.WrapperAddressProtocol):  # type: ignore[misc]
    """A compiled policy as numba passes it: a first-class function, so that the engine is compiled once for all."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled

    def __wrapper_address__(self) -> int:
        return int(self.compiled.address)

    def signature(self) -> Any:
        return SIGNATURE


@dataclass(frozen=True)
class Policy:
    """A named policy. year and source: where it comes from; sees: what it reads; privileged: more than a host can
    see."""

    name: str
    function: PolicyFunction
    year: str
    source: str
    sees: str
    description: str
    privileged: bool = False

    @cached_property
    def engine_function(self) -> Any:
        """What the engine calls: compiled to SIGNATURE, or the plain function under NUMBA_DISABLE_JIT=1."""
        plain: Any = getattr(self.function, "py_func", self.function)
        if disabled():
            return plain
        with cached_in_own_folder():
            try:
                return _Address(numba.cfunc(SIGNATURE, cache=True)(plain))
            except RuntimeError:  # numba cannot cache what has no file (typed at a prompt)
                return _Address(numba.cfunc(SIGNATURE)(plain))


_LINUX = "virt/kvm/kvm_main.c, kvm_vcpu_on_spin"
_FLAGS = "ready, blocking, preempted, preempted_in_kernel, pending_interrupt, in_spin_loop, dy_eligible"

POLICIES: tuple[Policy, ...] = (
    Policy("none", simple.none, "-", "kvmgym", "nothing", "never yields: spinners burn their slices"),
    Policy("random", simple.random, "-", "kvmgym", "ready", "any ready vCPU, all alike"),
    Policy("legacy", kernel.legacy, "2025", f"Linux 6.19, {_LINUX}", _FLAGS, "one round-robin pass over ready vCPUs"),
    Policy(
        "legacy-i-bug",
        kernel.legacy_i_bug,
        "2024",
        f"Linux 6.13 to 6.18.0, {_LINUX}",
        _FLAGS,
        "legacy that stores the loop offset instead of the index",
    ),
    Policy(
        "strict",
        kernel.strict,
        "2026",
        "series v3, patch 9 alone",
        f"{_FLAGS}, my tracked IPI",
        "IPI receiver, pending interrupt or preempted in kernel; no fallback",
    ),
    Policy(
        "relaxed",
        kernel.relaxed,
        "2026",
        "series v2 patches 8-9, v3 patches 9-10",
        f"{_FLAGS}, my tracked IPI",
        "strict, then any preempted vCPU",
    ),
    Policy(
        "relaxed-only",
        kernel.relaxed_only,
        "2026",
        "round 2 of the series alone (ablation)",
        "ready, blocking, preempted, in_spin_loop, dy_eligible",
        "any preempted vCPU",
    ),
)

BY_NAME: Mapping[str, Policy] = MappingProxyType({policy.name: policy for policy in POLICIES})


def custom(function: PolicyFunction, name: str | None = None) -> Policy:
    """A user's own function as a Policy; its name is the function's unless given."""
    plain: Any = getattr(function, "py_func", function)
    return Policy(name or str(plain.__name__), function, "-", "user", "what it reads", plain.__doc__ or "")


def as_policy(policy: str | Policy | PolicyFunction) -> Policy:
    """A Policy from a name of the table, a Policy, or a plain or njit function. ValueError for an unknown name."""
    if isinstance(policy, Policy):
        return policy
    if not isinstance(policy, str):
        return custom(policy)
    lookup("", "policy", policy, BY_NAME)
    return BY_NAME[policy]
