"""The rules of the calibration, pure: what is fitted, how a point is chosen, how results are judged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

# Factors on the profile's rates. Shootdowns: the range that the profile states (dedup 150-2000 of 600, vips 80-800 of
# 250; dbench states none, its 2 are assumed, and up to 50 times as many are tried). Hot-lock operations: half to twice.
SHOOTDOWN_FACTORS: Mapping[str, tuple[float, ...]] = {
    "dbench": (0.5, 1.0, 2.0, 5.0, 10.0, 25.0, 50.0),
    "dedup": (0.25, 0.5, 0.71, 1.0, 1.41, 2.0, 3.33),
    "vips": (0.32, 0.5, 0.71, 1.0, 1.41, 2.0, 3.2),
}
LOCK_FACTORS = (0.5, 0.71, 1.0, 1.41, 2.0)
ROUGH = 2.0  # a size is right when it is within this factor of the published one


@dataclass(frozen=True)
class Point:
    """A point of the grid: factors, gain with its half-width, and what legacy wastes there; all in per cent."""

    shootdowns: float
    lock_ops: float
    gain: float
    half_width: float
    wasted: float

    @property
    def distance(self) -> float:
        """From the profile's own values, in octaves."""
        return math.hypot(math.log2(self.shootdowns), math.log2(self.lock_ops))


@dataclass(frozen=True)
class Choice:
    """The chosen point; misfit: its gain less the target; tied: how many points were as good within the tolerance;
    headroom: whether legacy wastes enough there."""

    point: Point
    misfit: float
    tolerance: float
    tied: int
    headroom: bool


def choose(points: Sequence[Point], target: float, least_wasted: float) -> Choice:
    """The point to freeze.

    1. Points where legacy wastes less than `least_wasted` are left out (unless none is left).
    2. The misfit of a point is |gain - target|. The tolerance is the median half-width of the grid, that is what the
       seeds leave open. All points whose misfit exceeds the smallest by at most the tolerance tie.
    3. Of these the one nearest to the profile's own values on the log scale; then the smaller misfit.
    """
    able = [point for point in points if point.wasted >= least_wasted]
    tolerance = median(point.half_width for point in points)
    pool = able or list(points)
    least = min(abs(point.gain - target) for point in pool)
    tied = [point for point in pool if abs(point.gain - target) <= least + tolerance]
    best = min(tied, key=lambda point: (round(point.distance, 6), abs(point.gain - target)))
    return Choice(best, best.gain - target, tolerance, len(tied), bool(able))


def sign_verdict(low: float, high: float) -> str:
    """Whether a gain that was published as positive is positive here."""
    if low > 0:
        return "right"
    return "WRONG" if high < 0 else "not clear"


def size_verdict(gain: float, low: float, high: float, published: float) -> str:
    """Whether a gain has roughly the published size (both in per cent)."""
    if low <= published <= high or published / ROUGH <= gain <= published * ROUGH:
        return "rough size"
    return "TOO LARGE" if gain > published else "TOO SMALL"


def regression_verdict(low: float, high: float) -> str:
    """Whether a policy that was published as harmless does harm."""
    if high < 0:
        return "REGRESSION"
    return "none" if low <= 0 else "gain"


def kendall(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall's tau of two lists of scores: concordant less discordant pairs over all pairs.

    >>> kendall([1, 2, 3], [1, 2, 3]), kendall([1, 2, 3], [3, 2, 1])
    (1.0, -1.0)
    """
    pairs = [(i, j) for i in range(len(first)) for j in range(i)]
    signs = [_sign(first[i] - first[j]) * _sign(second[i] - second[j]) for i, j in pairs]
    return sum(signs) / len(pairs)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def order(scores: Mapping[str, float]) -> list[str]:
    """Names, best first."""
    return sorted(scores, key=lambda name: -scores[name])


def moved(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    """Names whose rank is another one, as `name 3→1`, largest move first."""
    old, new = order(before), order(after)
    ranks = {name: (old.index(name) + 1, new.index(name) + 1) for name in old}
    changed = sorted((name for name in old if ranks[name][0] != ranks[name][1]),
                     key=lambda name: -abs(ranks[name][0] - ranks[name][1]))  # fmt: skip
    return [f"{name} {ranks[name][0]}→{ranks[name][1]}" for name in changed]
