"""What a check produces: rows with an expected and a measured value, and the rules by which a row passes.

A statistical row passes only if the exact value lies inside the 99.9 % interval and the interval is narrow, so that a
noisy run cannot pass. A short run (`quick`) may have a wider interval, and then its rule says so. A row that misses for
a cause that is known and written down is a misfit: it is shown, with its cause, and fails nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kvmgym.measure.stats import Gain, Interval, t_quantile

if TYPE_CHECKING:
    from kvmgym.validate.lab import Lab

LEVEL = 0.999


@dataclass(frozen=True)
class Row:
    """One comparison. half_width: of the interval at `level`, None for an exact count. rule: what the row has to meet.
    cause: why a row that misses may do so."""

    quantity: str
    expected: float
    measured: float
    half_width: float | None
    rule: str
    passed: bool
    cause: str = ""
    level: float = LEVEL

    @property
    def verdict(self) -> str:
        """In a word."""
        return "pass" if self.passed else "misfit" if self.cause else "FAIL"

    @property
    def failed(self) -> bool:
        """Whether it misses without a known cause."""
        return self.verdict == "FAIL"


@dataclass(frozen=True)
class Check:
    """A check: expected: where the expected values come from; function: runs it in a Lab and returns its rows."""

    id: str
    title: str
    expected: str
    function: Callable[[Lab], list[Row]]


@dataclass(frozen=True)
class Outcome:
    """What running a check gave. quick: the short form; seconds: wall time."""

    check: Check
    rows: tuple[Row, ...]
    quick: bool
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether there are rows and none of them fails."""
        return bool(self.rows) and not any(row.failed for row in self.rows)

    @property
    def misfits(self) -> tuple[Row, ...]:
        """The rows that miss for a known cause."""
        return tuple(row for row in self.rows if row.verdict == "misfit")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "id": self.check.id,
            "title": self.check.title,
            "expected": self.check.expected,
            "passed": self.passed,
            "quick": self.quick,
            "seconds": round(self.seconds, 2),
            "rows": [{**asdict(row), "verdict": row.verdict} for row in self.rows],
        }


def exact(quantity: str, expected: int, measured: int) -> Row:
    """A row that needs equality."""
    return Row(quantity, expected, measured, None, "equal", measured == expected)


def statistical(quantity: str, expected: float, found: Interval, limit: float, quick: bool = False) -> Row:
    """A row whose exact value has to lie in the interval, whose half-width is at most `limit` of the exact value."""
    narrow = found.half_width <= limit * abs(expected)
    rule = f"{'quick: ' if quick else ''}in interval, half-width ≤ {limit:.0%}"
    return Row(quantity, expected, found.mean, found.half_width, rule, found.holds(expected) and narrow)


def banded(
    quantity: str, expected: float, found: Interval | Gain, low: float, high: float, rule: str, quick: bool = False
) -> Row:
    """A row whose whole interval has to lie in [low, high]."""
    inside = low <= found.low and found.high <= high
    return Row(quantity, expected, found.mean, found.half_width, f"{'quick: ' if quick else ''}{rule}", inside)


def bounded(quantity: str, expected: float, worst: float, tolerance: float) -> Row:
    """A row without a sample: its worst reading may differ from the exact value by `tolerance` of it at most."""
    near = abs(worst - expected) <= tolerance * abs(expected)
    return Row(quantity, expected, worst, None, f"worst within ±{tolerance:.0%}", near)


def documented(row: Row, cause: str, clear: bool) -> Row:
    """The row when it is known to miss for a `cause` ("": it is not). It is a misfit until its value is `clear` of
    its bounds by more than noise; then it fails, so that no cause outlives its misfit."""
    if not cause:
        return row
    if clear:
        return replace(row, passed=False, rule=f"{row.rule}; no longer a misfit, remove it from MISFITS")
    return replace(row, passed=False, cause=cause)


def ratio(pairs: Sequence[tuple[float, float]], unit: float = 1.0, level: float = LEVEL) -> Interval:
    """Sum of numerators over sum of denominators, in units of `unit`, and its interval by linearisation.

    pairs: (numerator, denominator) of each independent world. Errors: ValueError when nothing was counted. Source: Law,
    Simulation Modeling and Analysis, ratio estimators.

    >>> ratio([(2, 1), (2, 1), (2, 1)]).mean
    2.0
    """
    data = np.array(pairs, dtype=np.float64)
    if len(data) == 0 or data[:, 1].sum() <= 0:
        raise ValueError(f"pairs = {list(pairs)[:3]}: must count something")
    mean = data[:, 0].sum() / data[:, 1].sum()
    if len(data) == 1:
        return Interval(float(mean / unit), math.inf, 1)
    rest = data[:, 0] - mean * data[:, 1]
    error = math.sqrt(float((rest**2).sum()) / (len(data) - 1) / len(data)) / data[:, 1].mean()
    half = t_quantile(level, len(data) - 1) * error
    return Interval(float(mean / unit), float(half / unit), len(data))
