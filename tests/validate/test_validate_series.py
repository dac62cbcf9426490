"""The check of the published gains: bands, causes and verdicts."""

import math
from dataclasses import replace
from types import MappingProxyType

import pytest

from kvmgym import simulate
from kvmgym.measure.stats import Interval
from kvmgym.policies import BY_NAME
from kvmgym.scenarios import SERIES_WORKLOADS
from kvmgym.validate import conservation, controls, invariance, series
from kvmgym.validate.lab import MS, Lab, S
from kvmgym.validate.rows import bounded


@pytest.mark.parametrize(
    "mean, half, quick, cause, verdict",
    [
        (9.0, 1.0, False, "", "pass"),
        (6.5, 2.0, False, "", "pass"),  # the mean is inside
        (5.9, 2.0, False, "", "FAIL"),  # the mean is outside
        (9.0, 3.1, False, "", "FAIL"),  # too wide to say anything
        (math.nan, math.inf, False, "", "FAIL"),
        (5.9, 2.0, True, "", "pass"),  # a short run: the interval meets the band
        (3.0, 2.0, True, "", "FAIL"),
        (9.0, 15.1, True, "", "FAIL"),
        (3.0, 1.0, False, "why", "misfit"),
        (-50.0, 40.0, False, "why", "misfit"),
        (6.5, 2.0, False, "why", "misfit"),  # may still lie outside
        (9.0, 1.0, False, "why", "FAIL"),  # lies inside: no misfit any longer
        (9.0, 1.0, True, "why", "FAIL"),
    ],
)
def test_a_row_of_the_series_is_judged_by_its_band_and_its_cause(mean, half, quick, cause, verdict):
    row = series.judged("gain", 14.4, Interval(mean, half, 10), (6, 15), quick, cause)
    assert row.verdict == verdict
    assert row.failed is (verdict == "FAIL") and row.passed is (verdict == "pass")
    assert row.level == 0.95
    assert ("remove it from MISFITS" in row.rule) is (cause != "" and verdict == "FAIL")
    assert row.cause == (cause if verdict == "misfit" else "")


def test_a_sign_is_a_band_without_an_upper_end():
    assert series.judged("gain", 1.7, Interval(400.0, 1.0, 10), series.SIGN).passed
    assert series.judged("gain", 1.7, Interval(0.0, 1.0, 10), series.SIGN).passed
    assert series.judged("gain", 1.7, Interval(-0.1, 1.0, 10), series.SIGN).failed
    assert series.judged("gain", 1.7, Interval(1.1, 1.0, 10), series.SIGN, cause="why").failed
    assert series.judged("gain", 1.7, Interval(0.9, 1.0, 10), series.SIGN, cause="why").verdict == "misfit"
    assert series.words(series.SIGN) == "0 or more" and series.words((6, 15)) == "+6 … +15"


def test_documented_misfits_name_a_row_and_a_cause():
    assert set(series.VERSIONS) <= set(BY_NAME) and set(series.HEADROOM) == set(SERIES_WORKLOADS)
    for (version, workload, vms), cause in series.MISFITS.items():
        assert version in (series.BASELINE, *series.VERSIONS) and workload in SERIES_WORKLOADS and cause.strip()
        assert vms in series.VMS and (version != series.BASELINE or vms == 2)


class MadeUp(Lab):
    """A lab whose policies have known rates."""

    rates = MappingProxyType({"legacy": 100.0, "series-v2": 112.0, "series-v3": 104.0})

    def worlds(self, scenario, policy, read, **times):
        return [([self.rates[policy] + seed * 0.1] * 2, 0.12 + seed * 1e-4) for seed in range(times["worlds"])]


