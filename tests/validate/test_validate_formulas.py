"""The closed forms that the checks compare with, and the rules by which a row passes."""

import math

import numpy as np
import pytest

from kvmgym.measure.stats import Interval, interval
from kvmgym.validate import formulas, spinning
from kvmgym.validate.lab import Lab
from kvmgym.validate.rows import banded, bounded, exact, ratio, statistical

# --- closed forms ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "servers, load, p_wait, wait",
    [(16, 0.8, 0.304884, 0.095276), (16, 0.9, 0.591343, 0.369590), (4, 0.8, 0.596432, 0.745541)],
)
def test_erlang_c(servers, load, p_wait, wait):
    queue = formulas.erlang_c(servers, load)
    assert queue.p_wait == pytest.approx(p_wait, abs=5e-7)
    assert queue.wait == pytest.approx(wait, abs=5e-7)


@pytest.mark.parametrize("servers, load", [(16, 0.8), (16, 0.9), (4, 0.8), (1, 0.5)])
def test_a_finite_source_tends_to_the_open_queue(servers, load):
    open_, gaps = formulas.erlang_c(servers, load), []
    for sources in (500, 4000):
        queue = formulas.finite_source(servers, sources, formulas.think_for(servers, sources, load))
        assert queue.throughput == pytest.approx(servers * load, rel=1e-9)
        gaps.append((1 - queue.p_wait / open_.p_wait, 1 - queue.wait / open_.wait))
    for small, large in zip(*gaps, strict=True):
        assert 0 < large < small / 5
        assert large < 0.05


@pytest.mark.parametrize("servers, sources, think", [(2, 5, 3.0), (3, 9, 1.7), (1, 4, 2.0)])
def test_a_finite_source_against_its_balance_equations(servers, sources, think):
    def stationary(n):
        rates = np.zeros((n + 1, n + 1))
        for state in range(n):
            rates[state, state + 1] = (n - state) / think
            rates[state + 1, state] = min(state + 1, servers)
        np.fill_diagonal(rates, -rates.sum(1))
        balance = np.vstack([rates.T, np.ones(n + 1)])
        return np.linalg.lstsq(balance, np.append(np.zeros(n + 1), 1.0), rcond=None)[0]

    p, seen, states = stationary(sources), stationary(sources - 1), np.arange(sources + 1)
    queue = formulas.finite_source(servers, sources, think)
    assert queue.p_wait == pytest.approx(seen[servers:].sum())
    assert queue.throughput == pytest.approx((p * np.minimum(states, servers)).sum())
    assert queue.wait == pytest.approx((p * np.maximum(states - servers, 0)).sum() / queue.throughput)


@pytest.mark.parametrize(
    "vcpus, think, rate, response",
    [
        (16, 100, 0.158147, 1.171796),
        (16, 20, 0.707967, 2.599939),
        (16, 5, 0.999951, 11.000786),
        (32, 50, 0.611501, 2.330241),
    ],
)
def test_machine_repairman(vcpus, think, rate, response):
    assert formulas.repairman(vcpus, think, 1.0) == (
        pytest.approx(rate, abs=6e-7),
        pytest.approx(response, abs=6e-7),
    )
    assert formulas.repairman(vcpus, think * 7, 7.0)[1] == pytest.approx(7 * response, rel=1e-6)


@pytest.mark.parametrize("window, cost, unit", [(16_384, 10_000, 10), (1_638, 1_000, 1)])
@pytest.mark.parametrize("grow, exits", [(2, [1, 4, 8, 10]), (1, [2, 19, 189, 1137])])
def test_ple_exits(window, cost, unit, grow, exits):
    assert [formulas.ple_exits(us * 1000 * unit, window, cost, grow) for us in spinning.SPINS_US] == exits
    assert formulas.ple_exits(window - 1, window, cost, grow) == 0


