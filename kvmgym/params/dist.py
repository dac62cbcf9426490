"""Distributions of durations, and the scaling of every time in a parameter object.

What is left out: truncation and correlation; draws are independent and are rounded to integers by the core.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from kvmgym.params.errors import MAX_NS, check, choice, fail, integer, integers, number, set_field

FloatArray = npt.NDArray[np.float64]
T = TypeVar("T")

# The numbers of each kind in the order of Dist.numbers: the arguments of the constructors and the keys in TOML.
DIST_KINDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "constant": ("ns",),
        "exponential": ("mean_ns",),
        "uniform": ("low_ns", "high_ns"),
        "lognormal": ("median_ns", "sigma", "tail_share", "tail_low_ns", "tail_high_ns"),
    }
)
LONGEST_DRAW_NS = 100 * MAX_NS  # what the core adds to the present time stays far inside int64
_TAIL_SIGMAS = 4.77  # where one draw in 2^20 lies
_BISECTIONS = 80  # more than a double's 53 bits, so the interval ends as wide as rounding allows


@dataclass(frozen=True, repr=False)
class Dist:
    """A distribution of durations; every draw is unit_ns times an integer, so scaling all times is exact.

    Make one with ``constant``, ``exponential``, ``uniform`` or ``lognormal``:

    >>> Dist.uniform(100, 300).scaled(2).mean_ns
    400.0

    kind: a key of DIST_KINDS. numbers: the floats that DIST_KINDS names, the times in units of unit_ns (which is
    1 ns unless ``scaled`` was called). Errors: ValueError for a negative or non-finite time, low above high,
    a lognormal median of 0, a sigma outside 0 to 5 or a tail share outside 0 to 1.
    """

    kind: str
    numbers: tuple[float, ...]
    unit_ns: int = 1

    def __post_init__(self) -> None:
        choice(self, "kind", DIST_KINDS)
        integers(self, 1, MAX_NS, "unit_ns")
        wanted = DIST_KINDS[self.kind]
        right = isinstance(self.numbers, (list, tuple)) and len(self.numbers) == len(wanted)
        check(right, "Dist.numbers", self.numbers, f"{', '.join(wanted)} for a {self.kind} distribution")
        found = {name: _checked(name, value, self.unit_ns) for name, value in zip(wanted, self.numbers, strict=True)}
        set_field(self, "numbers", tuple(found.values()))
        for low, high in (("low_ns", "high_ns"), ("tail_low_ns", "tail_high_ns")):
            if low in found:
                check(found[low] <= found[high], f"Dist.{high}", found[high], f"{low} ({found[low]:g}) or more")
        if self.kind == "lognormal":
            middle = self.numbers[0] * self.unit_ns
            tail = f"less at sigma {self.numbers[1]:g}, so that one draw in a million is at most {LONGEST_DRAW_NS:g} ns"
            check(middle * math.exp(_TAIL_SIGMAS * self.numbers[1]) <= LONGEST_DRAW_NS, "Dist.median_ns", middle, tail)

    @classmethod
    def constant(cls, ns: float) -> Dist:
        """Always ns."""
        return cls("constant", (ns,))

    @classmethod
    def exponential(cls, mean_ns: float) -> Dist:
        """Exponential with the given mean."""
        return cls("exponential", (mean_ns,))

    @classmethod
    def uniform(cls, low_ns: float, high_ns: float) -> Dist:
        """Uniform between low_ns and high_ns."""
        return cls("uniform", (low_ns, high_ns))

    @classmethod
    def lognormal(
        cls, median_ns: float, sigma: float, tail_share: float = 0.0, tail_low_ns: float = 0, tail_high_ns: float = 0
    ) -> Dist:
        """Lognormal; with probability tail_share the draw is uniform(tail_low_ns, tail_high_ns) instead."""
        return cls("lognormal", (median_ns, sigma, tail_share, tail_low_ns, tail_high_ns))

    @property
    def parameters(self) -> dict[str, float]:
        """The numbers by name, times in units of unit_ns."""
        return dict(zip(DIST_KINDS[self.kind], self.numbers, strict=True))

    @property
    def mean_ns(self) -> float:
        """The exact mean in ns (before the core rounds draws to whole units)."""
        return self.unit_ns * self._mean()

    @property
    def takes_time(self) -> bool:
        """Whether the mean is at least one unit; below that most draws round to no time at all."""
        return self.mean_units >= 1.0

    @property
    def mean_units(self) -> float:
        """The mean in units of unit_ns."""
        return self._mean()

    @property
    def longest_ns(self) -> float:
        """About the longest draw of the tables that the core draws from: one in 2^20 is longer."""
        return float(self.quantiles(np.array([1 - 2.0**-20]))[0]) * self.unit_ns

    def _mean(self) -> float:
        n = self.numbers
        if self.kind == "uniform":
            return (n[0] + n[1]) / 2
        if self.kind == "lognormal":
            return (1 - n[2]) * n[0] * math.exp(n[1] ** 2 / 2) + n[2] * (n[3] + n[4]) / 2
        return n[0]

    def quantiles(self, u: FloatArray) -> FloatArray:
        """The inverse of the distribution function, in units of unit_ns, not rounded.

        u: float64 of any shape, each in [0, 1]; returns the same shape, never decreasing in u, and infinite at 1
        where the distribution has no upper end. Errors: ValueError for a u outside [0, 1].
        """
        u = np.asarray(u, dtype=np.float64)
        outside = ~((u >= 0.0) & (u <= 1.0))
        if outside.any():
            fail("Dist.quantiles u", float(u[outside].flat[0]), "0 to 1")
        n = self.numbers
        if self.kind == "constant":
            return np.full_like(u, n[0])
        if self.kind == "uniform":
            return n[0] + u * (n[1] - n[0])
        if self.kind == "exponential":
            with np.errstate(divide="ignore"):
                return -n[0] * np.log1p(-u) if n[0] > 0 else np.zeros_like(u)
        return _lognormal_mixture(u, *n)

    def scaled(self, factor: int) -> Dist:
        """The same distribution in units that are factor times as long: every draw is exactly factor times as long."""
        return dataclasses.replace(self, unit_ns=self.unit_ns * integer("scaled factor", factor, 1, MAX_NS))

    def __repr__(self) -> str:
        given = ", ".join(
            f"{name}={int(value) if value.is_integer() else value}" for name, value in self.parameters.items()
        )
        return f"Dist.{self.kind}({given})" + (f".scaled({self.unit_ns})" if self.unit_ns > 1 else "")


def _checked(name: str, value: object, unit_ns: int) -> float:
    """One number of a Dist, within the limits that its name implies."""
    path = f"Dist.{name}"
    if name == "sigma":
        return number(path, value, 0, 5)
    if name == "tail_share":
        return number(path, value, 0, 1)
    return number(path, value, 0, MAX_NS / unit_ns, above=name == "median_ns")


def _lognormal_quantiles(u: FloatArray, median: float, sigma: float) -> FloatArray:
    """Quantiles of a lognormal; 0 at u <= 0 and infinity at u >= 1. u: [N]; returns [N]."""
    if sigma == 0:
        return np.full_like(u, median)
    inverse = NormalDist().inv_cdf
    z = np.array([inverse(x) if 0.0 < x < 1.0 else math.copysign(math.inf, x - 0.5) for x in u.tolist()])
    return np.asarray(median * np.exp(sigma * z), dtype=np.float64).reshape(u.shape)


def _lognormal_cdf(x: FloatArray, median: float, sigma: float) -> FloatArray:
    """Distribution function of a lognormal. x: [N], >= 0; returns [N]."""
    if sigma == 0:
        return np.asarray(x >= median, dtype=np.float64)
    with np.errstate(divide="ignore", over="ignore"):
        z = np.log(x / median) / (sigma * math.sqrt(2))
    return np.array([0.5 * math.erfc(-value) for value in z.tolist()])


def _lognormal_mixture(u: FloatArray, median: float, sigma: float, share: float, low: float, high: float) -> FloatArray:
    """Quantiles of (1 - share) lognormal + share uniform(low, high).

    Below low and above high only the lognormal moves, so the inverse is closed there; between them bisection.
    """
    flat = u.ravel()
    if share == 0:
        return _lognormal_quantiles(flat, median, sigma).reshape(u.shape)
    rest = 1 - share
    ends = _lognormal_cdf(np.array([low, high]), median, sigma) if rest > 0 else np.array([0.0, 1.0])
    at_low, at_high = rest * ends[0], rest * ends[1] + share
    out = np.empty_like(flat)
    below, above = flat < at_low, flat > at_high
    if rest > 0:
        out[below] = np.minimum(_lognormal_quantiles(flat[below] / rest, median, sigma), low)
        out[above] = np.maximum(_lognormal_quantiles((flat[above] - share) / rest, median, sigma), high)
    between = ~(below | above)
    target = flat[between]
    left, right = np.full_like(target, low), np.full_like(target, high)
    for _ in range(_BISECTIONS if high > low else 0):
        middle = (left + right) / 2
        reached = rest * _lognormal_cdf(middle, median, sigma) + share * (middle - low) / (high - low) >= target
        right = np.where(reached, middle, right)
        left = np.where(reached, left, middle)
    out[between] = right
    return out.reshape(u.shape)


def scale_times(value: T, factor: int) -> T:
    """The parameter object with every time multiplied: its own ``scaled`` if it has one, else field by field.

    Every int field with _ns in its name is a time; tuples and dataclasses are followed; all else is kept.
    """
    if hasattr(value, "scaled"):
        return value.scaled(factor)  # type: ignore[no-any-return]
    return scale_fields(value, factor)


def scale_fields(value: T, factor: int, **given: Any) -> T:
    """scale_times of each field of a dataclass or item of a tuple; `given` fields are taken as they are."""
    if isinstance(value, tuple):
        return tuple(scale_times(item, factor) for item in value)  # type: ignore[return-value]
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    changed = dict(given)
    for field in dataclasses.fields(value):
        old = getattr(value, field.name)
        if field.name not in given and field.init:
            time = "_ns" in field.name and isinstance(old, int)
            changed[field.name] = old * factor if time else scale_times(old, factor)
    return dataclasses.replace(value, **changed)