def test_the_series_check_reads_gains_bands_and_causes():
    causes = {
        ("series-v3", "dbench", 2): "known",
        ("legacy", "dbench", 2): "wrong",
        ("series-v2", "dbench", 4): "wrong",
        ("series-v3", "vips", 2): "known",
    }
    rows = {row.quantity: row for row in series.check_series(MadeUp(), causes)}
    assert len(rows) == 3 + 2 * 3 * 3
    verdicts = {name: row.verdict for name, row in rows.items()}
    assert verdicts.pop("gain of series-v3, dbench, 2 VMs") == "misfit"  # + 4 %, band from 6
    assert verdicts.pop("gain of series-v3, vips, 2 VMs") == "misfit"
    assert verdicts.pop("gain of series-v3, dedup, 2 VMs") == "FAIL"  # the same, but no cause
    assert verdicts.pop("wasted by legacy, dbench, 2 VMs") == "FAIL"  # a cause, but no misfit
    assert verdicts.pop("gain of series-v2, dbench, 4 VMs") == "FAIL"
    assert set(verdicts.values()) == {"pass"}
    row = rows["gain of series-v2, dedup, 3 VMs"]
    assert row.measured == pytest.approx(11.9, abs=0.05) and row.expected == 28.1
    assert rows["gain of series-v3, dedup, 4 VMs"].expected == pytest.approx(100 / (1 - 0.156) - 100, abs=0.01)
    assert rows["wasted by legacy, vips, 2 VMs"].measured == pytest.approx(12.05, abs=0.01)


def test_the_short_series_check_has_2_vms_only():
    rows = series.check_series(MadeUp(quick=True), {})
    assert len(rows) == 9 and all("2 VMs" in row.quantity for row in rows)


def test_worlds_have_what_belongs_to_the_policy_switched_on():
    scenario = conservation.everything(start="random")
    read = {"worlds": 1, "duration_ns": 20 * MS}
    times = {"duration_ns": 20 * MS, "warmup_ns": 0}
    found = Lab().worlds(scenario, "series-v2", invariance.readings, **read)[0]
    prepared = BY_NAME["series-v2"].prepare(scenario)
    assert prepared.host.yield_deboost == "v2" and {vm.ipi_tracking for vm in prepared.vms} == {"v2"}
    assert invariance.differences(found, invariance.readings(simulate(prepared, "relaxed", **times))) == 0
    assert invariance.differences(found, invariance.readings(simulate(scenario, "relaxed", **times))) > 0


def test_an_unequal_weight_is_found_by_the_fairness_check():
    fair = controls.contenders(2, 4)
    heavy = replace(fair, vms=(replace(fair.vms[0], weight=1100), fair.vms[1]))
    for scenario, passes in ((fair, True), (heavy, False)):
        shares = controls._shares(simulate(scenario, "legacy", duration_ns=2 * S, warmup_ns=0))
        assert bounded("share", 0.5, shares[0], 0.01).passed is passes


def test_differences_count_what_changed():
    scenario = conservation.everything(start="random")
    first, same, other = (
        invariance.readings(simulate(scenario, "legacy", seed=seed, duration_ns=5 * MS, warmup_ns=0))
        for seed in (1, 1, 2)
    )
    assert invariance.differences(first, same) == 0
    assert invariance.differences(first, other) > 100
    assert invariance.differences(first, {**same, "mix0.ops": -1}) == 1
    assert invariance.differences(first, {name: value for name, value in same.items() if name != "mix0.ops"}) == 1
    assert invariance.differences({"a_ns": 5, "n": 7}, {"a_ns": 15, "n": 7}, 3) == 0
    assert invariance.differences({"a_ns": 5, "n": 7}, {"a_ns": 15, "n": 21}, 3) == 1


def test_scaling_is_found_when_a_time_is_left_out():
    scenario = invariance.awake()
    double = scenario.scaled(2)
    forgotten = replace(double, host=replace(double.host, costs=scenario.host.costs))
    once = invariance.readings(simulate(scenario, "legacy", duration_ns=20 * MS, warmup_ns=MS))
    for changed, equal in ((double, True), (forgotten, False)):
        twice = invariance.readings(simulate(changed, "legacy", duration_ns=40 * MS, warmup_ns=2 * MS))
        assert (invariance.differences(once, twice, 2) == 0) is equal
