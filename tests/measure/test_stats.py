"""Intervals against tabulated values of Student's t, and pairing by seed."""

import math

import pytest

from kvmgym.measure.stats import Interval, interval, paired_gain, t_quantile


@pytest.mark.parametrize(
    "level, df, expected",
    [
        (0.95, 1, 12.7062),
        (0.95, 2, 4.3027),
        (0.95, 5, 2.5706),
        (0.99, 10, 3.1693),
        (0.999, 20, 3.8495),
        (0.95, 1000, 1.9623),
    ],
)
def test_t_quantile_matches_the_tables(level: float, df: int, expected: float) -> None:
    assert t_quantile(level, df) == pytest.approx(expected, abs=1e-4)


def test_interval_of_known_values() -> None:
    # mean 3, standard deviation sqrt(2.5), standard error sqrt(0.5), t(0.975, 4) = 2.7764
    found = interval([1, 2, 3, 4, 5])
    assert found.mean == 3.0
    assert found.half_width == pytest.approx(2.7764 * math.sqrt(0.5), abs=1e-3)
    assert found.holds(1.1) and not found.holds(5.0)


def test_one_value_says_nothing_about_its_spread() -> None:
    assert interval([7.0]) == Interval(7.0, math.inf, 1)


def test_gain_is_paired_by_place() -> None:
    # each value is 10 % above its own baseline, so the spread between seeds does not widen the interval
    gain = paired_gain([110.0, 220.0, 550.0], [100.0, 200.0, 500.0])
    assert gain.mean == pytest.approx(0.1)
    assert gain.half_width == pytest.approx(0.0, abs=1e-12)


def test_gain_refuses_what_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="baseline has 2 values: must be 3"):
        paired_gain([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="baseline = 0"):
        paired_gain([1, 2], [1, 0])
