"""A naive twin of kvm_vcpu_on_spin for tests: slow, plain Python, written from the description of the kernel alone.

It shares no code with kvmgym. It models one call of the handler by vCPU `me`: which candidates get a yield_to, in which
order, and the flags afterwards. What yield_to returns for a candidate is given, so the scheduler is left out.
Source: virt/kvm/kvm_main.c (kvm_vcpu_on_spin), the directed-yield series v2 (patches 8-9) and v3 (patches 9-10).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

YEARS = ("2011", "2012", "2017", "2019", "2021")
TWIN_POLICIES = (*YEARS, "legacy", "legacy-i-bug", "strict", "relaxed", "relaxed-only")


@dataclass
class TwinVcpu:
    """The flags of one vCPU. event_request stands for pv_unhalted and for pending event and NMI requests."""

    ready: bool = False
    preempted: bool = False
    preempted_in_kernel: bool = False
    blocking: bool = False
    event_request: bool = False
    pending_interrupt: bool = False
    in_spin_loop: bool = False
    dy_eligible: bool = False
    ipi_pending: bool = False
    ipi_receiver: int = -1
    ipi_time_ns: int = 0

    def dy_runnable(self) -> bool:
        return self.event_request or self.pending_interrupt


@dataclass
class TwinVm:
    """A VM, and the results that yield_to would return for each of its vCPUs: 1, 0 or -1 (-ESRCH)."""

    vcpus: list[TwinVcpu]
    results: list[int]
    last_boosted_vcpu: int = 0
    yield_to_kernel_mode: bool = True
    enable_relaxed_boost: bool = True
    ipi_tracking: bool = True
    ipi_window_ns: int = 50_000_000
    now_ns: int = 0


@dataclass
class Answer:
    """attempts, results and rounds: one entry for each yield_to; a policy of one round calls it round 1."""

    attempts: list[int] = field(default_factory=list)
    results: list[int] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    target: int | None = None


def on_spin(policy: str, vm: TwinVm, me: int) -> Answer:
    """One call of the handler; the flags in `vm` change as the kernel's would."""
    answer = Answer()
    n = len(vm.vcpus)
    if n < 2:
        return answer
    spinner = vm.vcpus[me]
    spinner.in_spin_loop = True
    tries = 3
    yielded = 0
    for number, accepts in enumerate(_rounds(policy, vm), start=1):
        yielded = 0  # but not the tries
        start = vm.last_boosted_vcpu + 1
        for i in range(n):
            idx = (start + i) % n
            candidate = vm.vcpus[idx]
            if idx == me:
                continue
            if policy in ("2011", "2012", "2017"):  # before `ready` and dy_runnable, which came in 2019
                if not candidate.preempted:
                    continue
                if candidate.blocking:
                    continue
            else:
                if not candidate.ready:
                    continue
                if candidate.blocking and not candidate.dy_runnable():
                    continue
            if not accepts(vm, me, idx):
                continue
            if policy != "2011" and not _eligible(candidate):
                continue
            yielded = vm.results[idx]
            answer.attempts.append(idx)
            answer.results.append(yielded)
            answer.rounds.append(number)
            if yielded > 0:
                answer.target = idx
                vm.last_boosted_vcpu = i if policy == "legacy-i-bug" else idx
                break
            if yielded < 0:
                tries -= 1
                if tries == 0:
                    break
        if yielded > 0:
            break
    if yielded > 0:
        return answer  # descheduled inside the handler: the flags are cleared only when it runs again
    spinner.in_spin_loop = False
    spinner.dy_eligible = False
    return answer


Rule = Callable[[TwinVm, int, int], bool]


def _rounds(policy: str, vm: TwinVm) -> list[Rule]:
    """Rule (d) of each round."""
    if policy in ("2011", "2012"):
        return [_anybody]
    if policy == "2017":
        return [_year_2017]
    if policy == "2019":
        return [_year_2019]
    if policy in ("2021", "legacy", "legacy-i-bug"):
        return [_mainline]
    if policy == "strict":
        return [_strict]
    if policy == "relaxed":
        return [_strict, _relaxed] if vm.enable_relaxed_boost else [_strict]
    if policy == "relaxed-only":
        return [_relaxed]
    raise ValueError(policy)


def _anybody(vm: TwinVm, me: int, idx: int) -> bool:
    return True


def _year_2017(vm: TwinVm, me: int, idx: int) -> bool:
    """The in-kernel filter; at that time every candidate had been preempted."""
    return vm.vcpus[idx].preempted_in_kernel if vm.yield_to_kernel_mode else True


def _year_2019(vm: TwinVm, me: int, idx: int) -> bool:
    """The same filter, which a woken vCPU does not meet."""
    if vm.vcpus[idx].preempted and vm.yield_to_kernel_mode:
        return vm.vcpus[idx].preempted_in_kernel
    return True


def _mainline(vm: TwinVm, me: int, idx: int) -> bool:
    candidate = vm.vcpus[idx]
    user_mode = not candidate.preempted_in_kernel
    return not (candidate.preempted and vm.yield_to_kernel_mode and not candidate.pending_interrupt and user_mode)


def _strict(vm: TwinVm, me: int, idx: int) -> bool:
    candidate = vm.vcpus[idx]
    if _recent_ipi_receiver(vm, me, idx):  # tier 1
        return True
    if candidate.pending_interrupt:  # tier 2
        return True
    return candidate.preempted and (not vm.yield_to_kernel_mode or candidate.preempted_in_kernel)  # tier 3


def _relaxed(vm: TwinVm, me: int, idx: int) -> bool:
    return vm.vcpus[idx].preempted


def _recent_ipi_receiver(vm: TwinVm, me: int, idx: int) -> bool:
    slot = vm.vcpus[me]
    return (
        vm.ipi_tracking
        and slot.ipi_pending
        and slot.ipi_receiver == idx
        and vm.now_ns - slot.ipi_time_ns <= vm.ipi_window_ns
    )


def _eligible(candidate: TwinVcpu) -> bool:
    """The check that every spinner shares; it flips dy_eligible of a candidate in its spin loop, whatever the
    answer."""
    answer = not candidate.in_spin_loop or candidate.dy_eligible
    if candidate.in_spin_loop:
        candidate.dy_eligible = not candidate.dy_eligible
    return answer
