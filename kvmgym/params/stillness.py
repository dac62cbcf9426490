"""How far a guest program can go while time stands still.

The engine walks through a program until a phase takes time, so the phases that it may pass at one moment have to be
few: at most MAX_STILL on any path, whatever the branches drawn, and every pass of a program takes time. A Compute or
Block takes time when its mean is a unit or more (single draws may still be 0); all other phases may take none.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvmgym.params.program import Block, Choose, Compute, Phase, Repeat

MAX_STILL = 10_000
_BURSTY_UNITS = 2  # a burst shortens a stretch to no less than half, rounded down


@dataclass(frozen=True)
class Still:
    """The most phases that a block can pass while time stands still.

    through: from its start to its end, None when every path takes time. before: from its start to the first phase that
    takes time; after: from the last one to its end; inside: between any two.
    """

    through: int | None
    before: int = 0
    after: int = 0
    inside: int = 0

    def then(self, other: Still) -> Still:
        """This block, then the other."""
        through = None if self.through is None or other.through is None else self.through + other.through
        before, after = self.before, other.after
        if self.through is not None:
            before = max(before, self.through + other.before)
        if other.through is not None:
            after = max(after, other.through + self.after)
        return Still(through, before, after, max(self.inside, other.inside, self.after + other.before))

    def either(self, other: Still) -> Still:
        """One of the two."""
        through = max((way for way in (self.through, other.through) if way is not None), default=None)
        before, after = max(self.before, other.before), max(self.after, other.after)
        return Still(through, before, after, max(self.inside, other.inside))

    def times(self, number: int) -> Still:
        """The block `number` times over, with a phase after each that leads back."""
        once = self.then(Still(1))
        if number == 1:
            return once
        if once.through is None:
            return Still(None, once.before, once.after, max(once.inside, once.after + once.before))
        whole, rest = once.through * number, once.through * (number - 1)
        return Still(whole, once.before + rest, once.after + rest, max(once.inside, once.after + once.before + rest))

    @property
    def most(self) -> int:
        """The most anywhere."""
        return max(self.through or 0, self.before, self.after, self.inside)

    @property
    def most_around(self) -> int:
        """The most anywhere when the block follows itself for ever and every pass takes time."""
        return max(self.before, self.after, self.inside, self.after + self.before)


def stillness(phases: tuple[Phase, ...]) -> Still:
    """What a block of phases can pass while time stands still."""
    found = Still(0)
    for phase in phases:
        found = found.then(_of_phase(phase))
    return found


def _of_phase(phase: Phase) -> Still:
    if isinstance(phase, (Compute, Block)):
        bursty = isinstance(phase, Compute) and phase.bursty
        takes_time = phase.dist.mean_units >= (_BURSTY_UNITS if bursty else 1)
        return Still(None, 1, 1) if takes_time else Still(1)
    if isinstance(phase, Choose):
        ways = [Still(1).then(stillness(branch.phases)) for branch in phase.possible]
        found = ways[0]
        for way in ways[1:]:
            found = found.either(way)
        return found
    if isinstance(phase, Repeat):
        return Still(1).then(stillness(phase.phases).times(phase.times))
    return Still(1)
