"""From a row of the table of workloads to guest phases: a Profile holds the numbers, its methods make the phases.

Rates are per CPU-second of useful guest time: on a pCPU, and neither spin nor host work (run - spin - overhead). Every
program repeats one cycle, a stretch of compute (the gap) and then at most one event, drawn by its rate:

    cycles = max(sum of the rates, 1e9 / quantum_ns)                       a CPU-second
    gap    = (1 - time in holds, sends and interrupt handlers) / cycles    mean, exponential

so that the rates hold whatever they are (randomised ones too), and a cycle takes 1 / cycles of useful time. Halts are
those of Block phases; a wait at a queue or for a user lock halts a vCPU as well and comes on top (but see
barrier_halts). Time in sends and handlers is reckoned for VCPUS vCPUs that are all busy, at the default costs; other
VMs are off by a few percent.

Bursts: the gaps of a vCPU are short and long by turns, a factor of 4, each for 20 ms on average (A). A stage that has
one vCPU does not burst, nor does a program that waits at a barrier: one vCPU would throttle all others for the length
of its slow turn.
Left out: dependence between events, and any difference between the vCPUs of a VM but their place in a pipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import exp
from typing import Any

from kvmgym.params import (
    Block,
    Branch,
    Burst,
    Choose,
    Compute,
    Costs,
    Dist,
    Kick,
    Lock,
    LockSpec,
    Phase,
    Rates,
    Role,
    Shootdown,
    Unlock,
    Workload,
    check,
)

VCPUS = 16  # vCPUs of the VMs that the table describes
HOT, USER = "hot", "user"  # names of the two groups of locks
TAIL = (0.01, 20_000, 50_000)  # share, low and high end [ns] of the long holds (A)
RANDOM = (
    "lock_ops", "user_lock_ops", "hold_median_ns", "shootdowns", "kicks", "halts", "halt_mean_ns", "working_set_kib",
)  # fmt: skip


@dataclass(frozen=True)
class Profile:
    """One row of the table: what a CPU-second of useful guest time of a workload contains.

    kernel_share: share of it in ring 0, 0 to 1. lock_ops: hot spinlocks taken, over `locks` locks; hold_*: lognormal
    hold, TAIL of them long instead. user_lock_ops: mutexes taken in user mode, over `user_locks`, so many that they
    are seldom contended; user_hold_ns: exponential hold. shootdowns: synchronous IPIs to shootdown_targets ("busy"
    when threads that idle are spared); shootdown_locked: a hot lock is held across each, so lock_ops includes
    them. kicks: reschedule IPIs. halts: waits for a device or timer, exponential halt_mean_ns; barrier_halts: they are
    waits at a barrier that the workload's programs bring, each ended by one of the kicks. quantum_ns: longest mean
    cycle (short against a burst). progress: what an operation is called. marks: V read, D derived, R recalled, A
    assumed, by field. Errors: ValueError for locked shootdowns above lock_ops, barrier halts above kicks, and events
    that leave no time for compute.
    """

    name: str
    progress: str
    kernel_share: float
    working_set_kib: int
    lock_ops: float = 0.0
    locks: int = 1
    hold_median_ns: float = 1_000.0
    hold_sigma: float = 1.0
    user_lock_ops: float = 0.0
    user_locks: int = 16
    user_hold_ns: float = 200.0
    shootdowns: float = 0.0
    shootdown_targets: str = "busy"
    shootdown_locked: bool = False
    kicks: float = 0.0
    halts: float = 0.0
    halt_mean_ns: float = 0.0
    barrier_halts: bool = False
    quantum_ns: float = 1_000_000
    marks: str = ""

    def __post_init__(self) -> None:
        if self.shootdown_locked:
            check(self.shootdowns <= self.lock_ops, "Profile.shootdowns", self.shootdowns, "lock_ops or less")
        if self.barrier_halts:
            check(self.halts <= self.kicks, "Profile.halts", self.halts, "kicks or less")
        spent = self.kernel_spent + self.user_spent
        check(
            spent < 1,
            "Profile",
            self.name,
            f"a profile whose events leave time for compute, not {spent:.2f} s a second",
        )

    @property
    def rates(self) -> Rates:
        """The rates that the phases show; kernel_share is at least what the events spend in the kernel."""
        return Rates(
            max(self.kernel_share, self.kernel_spent),
            self.lock_ops,
            self.user_lock_ops,
            self.shootdowns,
            self.kicks,
            self.halts,
        )

    @property
    def hold(self) -> Dist:
        """How long a hot lock is held, a shootdown under it apart."""
        return Dist.lognormal(self.hold_median_ns, self.hold_sigma, *TAIL)

    @property
    def kernel_spent(self) -> float:
        """Share of useful time in holds of hot locks, sends and interrupt handlers."""
        costs, others = Costs(), VCPUS - 1
        return 1e-9 * (
            self.lock_ops * self.hold.mean_ns
            + self.shootdowns * others * (costs.broadcast_physical_ns + costs.irq_handler_ns)
            + self.plain_kicks * (costs.ipi_ns + costs.irq_handler_ns)
            + self.halts * costs.irq_handler_ns
        )

    @property
    def plain_kicks(self) -> float:
        """The kicks but those that end a wait at a barrier, whose cost is the host's."""
        return self.kicks - self.halts if self.barrier_halts else self.kicks

    @property
    def user_spent(self) -> float:
        """Share of useful time in holds of user locks."""
        return 1e-9 * self.user_lock_ops * self.user_hold_ns

    @property
    def cycles(self) -> float:
        """Cycles a CPU-second."""
        return max(sum(weight for weight, _ in self._events), 1e9 / self.quantum_ns)

    @property
    def cycle_ns(self) -> float:
        """Mean useful time of a cycle, events included."""
        return 1e9 / self.cycles

    def gap(self, bursty: bool = True, sigma: float | None = None) -> Compute:
        """The compute of a cycle, in ring 0 as often as kernel_share leaves to it: exponential, or with a sigma
        lognormal."""
        free = 1 - self.kernel_spent - self.user_spent
        share = (self.rates.kernel_share - self.kernel_spent) / free
        mean_ns = free * self.cycle_ns
        dist = Dist.exponential(mean_ns)
        if sigma is not None:
            dist = Dist.lognormal(mean_ns * exp(-(sigma**2) / 2), sigma)
        return Compute(dist, kernel_share=min(share, 1.0), bursty=bursty)

    def cycle(self, bursty: bool = True, sigma: float | None = None) -> tuple[Phase, ...]:
        """The gap and one event; without any events the gap alone."""
        gap = self.gap(bursty, sigma)
        if not self._events:
            return (gap,)
        rest = self.cycles - sum(weight for weight, _ in self._events)
        nothing = (Branch(rest),) if rest > 0 else ()
        branches = (*(Branch(weight, phases) for weight, phases in self._events), *nothing)
        return (gap, Choose(tuple(sorted(branches, key=lambda branch: -branch.weight))))

    @property
    def _events(self) -> tuple[tuple[float, tuple[Phase, ...]], ...]:
        """The kinds of event that happen: rate and phases."""
        enter, hold, leave = Lock(HOT), Compute(self.hold, kernel_share=1.0), Unlock(HOT)
        user = (Lock(USER), Compute(Dist.exponential(self.user_hold_ns)), Unlock(USER))
        shootdown: tuple[Phase, ...] = (Shootdown(self.shootdown_targets),)
        plain = self.lock_ops
        if self.shootdown_locked:
            shootdown = (enter, hold, *shootdown, leave)
            plain -= self.shootdowns
        events: tuple[tuple[float, tuple[Phase, ...]], ...] = (
            (plain, (enter, hold, leave)),
            (self.user_lock_ops, user),
            (self.shootdowns, shootdown),
            (self.plain_kicks, (Kick(),)),
            (0.0 if self.barrier_halts else self.halts, (Block(Dist.exponential(self.halt_mean_ns)),)),
        )
        return tuple(event for event in events if event[0] > 0)

    def cycles_in(self, time_ns: float) -> int:
        """How many cycles take that much useful time, at least 1."""
        return max(1, round(time_ns / self.cycle_ns))

    def workload(self, description: str, roles: tuple[Role, ...], **given: Any) -> Workload:
        """A Workload with the profile's locks, working set and rates; `given`: further fields, as queues."""
        hot = (LockSpec(HOT, self.locks),) if self.lock_ops else ()
        user = (LockSpec(USER, self.user_locks, kind="mutex", zipf=0.0),) if self.user_lock_ops else ()
        return Workload(
            self.name,
            description,
            roles,
            locks=(*hot, *user),
            working_set_kib=self.working_set_kib,
            burst=Burst(),
            progress=self.progress,
            rates=self.rates,
            marks=self.marks,
            **given,
        )

    def multiplied(self, factors: Mapping[str, float], label: str) -> Profile:
        """The profile with fields of RANDOM multiplied, named `<name>-<label>`.

        Locked shootdowns are at most lock_ops, kicks at least the barrier's halts. Errors: ValueError for a field that
        is not in RANDOM.
        """
        for name in factors:
            check(name in RANDOM, "factors", name, f"one of {', '.join(RANDOM)}")
        found = {name: getattr(self, name) * factor for name, factor in factors.items()}
        if "working_set_kib" in found:
            found["working_set_kib"] = round(found["working_set_kib"])
        if self.shootdown_locked:
            lock_ops = found.get("lock_ops", self.lock_ops)
            found["shootdowns"] = min(found.get("shootdowns", self.shootdowns), lock_ops)
        if self.barrier_halts:
            found["kicks"] = max(found.get("kicks", self.kicks), found.get("halts", self.halts))
        return replace(self, name=f"{self.name}-{label}", **found)


@dataclass(frozen=True)
class Family:
    """A profile, and how its cycle becomes a workload: `build` takes the profile or a randomised one.

    tasks: guest tasks of a VM that has fewer vCPUs than that; 0: one task a vCPU.
    """

    profile: Profile
    build: Callable[[Profile], Workload]
    tasks: int = 0

    @property
    def workload(self) -> Workload:
        """The workload of the table's row."""
        return self.build(self.profile)
