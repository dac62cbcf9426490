"""The policies: who is tried at each attempt of a directed yield. POLICIES is the one table.

A policy is a function `policy(vm, vcpus, me, ask) -> index`: `vm` is a VM record, `vcpus` the VM's VCPU records, `me`
the spinner's index among them, `ask` the ASK record of this spin exit (kvmgym.core.layout has every field). It returns
the index to try, or NONE (-1) to let the spinner go on. It may write to nothing but `ask` and, as the kernel does,
`dy_eligible`. Plain Python or `@numba.njit`; both are compiled to one signature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from types import FunctionType, MappingProxyType
from typing import Any

from kvmgym.core.jit import disabled
from kvmgym.core.layout import SHOW_GUEST, SHOW_LAG, WEIGHTS
from kvmgym.core.records import PolicyFunction as PolicyFunction
from kvmgym.params import Scenario
from kvmgym.params.errors import check, lookup
from kvmgym.policies import bounds, heuristics, kernel, simple
from kvmgym.policies.checked import Checker, check_on
from kvmgym.policies.compiled import SIGNATURE as SIGNATURE
from kvmgym.policies.compiled import compile_policy
from kvmgym.policies.digest import PACKAGE, plain_of, reach
from kvmgym.world.blueprint import Blueprint

_CHECKED: set[tuple[Any, ...]] = set()


# Groups of policies, in the order of tables, with their headings.
GROUPS: Mapping[str, str] = MappingProxyType(
    {"bounds": "bound (privileged)", "kernel": "kernel", "series": "series", "others": "others"}
)


@dataclass(frozen=True)
class Policy:
    """A named policy. year and source: where it comes from; sees: what it reads.

    privileged: it reads more than a host can see (ask.waits_for, which the engine fills for it). needs_lag: it reads
    vcpu.lag_ns, which the engine fills for it. weights: at most WEIGHTS numbers that it finds in ask.weights. deboost,
    ipi_tracking: the yield_deboost of the host and the ipi_tracking of the VMs that belong to it, as the series' two
    halves belong together; None leaves the scenario's. credit_across: the lag_credit_across that goes with deboost.
    group: of GROUPS; left out it is bounds for a privileged policy, else others.
    """

    name: str
    function: PolicyFunction
    year: str
    source: str
    sees: str
    description: str
    privileged: bool = False
    needs_lag: bool = False
    weights: tuple[float, ...] = ()
    deboost: str | None = None
    credit_across: bool = False
    ipi_tracking: str | None = None
    group: str = ""

    def __post_init__(self) -> None:
        if not self.group:
            object.__setattr__(self, "group", "bounds" if self.privileged else "others")
        check(self.group in GROUPS, "Policy.group", self.group, f"one of {', '.join(GROUPS)}")
        check(len(self.weights) <= WEIGHTS, "Policy.weights", self.weights, f"at most {WEIGHTS} numbers")
        right = isinstance(plain_of(self.function), FunctionType)
        check(right, "policy", self.function, "a policy's name (kvmgym list policies), a Policy or a Python function")
        if self._is_own:
            return
        reads = reach(self.function).names
        if "lag_ns" in reads:
            object.__setattr__(self, "needs_lag", True)
        if "waits_for" in reads and not self.privileged:
            raise ValueError(
                f"policy {self.name!r} reads ask.waits_for, which no host can see: it must be privileged, as in "
                "custom(function, privileged=True) or Policy(..., privileged=True)"
            )

    @property
    def _is_own(self) -> bool:
        """The function is part of this package, and tested with it."""
        return str(plain_of(self.function).__module__).split(".")[0] == PACKAGE

    def fits(self, scenario: Scenario) -> bool:
        """False where the policy's scheduler half, which is for EEVDF, has nothing to act on."""
        return self.deboost in (None, "none") or scenario.host.scheduler == "eevdf"

    def prepare(self, scenario: Scenario) -> Scenario:
        """The scenario with what belongs to the policy switched on in it."""
        if self.deboost is not None:
            scheduler = scenario.host.scheduler
            check(
                self.fits(scenario), f"policy {self.name}: Host.scheduler", scheduler, '"eevdf" for its scheduler half'
            )
            switches: dict[str, Any] = {"yield_deboost": self.deboost, "lag_credit_across": self.credit_across}
            if any(getattr(scenario.host, name) != value for name, value in switches.items()):
                scenario = replace(scenario, host=replace(scenario.host, **switches))
        if self.ipi_tracking is not None and any(vm.ipi_tracking != self.ipi_tracking for vm in scenario.vms):
            vms = tuple(replace(vm, ipi_tracking=self.ipi_tracking) for vm in scenario.vms)
            scenario = replace(scenario, vms=vms)
        return scenario

    def install(self, world: Any) -> None:
        """Tell a world (core.memory.World) what this policy has to be shown, and its weights."""
        world.host["shows"] = SHOW_LAG * self.needs_lag + SHOW_GUEST * self.privileged
        world.ask["weights"] = 0.0
        world.ask["weights"][0, : len(self.weights)] = self.weights

    def check_on(self, blueprint: Blueprint) -> None:
        """Let a user's own function decide under watch at some decisions of the scenario, once a process for each
        digest of it and set of VM sizes. ValueError, with the line, for what it may not do."""
        if self._is_own:
            return
        now = reach(self.function).digest
        if self.__dict__.setdefault("_digest", now) != now:  # a global or a helper is not what it was
            self.__dict__["_digest"] = now
            self.__dict__.pop("engine_function", None)
        sizes = frozenset(vm.vcpus for vm in blueprint.scenario.vms)
        key = now, self.needs_lag, self.privileged, self.weights, sizes
        if key not in _CHECKED:
            shows = int(SHOW_LAG * self.needs_lag + SHOW_GUEST * self.privileged)
            check_on(blueprint, Checker(self.name, self.function), shows, self.weights)
            _CHECKED.add(key)

    def answer(self, vm: Any, vcpus: Any, ask: Any) -> int:
        """What the policy answers in plain Python, which for a user's own function is checked as in `check_on`."""
        if self._is_own:
            return int(self.function(vm, vcpus, ask.me, ask))
        return Checker(self.name, self.function).answer(vm, vcpus, ask)

    def __reduce__(self) -> Any:
        """A policy of the table goes by its name, another without its machine code, an address in this process."""
        if BY_NAME.get(self.name) is self:
            return as_policy, (self.name,)
        own = {field.name for field in fields(self)}
        return _unpickled, ({name: value for name, value in self.__dict__.items() if name in own},)

    @cached_property
    def engine_function(self) -> Any:
        """What the engine calls: compiled to SIGNATURE, or the plain function under NUMBA_DISABLE_JIT=1."""
        return plain_of(self.function) if disabled() else compile_policy(self.name, self.function)


