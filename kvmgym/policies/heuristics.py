"""Heuristics that nobody ships yet: honest rivals for learned policies, from what a host can see.

Each looks once over the VM's vCPUs and keeps the best, so it costs as much as one round of the kernel's scan. Unlike
the kernel's, none asks the eligibility check (it would write), none asks a vCPU again that failed in this exit, and all
give up once the three tries are used up. Ties go to the lowest index unless a policy says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kvmgym.codes import places
from kvmgym.core.jit import jit
from kvmgym.core.layout import NONE, YES
from kvmgym.core.records import Ask, Vcpus, Vm, int64
from kvmgym.files import read_json, to_json, write_atomically
from kvmgym.params.errors import check, lookup, number
from kvmgym.policies.kernel import awaits_ack, is_ipi_receiver, may_try

TIER_RECEIVER, TIER_HINT, TIER_KERNEL, TIER_WOKEN, TIER_USER, TIERS = (int64(code) for code in range(6))

MS = 1e6  # ns
CAP_MS = 20.0  # ages and lags that are longer count as this


@jit
def in_turn(vm: Vm, vcpus: Vcpus, step: int) -> int:
    """The vCPU that comes `step` places after the one boosted last, plus one."""
    return (vm.last_boosted_vcpu + 1 + step) % vcpus.size


@jit
def round_robin(vm: Vm, vcpus: Vcpus, me: int, ask: Ask) -> int:
    """The next vCPU after the one boosted last: no flags besides ready, no eligibility."""
    if ask.tries == 0:
        return NONE
    for step in range(vcpus.size):
        index = in_turn(vm, vcpus, step)
        if may_try(vcpus[index], me, index, ask):
            return index
    return NONE


@jit
def longest_ready(vcpus: Vcpus, me: int, ask: Ask, spinners: int) -> int:
    """The candidate that became ready first, with `spinners` or among those that do not spin; NONE without one."""
    best = NONE
    if ask.tries == 0:
        return best
    for index in range(vcpus.size):
        if may_try(vcpus[index], me, index, ask) and (spinners or vcpus[index].in_spin_loop == 0):
            if best == NONE or vcpus[index].ready_since_ns < vcpus[best].ready_since_ns:
                best = index
    return best


@jit
def longest_waiting(vm: Vm, vcpus: Vcpus, me: int, ask: Ask) -> int:
    """The vCPU that became ready first."""
    return longest_ready(vcpus, me, ask, YES)


@jit
def least_lag(vm: Vm, vcpus: Vcpus, me: int, ask: Ask) -> int:
    """The most eligible vCPU: the largest V - vruntime at the level where it is least, so that EEVDF heeds the hint."""
    best = NONE
    if ask.tries == 0:
        return best
    for index in range(vcpus.size):
        if may_try(vcpus[index], me, index, ask) and (best == NONE or vcpus[index].lag_ns > vcpus[best].lag_ns):
            best = index
    return best


@jit
def tier(vm: Vm, vcpus: Vcpus, me: int, index: int, ask: Ask) -> int:
    """TIER_* of a candidate, the best first."""
    vcpu = vcpus[index]
    if is_ipi_receiver(vm, vcpus, me, index, ask.now_ns):
        return TIER_RECEIVER
    if vcpu.pending_interrupt == 1:
        return TIER_HINT
    if vcpu.preempted == 0:
        return TIER_WOKEN
    return TIER_KERNEL if vcpu.preempted_in_kernel == 1 else TIER_USER


@jit
def receiver_first(vm: Vm, vcpus: Vcpus, me: int, ask: Ask) -> int:
    """The series' tiers as priorities, not filters: my IPI receiver, a pending interrupt, preempted in the kernel,
    woken, preempted in user mode. Within a tier the next after the one boosted last."""
    best, best_tier = NONE, TIERS
    if ask.tries == 0:
        return best
    for step in range(vcpus.size):
        index = in_turn(vm, vcpus, step)
        if may_try(vcpus[index], me, index, ask):
            own = tier(vm, vcpus, me, index, ask)
            if own < best_tier:
                best, best_tier = index, own
            if own == TIER_RECEIVER:
                break
    return best


# --- a linear score -------------------------------------------------------------------------------------------------

# (name, meaning and unit). A weight is what one unit adds to the score; flags are 0 or 1.
FEATURES: tuple[tuple[str, str], ...] = (
    ("preempted", "flag: descheduled while runnable"),
    ("in_kernel", "flag: and in ring 0 at that time"),
    ("pending_interrupt", "flag: the pending-interrupt hint"),
    ("receiver", "flag: my tracked IPI went to it, is recent and not acknowledged"),
    ("awaits_ack", "flag: its own tracked IPI is recent and not acknowledged, so it may be spinning too"),
    ("in_spin_loop", "flag: descheduled within its own spin exit"),
    ("eligible", "flag: EEVDF would heed the hint (lag not negative)"),
    ("same_pcpu", "flag: queued on the spinner's pCPU"),
    ("lag_ms", f"V - vruntime at the level where it is least [ms], within +-{CAP_MS:g}"),
    ("ready_ms", f"since it became ready [ms], at most {CAP_MS:g}"),
    ("away_ms", f"since it left a pCPU [ms], at most {CAP_MS:g}"),
    ("boosted_ms", f"since a yield to it last succeeded [ms], at most {CAP_MS:g}"),
    ("turn", "place after the one boosted last: 0 next, towards 1 last"),
)
THRESHOLD = "threshold"  # the entry after the features: a best score below it yields to nobody
NAMES = (*(name for name, _ in FEATURES), THRESHOLD)
FEATURE = places(NAMES)  # of a weight

# Set by hand: the tiers of the series as a preference, away from targets that would only spin or ignore the hint.
DEFAULT_WEIGHTS: Mapping[str, float] = {
    "preempted": 1.0,
    "in_kernel": 2.0,
    "pending_interrupt": 4.0,
    "receiver": 8.0,
    "awaits_ack": -1.0,
    "in_spin_loop": -3.0,
    "eligible": 2.0,
    "ready_ms": 0.2,
    "turn": -1.0,
}


@jit
def age_ms(now_ns: int, since_ns: int) -> float:
    """Time since, in ms, at most CAP_MS."""
    return min((now_ns - since_ns) / MS, CAP_MS)


@jit
def score(vm: Vm, vcpus: Vcpus, me: int, index: int, ask: Ask) -> float:
    """The sum of weight times feature of one candidate, in the order of FEATURES."""
    vcpu, weights = vcpus[index], ask.weights
    n = vcpus.size
    total = weights[FEATURE.preempted] * vcpu.preempted
    total += weights[FEATURE.in_kernel] * (vcpu.preempted & vcpu.preempted_in_kernel)
    total += weights[FEATURE.pending_interrupt] * vcpu.pending_interrupt
    total += weights[FEATURE.receiver] * is_ipi_receiver(vm, vcpus, me, index, ask.now_ns)
    total += weights[FEATURE.awaits_ack] * awaits_ack(vm, vcpu, ask.now_ns)
    total += weights[FEATURE.in_spin_loop] * vcpu.in_spin_loop
    total += weights[FEATURE.eligible] * (vcpu.lag_ns >= 0)
    total += weights[FEATURE.same_pcpu] * (vcpu.pcpu == vcpus[me].pcpu)
    total += weights[FEATURE.lag_ms] * max(min(vcpu.lag_ns / MS, CAP_MS), -CAP_MS)
    total += weights[FEATURE.ready_ms] * age_ms(ask.now_ns, vcpu.ready_since_ns)
    total += weights[FEATURE.away_ms] * age_ms(ask.now_ns, vcpu.last_ran_ns)
    total += weights[FEATURE.boosted_ms] * age_ms(ask.now_ns, vcpu.boosted_ns)
    total += weights[FEATURE.turn] * (((index - vm.last_boosted_vcpu - 1) % n) / n)
    return total


@jit
def linear(vm: Vm, vcpus: Vcpus, me: int, ask: Ask) -> int:
    """The vCPU with the largest score under ask.weights, or nobody when that is below the threshold."""
    best, best_score = NONE, ask.weights[FEATURE.threshold]
    if ask.tries == 0:
        return best
    for index in range(vcpus.size):
        if may_try(vcpus[index], me, index, ask):
            own = score(vm, vcpus, me, index, ask)
            if own > best_score or (best == NONE and own == best_score):
                best, best_score = index, own
    return best


def linear_weights(weights: Mapping[str, float]) -> tuple[float, ...]:
    """Weights by name as the tuple that `linear` reads; what is not named is 0. ValueError for an unknown name or a
    value that is no number within +-1e9."""
    for name, value in weights.items():
        lookup("weights", "feature", name, NAMES)
        number(f"weights[{name!r}]", value, -1e9, 1e9)
    return tuple(float(weights.get(name, 0.0)) for name in NAMES)


def load_weights(path: str | Path) -> dict[str, float]:
    """Weights by name from a JSON file. ValueError for anything but an object of known names and numbers."""
    found = read_json(path)
    check(isinstance(found, dict), "weights", found, "an object of names and numbers")
    return dict(zip(NAMES, linear_weights(found), strict=True))


def save_weights(path: str | Path, weights: Mapping[str, float]) -> None:
    """Write weights by name to a JSON file, every name with its value."""
    text = to_json(dict(zip(NAMES, linear_weights(weights), strict=True)), indent=2)
    write_atomically(path, f"{text}\n")
