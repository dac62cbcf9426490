"""The phases that a guest program is made of.

A program is a tuple of phases that a vCPU runs over and over. Left out: data dependence; a branch is chosen at
random, never by what happened before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from kvmgym.codes import KICK_TARGETS, SHOOTDOWN_TARGETS
from kvmgym.params.dist import Dist
from kvmgym.params.errors import check, flags, instances, integers, names, numbers, sequence
from kvmgym.params.switches import check_switches, switch

MOST_NESTED = 32  # Repeat and Choose inside each other; walks over programs recurse this deep


@dataclass(frozen=True)
class Compute:
    """Run for a drawn time. kernel_share: probability that this stretch is in ring 0, 0 to 1.

    bursty: the stretch follows the two states of the workload's Burst.
    """

    kind: ClassVar[str] = "compute"
    dist: Dist
    kernel_share: float = 0.0
    bursty: bool = False

    def __post_init__(self) -> None:
        instances(self, "dist", Dist, "a Dist")
        numbers(self, 0, 1, "kernel_share")
        flags(self, "bursty")


@dataclass(frozen=True)
class Lock:
    """Take the lock of that LockSpec, spinning or blocking as its kind says. irq_off: IPIs wait until the unlock."""

    kind: ClassVar[str] = "lock"
    lock: str
    irq_off: bool = False

    def __post_init__(self) -> None:
        names(self, "lock")
        flags(self, "irq_off")


@dataclass(frozen=True)
class Unlock:
    """Release the lock of that LockSpec, which the same block took last."""

    kind: ClassVar[str] = "unlock"
    lock: str

    def __post_init__(self) -> None:
        names(self, "lock")


@dataclass(frozen=True)
class Shootdown:
    """Send a synchronous IPI and spin in the kernel until all targets have acknowledged.

    targets: "others" (every other vCPU), "busy" (those not halted) or "one" (a random other).
    """

    kind: ClassVar[str] = "shootdown"
    targets: str = switch(SHOOTDOWN_TARGETS, "others")

    def __post_init__(self) -> None:
        check_switches(self)


@dataclass(frozen=True)
class Kick:
    """Send a reschedule IPI and go on. target: a "random" other vCPU, the "next" or the "prev" one by index."""

    kind: ClassVar[str] = "kick"
    target: str = switch(KICK_TARGETS, "random")

    def __post_init__(self) -> None:
        check_switches(self)


@dataclass(frozen=True)
class Block:
    """Halt until a timer of the drawn time fires."""

    kind: ClassVar[str] = "block"
    dist: Dist

    def __post_init__(self) -> None:
        instances(self, "dist", Dist, "a Dist")


@dataclass(frozen=True)
class Barrier:
    """Wait at a BarrierSpec until all its parties have arrived."""

    kind: ClassVar[str] = "barrier"
    barrier: str

    def __post_init__(self) -> None:
        names(self, "barrier")


@dataclass(frozen=True)
class Put:
    """Put an item into a QueueSpec; block while it is full."""

    kind: ClassVar[str] = "put"
    queue: str

    def __post_init__(self) -> None:
        names(self, "queue")


@dataclass(frozen=True)
class Get:
    """Take an item from a QueueSpec; block while it is empty."""

    kind: ClassVar[str] = "get"
    queue: str

    def __post_init__(self) -> None:
        names(self, "queue")


@dataclass(frozen=True)
class Ops:
    """Count operations as done: the progress metric."""

    kind: ClassVar[str] = "ops"
    count: int = 1

    def __post_init__(self) -> None:
        integers(self, 0, 10**9, "count")


@dataclass(frozen=True)
class Branch:
    """One way on of a Choose. weight: 0 or more, relative; phases: may be empty."""

    weight: float
    phases: tuple[Phase, ...] = ()

    def __post_init__(self) -> None:
        numbers(self, 0, 1e12, "weight")
        sequence(self, "phases", PHASES, "a phase")


@dataclass(frozen=True)
class Choose:
    """Run one branch, drawn by weight. Errors: ValueError when no branch has a weight above 0."""

    kind: ClassVar[str] = "choose"
    branches: tuple[Branch, ...]

    def __post_init__(self) -> None:
        sequence(self, "branches", Branch, "a Branch")
        weights = tuple(branch.weight for branch in self.branches)
        check(sum(weights) > 0, "Choose.branches weights", weights, "above 0 for at least one branch")

    @property
    def possible(self) -> tuple[Branch, ...]:
        """The branches with a weight above 0."""
        return tuple(branch for branch in self.branches if branch.weight > 0)


@dataclass(frozen=True)
class Repeat:
    """Run the phases `times` times. A Repeat inside another is an error that Workload finds."""

    kind: ClassVar[str] = "repeat"
    times: int
    phases: tuple[Phase, ...]

    def __post_init__(self) -> None:
        integers(self, 1, 10**9, "times")
        sequence(self, "phases", PHASES, "a phase")
        check(len(self.phases) > 0, "Repeat.phases", self.phases, "at least one phase")


Phase: TypeAlias = Compute | Lock | Unlock | Shootdown | Kick | Block | Barrier | Put | Get | Ops | Choose | Repeat
PHASES = (Compute, Lock, Unlock, Shootdown, Kick, Block, Barrier, Put, Get, Ops, Choose, Repeat)


def walk(phases: tuple[Phase, ...], path: str) -> Iterator[tuple[str, Phase]]:
    """Every phase, nested ones included, in program order with its path, as "program[2].branches[0].phases[1]"."""
    for place, phase in enumerate(phases):
        here = f"{path}[{place}]"
        yield here, phase
        if isinstance(phase, Repeat):
            yield from walk(phase.phases, f"{here}.phases")
        elif isinstance(phase, Choose):
            for number, branch in enumerate(phase.branches):
                yield from walk(branch.phases, f"{here}.branches[{number}].phases")


def nested(phases: tuple[Phase, ...]) -> int:
    """How many Repeat and Choose are inside each other, 0 without any; counts to MOST_NESTED + 1 at most."""
    level: list[tuple[Phase, ...]] = [phases]
    for depth in range(MOST_NESTED + 1):
        inner = [block for block in level for phase in block for block in _blocks(phase)]
        if not inner:
            return depth
        level = inner
    return MOST_NESTED + 1


def _blocks(phase: Phase) -> tuple[tuple[Phase, ...], ...]:
    if isinstance(phase, Choose):
        return tuple(branch.phases for branch in phase.branches)
    return (phase.phases,) if isinstance(phase, Repeat) else ()
