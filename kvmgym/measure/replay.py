"""Ask a policy about one spin exit: "what would it have done?", from flags that you give.

>>> from kvmgym.measure.replay import Flags, replay
>>> flags = [Flags(), Flags(ready=True, preempted=True, preempted_in_kernel=True), Flags(ready=True)]
>>> answer = replay("legacy", flags, me=0, last_boosted_vcpu=0, results=[1, 1, 1])
>>> answer.attempts, answer.target
((1,), 1)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from kvmgym import codes
from kvmgym.core import layout
from kvmgym.core.host import kvm
from kvmgym.params.errors import MAX_NS, check, integer
from kvmgym.policies import Policy, PolicyFunction, as_policy


@dataclass(frozen=True)
class Flags:
    """A vCPU's flags as kvm_vcpu_on_spin reads them (kernel: struct kvm_vcpu; the ipi_* are the series').

    From ready_since_ns on: what else a host sees of it, for other heuristics. Times [ns] are of the clock of now_ns;
    ready_since_ns: when it became ready; last_ran_ns: when it left a pCPU; boosted_ns: when a yield to it last
    succeeded; lag_ns: V - vruntime [ns] at the level where it is least; pcpu: where it is queued.
    """

    ready: bool = False
    preempted: bool = False
    preempted_in_kernel: bool = False
    blocking: bool = False
    dy_runnable: bool = False
    pending_interrupt: bool = False
    in_spin_loop: bool = False
    dy_eligible: bool = False
    ipi_pending: bool = False
    ipi_receiver: int = -1
    ipi_time_ns: int = 0
    ready_since_ns: int = 0
    last_ran_ns: int = 0
    boosted_ns: int = -int(layout.INF)
    lag_ns: int = 0
    pcpu: int = 0


@dataclass(frozen=True)
class Replayed:
    """What the policy did. attempts: indices in the order tried; results: what yield_to returned for each; rounds: the
    round of each; target: the index yielded to, or None; flags: of all vCPUs, with in_spin_loop and dy_eligible as the
    exit leaves them."""

    attempts: tuple[int, ...]
    results: tuple[int, ...]
    rounds: tuple[int, ...]
    target: int | None
    last_boosted_vcpu: int
    flags: tuple[Flags, ...]


def replay(
    policy: str | Policy | PolicyFunction,
    flags: Sequence[Flags],
    *,
    me: int,
    last_boosted_vcpu: int = 0,
    yield_to_kernel_mode: bool = True,
    results: Sequence[int],
    now_ns: int = 0,
    ipi_tracking: bool = True,
    ipi_window_ns: int = 50_000_000,
    enable_relaxed_boost: bool = True,
    waits_for: int | None = None,
) -> Replayed:
    """One call of kvm_vcpu_on_spin by vCPU `me`, with `policy` choosing.

    flags: of all N vCPUs of the VM. results: what yield_to returns for each vCPU, 1 (success), 0 or -1 (-ESRCH); [N].
    The spinner's in_spin_loop is set on entry, as in the kernel; on success it and dy_eligible stay as they are,
    because the yielder is descheduled within the handler. waits_for: index of the vCPU that the spinner truly waits
    for, which privileged policies are shown. Errors: ValueError naming the argument. Source: virt/kvm/kvm_main.c.
    """
    n = len(flags)
    check(n >= 1, "flags", n, "one for each vCPU, at least 1")
    for place, flag in enumerate(flags):
        check(isinstance(flag, Flags), f"flags[{place}]", flag, "Flags")
    me = integer("me", me, 0, n - 1)
    last_boosted_vcpu = integer("last_boosted_vcpu", last_boosted_vcpu, 0, n - 1)
    now_ns = integer("now_ns", now_ns, 0, MAX_NS)
    ipi_window_ns = integer("ipi_window_ns", ipi_window_ns, 0, MAX_NS)
    switches = {"yield_to_kernel_mode": yield_to_kernel_mode, "ipi_tracking": ipi_tracking,
                "enable_relaxed_boost": enable_relaxed_boost}  # fmt: skip
    for name, value in switches.items():
        check(isinstance(value, (bool, np.bool_)), name, value, "True or False")
    check(len(results) == n, "results", len(results), f"{n} results, one for each vCPU")
    for place, result in enumerate(results):
        integer(f"results[{place}]", result, -1, 1)
    if waits_for is not None:
        waits_for = integer("waits_for", waits_for, 0, n - 1)
    chosen = as_policy(policy)
    vm, vcpus, ask = _records(flags)
    vm.vcpus, vm.last_boosted_vcpu = n, last_boosted_vcpu
    vm.enable_relaxed_boost = enable_relaxed_boost
    vm.ipi_tracking, vm.ipi_window_ns = (codes.TRACK_V3 if ipi_tracking else codes.TRACK_OFF), ipi_window_ns
    if n < 2:
        return Replayed((), (), (), None, last_boosted_vcpu, tuple(flags))
    kvm.begin_spin(ask, vcpus[me], 0, int(yield_to_kernel_mode), now_ns)
    ask.waits_for = layout.NONE if waits_for is None else waits_for
    ask.weights[: len(chosen.weights)] = chosen.weights
    attempts: list[tuple[int, int, int]] = []
    while ask.open:
        target = chosen.answer(vm, vcpus, ask)
        if not kvm.acceptable(ask, vcpus, target):
            kvm.end_spin(ask, vcpus[me])
            break
        kvm.record_result(ask, vm, vcpus, target, results[target])
        attempts.append((target, results[target], int(ask.scan_round)))
    succeeded = attempts and attempts[-1][1] > 0
    return Replayed(
        attempts=tuple(target for target, _, _ in attempts),
        results=tuple(result for _, result, _ in attempts),
        rounds=tuple(number for _, _, number in attempts),
        target=attempts[-1][0] if succeeded else None,
        last_boosted_vcpu=int(vm.last_boosted_vcpu),
        flags=tuple(_read(flag, vcpu) for flag, vcpu in zip(flags, vcpus, strict=True)),
    )


def _records(flags: Sequence[Flags]) -> tuple[Any, Any, Any]:
    vm, ask = np.zeros(1, layout.VM)[0], np.zeros(1, layout.ASK)[0]
    vcpus = np.zeros(len(flags), layout.VCPU)
    vcpus["idx"] = np.arange(len(flags))
    vcpus["tried_serial"] = layout.NONE
    for field in fields(Flags):
        vcpus[field.name] = [getattr(flag, field.name) for flag in flags]
    return vm, vcpus, ask


def _read(flag: Flags, vcpu: Any) -> Flags:
    return replace(flag, in_spin_loop=bool(vcpu.in_spin_loop), dy_eligible=bool(vcpu.dy_eligible))
