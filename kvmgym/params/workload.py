"""A workload: the guest programs of a VM's vCPUs, with the locks, queues and barriers they share.

Left out: what the data is, and any state that outlives a phase but the locks, queues and barriers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from kvmgym.codes import LOCK_KINDS
from kvmgym.params import errors
from kvmgym.params.dist import Dist, scale_fields
from kvmgym.params.program import PHASES, Compute, Phase, walk
from kvmgym.params.programcheck import ProgramCheck
from kvmgym.params.switches import check_switches, switch

_TURNS = 10_000  # of a burst within one stretch of compute: each is a step of a loop


@dataclass(frozen=True)
class LockSpec:
    """A group of `count` locks, one drawn Zipf(zipf) at each Lock phase (zipf 0: all alike).

    kind: "tas" (unfair spinlock), "fifo" (ticket or queued), "pvq" (spin, then halt and be kicked) or "mutex"
    (user mode, blocks).
    """

    name: str
    count: int = 1
    kind: str = switch(LOCK_KINDS, "tas")
    zipf: float = 1.0

    def __post_init__(self) -> None:
        errors.names(self, "name")
        errors.integers(self, 1, 4096, "count")
        check_switches(self)
        errors.numbers(self, 0, 10, "zipf")


@dataclass(frozen=True)
class QueueSpec:
    """A bounded queue between vCPUs; capacity in items."""

    name: str
    capacity: int

    def __post_init__(self) -> None:
        errors.names(self, "name")
        errors.integers(self, 1, 10**9, "capacity")


@dataclass(frozen=True)
class BarrierSpec:
    """A barrier of all vCPUs whose role uses it; a waiter spins spin_ns in user mode, then blocks."""

    name: str
    spin_ns: int = 0

    def __post_init__(self) -> None:
        errors.names(self, "name")
        errors.integers(self, 0, errors.MAX_NS, "spin_ns")


@dataclass(frozen=True)
class Role:
    """A program that some of the vCPUs run. share: relative number of vCPUs, above 0."""

    name: str
    program: tuple[Phase, ...]
    share: float = 1.0

    def __post_init__(self) -> None:
        errors.names(self, "name")
        errors.sequence(self, "program", PHASES, "a phase")
        errors.check(len(self.program) > 0, "Role.program", self.program, "at least one phase")
        errors.set_field(self, "share", errors.number("Role.share", self.share, 0, 1e12, above=True))


@dataclass(frozen=True)
class Burst:
    """Two-state Markov modulation of bursty Compute phases: factor between the states, exponential state times.

    factor: 1 or more. mean_ns: mean time in a state, in units of unit_ns (1 ns unless the scenario was scaled).
    """

    factor: float = 4.0
    mean_ns: int = 20_000_000
    unit_ns: int = 1

    def __post_init__(self) -> None:
        errors.numbers(self, 1, 1e6, "factor")
        errors.integers(self, 1, errors.MAX_NS, "mean_ns", "unit_ns")

    @property
    def dist(self) -> Dist:
        """The distribution of the time in a state."""
        return Dist("exponential", (self.mean_ns,), self.unit_ns)

    def scaled(self, factor: int) -> Burst:
        """All state times exactly factor times as long."""
        return replace(self, unit_ns=self.unit_ns * factor)


@dataclass(frozen=True)
class Rates:
    """The rates a workload is declared to have, for docs and tests: per CPU-second of useful guest time.

    kernel_share: share of that time in ring 0, 0 to 1. The others are counts per CPU-second.
    """

    kernel_share: float = 0.0
    lock_ops: float = 0.0
    user_lock_ops: float = 0.0
    shootdowns: float = 0.0
    kicks: float = 0.0
    halts: float = 0.0

    def __post_init__(self) -> None:
        errors.numbers(self, 0, 1, "kernel_share")
        errors.numbers(self, 0, 1e12, "lock_ops", "user_lock_ops", "shootdowns", "kicks", "halts")

    def scaled(self, factor: int) -> Rates:
        """The rates when every time is factor times as long."""
        return Rates(
            self.kernel_share,
            self.lock_ops / factor,
            self.user_lock_ops / factor,
            self.shootdowns / factor,
            self.kicks / factor,
            self.halts / factor,
        )


@dataclass(frozen=True)
class Workload:
    """The programs of a VM, dealt to its vCPUs by role.

    working_set_kib: for the cache re-warm cost. progress: what one operation is called ("chunks"). rates: declared,
    for docs and tests. marks: how well the numbers are known (V read, D derived, R recalled, A assumed). source:
    where they are from. Errors: ValueError for unknown or repeated names, blocks that do not release their locks in
    reverse order, waiting under a spinlock, lock orders or shootdowns that can deadlock, nested Repeat, a queue
    with only one end, and a program that can run through in no time.
    """

    name: str
    description: str
    roles: tuple[Role, ...] = field(metadata={"toml": "role"})
    locks: tuple[LockSpec, ...] = field(default=(), metadata={"toml": "lock"})
    queues: tuple[QueueSpec, ...] = field(default=(), metadata={"toml": "queue"})
    barriers: tuple[BarrierSpec, ...] = field(default=(), metadata={"toml": "barrier"})
    working_set_kib: int = 64
    burst: Burst | None = None
    progress: str = "ops"
    rates: Rates | None = None
    marks: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        errors.names(self, "name", "progress")
        errors.texts(self, "description", "marks", "source")
        for name, kind in (("roles", Role), ("locks", LockSpec), ("queues", QueueSpec), ("barriers", BarrierSpec)):
            errors.sequence(self, name, kind, f"a {kind.__name__}")
            errors.unique(f"Workload.{name}", name[:-1], (item.name for item in getattr(self, name)))
        errors.check(len(self.roles) > 0, "Workload.roles", self.roles, "at least one Role")
        errors.integers(self, 0, 2**30, "working_set_kib")
        errors.instances(self, "burst", (Burst, type(None)), "a Burst or None")
        errors.instances(self, "rates", (Rates, type(None)), "Rates or None")
        ProgramCheck(
            f"Workload({self.name})",
            tuple(role.program for role in self.roles),
            {lock.name: lock.kind for lock in self.locks},
            tuple(queue.name for queue in self.queues),
            tuple(barrier.name for barrier in self.barriers),
        ).run()
        _check_bursts(self)

    def deal_roles(self, vcpus: int) -> tuple[int, ...]:
        """The role index of each vCPU, contiguous by role.

        Largest remainder on share (ties: the earlier role); when there are vCPUs enough every role gets one, taken
        from the role furthest above its quota. Returns vcpus integers. Errors: ValueError for vcpus < 1.
        """
        vcpus = errors.integer("deal_roles vcpus", vcpus, 1, 1024)
        total = sum(role.share for role in self.roles)
        quotas = [vcpus * role.share / total for role in self.roles]
        counts = [int(quota) for quota in quotas]
        order = sorted(range(len(counts)), key=lambda index: (counts[index] - quotas[index], index))
        for index in order[: vcpus - sum(counts)]:
            counts[index] += 1
        while vcpus >= len(counts) and 0 in counts:
            donors = [index for index, count in enumerate(counts) if count > 1]
            counts[max(donors, key=lambda index: (counts[index] - quotas[index], -index))] -= 1
            counts[counts.index(0)] += 1
        return tuple(index for index, count in enumerate(counts) for _ in range(count))

    def scaled(self, factor: int) -> Workload:
        """The same workload with every time multiplied by the factor."""
        return scale_fields(self, factor)


def _check_bursts(workload: Workload) -> None:
    """Refuse bursts that are too short for the stretches that follow them, or too strong. ValueError."""
    burst = workload.burst
    if burst is None:
        return
    for number, role in enumerate(workload.roles):
        for here, phase in walk(role.program, f"Workload({workload.name}).roles[{number}].program"):
            if isinstance(phase, Compute) and phase.bursty:
                longest = phase.dist.longest_ns * (1 + burst.factor) / 2
                errors.check(
                    longest * 65536 <= 2**62, f"{here}.dist", phase.dist, "shorter: a burst multiplies it past 64 bits"
                )
                enough = longest <= _TURNS * burst.mean_ns * burst.unit_ns
                allowed = f"at least 1/{_TURNS} of the longest bursty Compute ({longest:g} ns at {here})"
                errors.check(enough, "Burst.mean_ns", burst.mean_ns, allowed)
