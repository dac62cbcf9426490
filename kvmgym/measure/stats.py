"""Intervals of means and of gains: Student's t without a dependency, and pairing by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A mean of n values and the half-width of its confidence interval (infinite for n = 1)."""

    mean: float
    half_width: float
    n: int

    @property
    def low(self) -> float:
        """The lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """The upper end."""
        return self.mean + self.half_width

    def holds(self, value: float) -> bool:
        """Whether the interval contains the value."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Gain:
    """A relative gain over n seeds, taken on the log scale, with its confidence interval, which is wider above than
    below (from -1 to infinity for n = 1)."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        """Half of the interval's width, as tables show it after `±`."""
        return (self.high - self.low) / 2

    @property
    def text(self) -> str:
        """In per cent with half of the interval's width, as `-33.0 ± 1.3`."""
        return f"{100 * self.mean:+.1f} ± {100 * self.half_width:.1f}"

    def holds(self, value: float) -> bool:
        """Whether the interval contains the value."""
        return self.low <= value <= self.high


@lru_cache(maxsize=256)
def t_quantile(level: float, df: int) -> float:
    """The t for which P(|T| <= t) = level with df degrees of freedom, by bisection on the exact distribution.

    >>> [round(t_quantile(0.95, df), 3) for df in (1, 4, 9, 30)]
    [12.706, 2.776, 2.262, 2.042]
    """
    low, high = 0.0, 1.0
    while _t_inside(high, df) < level:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_inside(middle, df) < level else (low, middle)
    return (low + high) / 2


def _t_inside(t: float, df: int) -> float:
    """P(|T| <= t): the finite sums for whole df (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    theta = math.atan(t / math.sqrt(df))
    cosine, total = math.cos(theta), 0.0
    if df % 2:
        term = cosine
        for k in range(1, (df - 1) // 2 + 1):
            total += term
            term *= cosine**2 * (2 * k) / (2 * k + 1)
        return 2 / math.pi * (theta + math.sin(theta) * total)
    term = 1.0
    for k in range(1, df // 2 + 1):
        total += term
        term *= cosine**2 * (2 * k - 1) / (2 * k)
    return math.sin(theta) * total


def interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """The mean of independent values and its Student-t interval at `level`."""
    data = np.asarray(values, dtype=np.float64)
    if len(data) < 2:
        return Interval(float(data.mean()), math.inf, len(data))
    error = float(data.std(ddof=1)) / math.sqrt(len(data))
    return Interval(float(data.mean()), t_quantile(level, len(data) - 1) * error, len(data))


def log_gain(logs: Sequence[float], level: float = 0.95) -> Gain:
    """The gain whose logarithms are given, one a seed: their mean and Student-t interval, shown as exp(.) - 1.

    >>> log_gain([math.log(2), -math.log(2)]).mean
    0.0
    """
    found = interval(logs, level)
    return Gain(math.expm1(found.mean), math.expm1(found.low), _growth(found.high), found.n)


def _growth(log: float) -> float:
    """exp(log) - 1, infinite where a float ends (a wide interval of few seeds)."""
    return math.expm1(log) if log < 700 else math.inf


def paired_gain(values: Sequence[float], baseline: Sequence[float], level: float = 0.95) -> Gain:
    """Gain over a baseline, paired by place (the same seed), on the log scale.

    Errors: ValueError when the lengths differ or a value is 0.
    """
    return paired_vm_gain([(value,) for value in values], [(base,) for base in baseline], level)


def paired_vm_gain(values: Sequence[Sequence[float]], baseline: Sequence[Sequence[float]], level: float = 0.95) -> Gain:
    """Gain over a baseline by VM, both [seeds][VMs] and paired by place: the geometric mean over the VMs for each seed,
    and its interval over the seeds. kvmgym.measure.gains does the same for VMs that may stand still.

    Errors: ValueError when the lengths differ or a value is 0.
    """
    if len(values) != len(baseline):
        raise ValueError(f"baseline has {len(baseline)} values: must be {len(values)}, one for each seed")
    for name, table in (("baseline", baseline), ("value", values)):
        if any(value <= 0 for row in table for value in row):
            raise ValueError(f"{name} = 0: must be above 0 (nothing finished; a longer duration?)")
    pairs = zip(values, baseline, strict=True)
    return log_gain([mean_log_ratio(mine, base) for mine, base in pairs], level)


def mean_log_ratio(values: Sequence[float], baseline: Sequence[float]) -> float:
    """The logarithm of the geometric mean of value / base, all above 0."""
    ratios = [math.log(value / base) for value, base in zip(values, baseline, strict=True)]
    return math.fsum(ratios) / len(ratios)