@pytest.mark.parametrize("vms, latency, burn", [(2, 2.625, 1.456), (3, 5.4375, 1.5), (4, 8.25, 1.5)])
def test_shootdown_formulas_against_table_and_integrals(vms, latency, burn):
    assert formulas.shootdown_latency(vms, 15, 3.0) == pytest.approx(latency, abs=1e-5)
    assert formulas.shootdown_burn(vms, 15, 3.0) == pytest.approx(burn, abs=5e-4)
    x = (np.arange(200_000) + 0.5) / 200_000
    away = 3.0 * (vms - 1)
    later = 1 - ((3.0 + x * away) / (3.0 * vms)) ** 15
    assert formulas.shootdown_latency(vms, 15, 3.0) == pytest.approx(away * later.mean(), rel=1e-6)
    still = (1 - x) * (1 - ((3.0 + 3.0 * x) / (3.0 * vms)) ** 15)
    assert formulas.shootdown_burn(vms, 15, 3.0) == pytest.approx(3.0 * still.mean(), rel=1e-6)


def test_convoy_and_dead_share():
    assert formulas.convoy_rate(16, 2, 3.0) == pytest.approx(8 / 3)
    found = [formulas.dead_share(16, vms, 2.0, 3000.0) for vms in (2, 3, 4)]
    assert found == [pytest.approx(value, abs=5e-6) for value in (0.00533, 0.00711, 0.00799)]


# --- rules ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mean, half, passes",
    [
        (1.004, 0.005, True),
        (0.996, 0.005, True),
        (1.006, 0.005, False),  # the exact value is outside
        (1.0, 0.011, False),  # inside, but too wide to say anything
        (1.0, math.inf, False),
    ],
)
def test_statistical_rule(mean, half, passes):
    row = statistical("x", 1.0, Interval(mean, half, 9), 0.01)
    assert row.passed is passes
    assert row.verdict == ("pass" if passes else "FAIL")
    assert row.rule == "in interval, half-width ≤ 1%"


def test_a_short_run_says_that_it_may_be_wider():
    assert statistical("x", 1.0, Interval(1.0, 0.03, 9), Lab(quick=True).limit, quick=True).passed
    assert statistical("x", 1.0, Interval(1.0, 0.03, 9), 0.05, quick=True).rule.startswith("quick: ")
    assert not statistical("x", 1.0, Interval(1.0, 0.03, 9), Lab().limit).passed


def test_other_rules():
    assert exact("x", 3, 3).passed
    assert not exact("x", 0, 1).passed
    assert banded("x", 1.0, Interval(1.05, 0.05, 9), 1.0, 1.1, "band").passed
    assert not banded("x", 1.0, Interval(1.05, 0.06, 9), 1.0, 1.1, "band").passed
    assert not banded("x", 1.0, Interval(0.99, 0.0, 9), 1.0, 1.1, "band").passed
    assert bounded("x", 0.5, 0.504, 0.01).passed
    assert not bounded("x", 0.5, 0.494, 0.01).passed


def test_ratio_is_the_mean_when_all_worlds_count_alike():
    values = [3.0, 4.0, 5.5, 1.0, 2.5]
    plain, found = interval(values, 0.999), ratio([(value * 10, 10) for value in values])
    assert found.mean == pytest.approx(plain.mean)
    assert found.half_width == pytest.approx(plain.half_width)
    assert ratio([(value * 10, 10) for value in values], unit=2.0).half_width == pytest.approx(plain.half_width / 2)


def test_ratio_covers_as_often_as_it_says():
    rng = np.random.default_rng(1)
    missed = 0
    for _ in range(400):
        counts = rng.poisson(50, size=30) + 1
        sums = np.array([rng.exponential(2.0, size=n).sum() for n in counts])
        missed += not ratio(list(zip(sums, counts, strict=True)), level=0.9).holds(2.0)
    assert 20 <= missed <= 65  # 40 expected, standard deviation 6


@pytest.mark.parametrize("pairs", [[], [(0, 0), (0, 0)]])
def test_ratio_of_nothing(pairs):
    with pytest.raises(ValueError, match="must count something"):
        ratio(pairs)