def _unpickled(state: dict[str, Any]) -> Policy:
    return Policy(**state)


def linear(weights: Mapping[str, float], name: str = "linear") -> Policy:
    """A linear score with weights of your own: heuristics.FEATURES by name, and "threshold"; what is left out is 0.
    ValueError for an unknown name or a value that is no number."""
    return Policy(
        name,
        heuristics.linear,
        "-",
        "kvmgym",
        "host-visible features, kvmgym.policies.heuristics.FEATURES",
        "the largest weighted sum of host-visible features, the weights being data",
        needs_lag=True,
        weights=heuristics.linear_weights(weights),
    )


_LINUX = "virt/kvm/kvm_main.c, kvm_vcpu_on_spin"
_FLAGS = "ready, blocking, preempted, preempted_in_kernel, pending_interrupt, in_spin_loop, dy_eligible"
_SERIES = f"{_FLAGS}, my tracked IPI"
_READY = "ready, blocking, pending_interrupt"

POLICIES: tuple[Policy, ...] = (
    # the kernel, by year
    Policy(
        "2011",
        kernel.year_2011,
        "2011",
        f"Linux of 2011, {_LINUX}",
        "preempted, blocking",
        "one round-robin pass over preempted vCPUs",
        group="kernel",
    ),
    Policy(
        "2012",
        kernel.year_2012,
        "2012",
        f"Linux of 2012, {_LINUX}",
        "preempted, blocking, in_spin_loop, dy_eligible",
        "2011, a spinner only every other time",
        group="kernel",
    ),
    Policy(
        "2017",
        kernel.year_2017,
        "2017",
        f"Linux of 2017, {_LINUX}",
        "preempted, blocking, preempted_in_kernel, in_spin_loop, dy_eligible",
        "2012 without what was preempted in user mode (the in-kernel filter)",
        group="kernel",
    ),
    Policy(
        "2019",
        kernel.year_2019,
        "2019",
        f"Linux of 2019, {_LINUX}",
        _FLAGS,
        "2017, and woken vCPUs count too",
        group="kernel",
    ),
    Policy(
        "2021",
        kernel.year_2021,
        "2021",
        f"Linux of 2021, {_LINUX}",
        _FLAGS,
        "2019, and a pending interrupt passes the in-kernel filter; decides as legacy",
        group="kernel",
    ),
    Policy(
        "legacy-i-bug",
        kernel.legacy_i_bug,
        "2024",
        f"Linux 6.13 to 6.18.0, {_LINUX}",
        _FLAGS,
        "legacy that stores the loop offset instead of the index",
        group="kernel",
    ),
    Policy(
        "legacy",
        kernel.legacy,
        "2025",
        f"Linux 6.19, {_LINUX}",
        _FLAGS,
        "one round-robin pass over ready vCPUs",
        group="kernel",
    ),
    # the series: each half alone, then whole
    Policy(
        "strict",
        kernel.strict,
        "2026",
        "series v3, patch 9 alone",
        _SERIES,
        "KVM half, first part: IPI receiver, pending interrupt or preempted in kernel; no fallback",
        group="series",
    ),
    Policy(
        "relaxed",
        kernel.relaxed,
        "2026",
        "series v2 patches 8-9, v3 patches 9-10",
        _SERIES,
        "KVM half alone: strict, then any preempted vCPU",
        group="series",
    ),
    Policy(
        "relaxed-only",
        kernel.relaxed_only,
        "2026",
        "round 2 of the series alone (ablation)",
        "ready, blocking, pending_interrupt, preempted, in_spin_loop, dy_eligible",
        "KVM half, second part: any preempted vCPU",
        group="series",
    ),
    Policy(
        "sched-v2",
        kernel.legacy,
        "2025",
        "series v2 without its KVM half",
        _FLAGS,
        "scheduler half alone: legacy with the debooster",
        deboost="v2",
        group="series",
    ),
    Policy(
        "sched-v3",
        kernel.legacy,
        "2026",
        "series v3 without its KVM half",
        _FLAGS,
        "scheduler half alone: legacy with the lag credit",
        deboost="v3",
        group="series",
    ),
    Policy(
        "series-v2",
        kernel.relaxed,
        "2025",
        "series v2",
        _SERIES,
        "both halves: relaxed with the debooster",
        deboost="v2",
        ipi_tracking="v2",
        group="series",
    ),
    Policy(
        "series-v3",
        kernel.relaxed,
        "2026",
        "series v3",
        _SERIES,
        "both halves: relaxed with the lag credit",
        deboost="v3",
        ipi_tracking="v3",
        group="series",
    ),
    # reference points, and heuristics that nobody ships yet
    Policy("none", simple.none, "-", "kvmgym", "nothing", "never yields: spinners burn their slices"),
    Policy("random", simple.random, "-", "kvmgym", "ready", "any ready vCPU, all alike"),
    Policy("round-robin", heuristics.round_robin, "-", "kvmgym", _READY, "the next ready vCPU, no more asked of it"),
    Policy(
        "longest-waiting",
        heuristics.longest_waiting,
        "-",
        "kvmgym",
        f"{_READY}, ready_since_ns",
        "the vCPU that has been ready longest",
    ),
    Policy(
        "receiver-first",
        heuristics.receiver_first,
        "-",
        "kvmgym",
        f"{_READY}, preempted, preempted_in_kernel, my tracked IPI",
        "IPI receiver, else pending interrupt, else preempted in kernel, else woken, else preempted in user mode",
    ),
    Policy(
        "least-lag",
        heuristics.least_lag,
        "-",
        "kvmgym",
        f"{_READY}, lag_ns",
        "the most eligible vCPU, which EEVDF owes most",
        needs_lag=True,
    ),
    linear(heuristics.DEFAULT_WEIGHTS),
    # bounds: they see the guest
    Policy(
        "clairvoyant",
        bounds.clairvoyant,
        "-",
        "kvmgym",
        "privileged: the vCPU that the spinner truly waits for",
        "bound: that vCPU if it is ready, else nobody",
        privileged=True,
        group="bounds",
    ),
    Policy(
        "clairvoyant-waiting",
        bounds.clairvoyant_waiting,
        "-",
        "kvmgym",
        "privileged: the vCPU that the spinner truly waits for, ready_since_ns",
        "bound: that vCPU if it is ready, else the longest-waiting one",
        privileged=True,
        group="bounds",
    ),
    Policy(
        "clairvoyant-working",
        bounds.clairvoyant_working,
        "-",
        "kvmgym",
        "privileged: the vCPU that the spinner truly waits for, ready_since_ns, in_spin_loop",
        "bound: that vCPU if it is ready, else the longest-waiting one that does not spin",
        privileged=True,
        group="bounds",
    ),
)

BY_NAME: Mapping[str, Policy] = MappingProxyType({policy.name: policy for policy in POLICIES})


def custom(function: PolicyFunction, name: str | None = None, *, privileged: bool = False) -> Policy:
    """A user's own function as a Policy; its name is the function's unless given. A function that reads vcpu.lag_ns has
    it filled. ValueError for one that reads ask.waits_for and is not `privileged`."""
    plain: Any = plain_of(function)
    called = name or str(getattr(plain, "__name__", "policy"))
    return Policy(called, function, "-", "user", "what it reads", plain.__doc__ or "", privileged=privileged)


@lru_cache(maxsize=64)  # so that a function that is given at every step is looked at and compiled once
def _custom(function: PolicyFunction) -> Policy:
    return custom(function)


def as_policy(policy: str | Policy | PolicyFunction) -> Policy:
    """A Policy from a name of the table, a Policy, or a plain or njit function. ValueError for an unknown name."""
    if isinstance(policy, Policy):
        return policy
    if isinstance(plain_of(policy), FunctionType):
        return _custom(policy)  # type: ignore[arg-type]
    if not isinstance(policy, str):
        return custom(policy)
    lookup("", "policy", policy, BY_NAME)
    return BY_NAME[policy]
