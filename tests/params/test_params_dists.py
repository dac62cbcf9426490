"""kvmgym.params: distributions."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paramdata import TAILED, dists

from kvmgym.params import Dist

U = (np.arange(50_000) + 0.5) / 50_000
SPREAD = Dist.lognormal(1_000, 0.5, tail_share=0.4, tail_low_ns=0, tail_high_ns=3_000)


def test_quantiles_equal_the_closed_forms():
    u = np.array([[0.0, 0.25], [0.5, 0.999]])
    assert Dist.constant(7).quantiles(u).tolist() == [[7, 7], [7, 7]]
    assert Dist.uniform(10, 30).quantiles(u) == pytest.approx(np.array([[10, 15], [20, 29.98]]))
    assert Dist.exponential(100).quantiles(u) == pytest.approx(-100 * np.log(1 - u))
    z = NormalDist().inv_cdf
    expected = [[0, 8 * math.exp(1.5 * z(0.25))], [8, 8 * math.exp(1.5 * z(0.999))]]
    assert Dist.lognormal(8, 1.5).quantiles(u) == pytest.approx(np.array(expected))


def test_quantiles_at_the_ends():
    ends = np.array([0.0, 1.0])
    assert Dist.exponential(5).quantiles(ends).tolist() == [0, math.inf]
    assert Dist.exponential(0).quantiles(ends).tolist() == [0, 0]
    assert Dist.lognormal(5, 1).quantiles(ends).tolist() == [0, math.inf]
    assert Dist.lognormal(5, 0).quantiles(ends).tolist() == [5, 5]
    assert TAILED.quantiles(ends).tolist() == [0, math.inf]
    assert Dist.lognormal(5, 1, 1.0, 20, 30).quantiles(ends) == pytest.approx(ends * 10 + 20)


@pytest.mark.parametrize("dist", [TAILED, SPREAD, Dist.lognormal(30_000, 1.0, 0.2, 20_000, 50_000)])
def test_mixture_quantiles_invert_the_mixture(dist):
    """The distribution function, written down anew, gives u back."""
    median, sigma, share, low, high = dist.numbers
    u = np.array([1e-6, 0.01, 0.3, 0.5, 0.9, 0.985, 0.989, 0.9895, 0.992, 0.999, 0.999999])
    for x, wanted in zip(dist.quantiles(u), u, strict=True):
        tail = min(max((x - low) / (high - low), 0.0), 1.0)
        assert (1 - share) * NormalDist(math.log(median), sigma).cdf(math.log(x)) + share * tail == pytest.approx(
            wanted, abs=1e-9
        )


def test_a_tail_of_one_value_is_a_step():
    dist = Dist.lognormal(100, 0.0, tail_share=0.25, tail_low_ns=500, tail_high_ns=500)
    assert dist.quantiles(np.array([0.1, 0.74, 0.76, 1.0])).tolist() == [100, 100, 500, 500]
    dist = Dist.lognormal(100, 0.0, tail_share=0.5, tail_low_ns=0, tail_high_ns=200)
    assert dist.quantiles(np.array([0.125, 0.5, 0.875])) == pytest.approx([50, 100, 150])


MEANS = [
    (Dist.constant(7), 7.0),
    (Dist.exponential(3_000), 3_000.0),
    (Dist.uniform(100, 400), 250.0),
    (Dist.lognormal(600, 1.0), 600 * math.exp(0.5)),
    (TAILED, 0.99 * 600 * math.exp(0.5) + 0.01 * 35_000),
    (SPREAD, 0.6 * 1_000 * math.exp(0.125) + 0.4 * 1_500),
]


@pytest.mark.parametrize("dist, mean_ns", MEANS)
def test_means_are_exact_and_those_of_the_quantiles(dist, mean_ns):
    assert dist.mean_ns == pytest.approx(mean_ns, rel=1e-12)
    assert dist.quantiles(U).mean() == pytest.approx(mean_ns, rel=5e-4)


def test_scaling_a_distribution_changes_its_unit_only():
    scaled = TAILED.scaled(3).scaled(5)
    assert (scaled.numbers, scaled.unit_ns) == (TAILED.numbers, 15)
    assert scaled.mean_ns == pytest.approx(15 * TAILED.mean_ns)
    assert scaled.quantiles(U[::500]).tolist() == TAILED.quantiles(U[::500]).tolist()
    assert repr(Dist.uniform(1, 2.5).scaled(3)) == "Dist.uniform(low_ns=1, high_ns=2.5).scaled(3)"
    assert eval(repr(scaled)) == scaled


@given(dists, st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_quantiles_never_decrease(dist, u):
    found = dist.quantiles(np.sort(np.array(u)))
    assert (found >= 0).all()
    assert (found[1:] >= found[:-1]).all()
