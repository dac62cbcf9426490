"""The checks themselves: their closed forms, their rules, and that each can fail."""

import json
import math
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
from rich.console import Console

from kvmgym import simulate, validate
from kvmgym.params import Compute, Dist, Ple
from kvmgym.policies import BY_NAME
from kvmgym.policies import POLICIES as ALL_POLICIES
from kvmgym.scenarios import SCENARIOS, SERIES_WORKLOADS
from kvmgym.stats import Interval, interval
from kvmgym.validate import conservation, controls, formulas, invariance, queueing, series, spinning, stalls
from kvmgym.validate.lab import MS, US, Lab, S
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


# --- the scenarios are what the closed forms assume -----------------------------------------------------------------


@pytest.mark.parametrize("spin_us", spinning.SPINS_US)
def test_a_spin_is_as_long_as_it_says(spin_us):
    result = simulate(spinning.one_spin(spin_us * US, 1638, 1000, 2), "legacy", warmup_ns=0, duration_ns=5 * MS)
    assert (result.locks[0].contended, result.locks[0].wait_sum_ns) == (1, spin_us * US)
    assert result.vms[0].yields_attempted == 0


def test_exits_depend_on_window_growth_and_cost():
    def exits(**changes):
        arguments = {"spin_ns": 500 * US, "window_ns": 1638, "exit_ns": 1000, "grow": 1, **changes}
        return simulate(spinning.one_spin(**arguments), "none", warmup_ns=0, duration_ns=MS).vms[0].ple_exits

    assert exits() == 189
    assert exits(window_ns=3276) == formulas.ple_exits(500 * US, 3276, 1000, 1) == 117
    assert exits(exit_ns=3000) == formulas.ple_exits(500 * US, 1638, 3000, 1) == 108
    assert exits(grow=3) == formulas.ple_exits(500 * US, 1638, 1000, 3) == 5


@pytest.mark.parametrize("vms", stalls.VMS)
def test_targets_take_turns_of_exactly_a_slice(vms):
    result = simulate(
        stalls.lonely_sender(vms), "none", seed=3, warmup_ns=2000 * MS, duration_ns=12 * stalls.SLICE_NS * 10
    )
    for pcpu in result.pcpus[1:]:
        assert pcpu.switches == 120
    for vcpu in result.vms[0].vcpus[1:]:
        assert vcpu.run_ns == 120 * stalls.SLICE_NS // vms
    assert result.vms[0].vcpus[0].run_ns == result.duration_ns


@pytest.mark.parametrize("shared", [False, True])
def test_lock_holders_contend_only_for_a_shared_lock(shared):
    result = simulate(stalls.lock_holders(2, shared), "none", warmup_ns=0, duration_ns=S)
    assert len(result.locks) == (2 if shared else 32)
    assert (sum(lock.contended for lock in result.locks) > 0) is shared
    used = sum(vm.total("run_ns") for vm in result.vms)
    assert result.vms[0].lock_acquires * 2 * (stalls.HOLD_NS + stalls.THINK_NS) == pytest.approx(used, rel=0.1)


def test_a_host_that_leaves_vcpus_waiting_is_found_by_the_queue_check():
    think = formulas.think_for(4, 32, 0.8)
    closed = formulas.finite_source(4, 32, think)
    fair = queueing.cpu_queue(4, 32, think)
    lazy = replace(fair, host=replace(fair.host, balance=False))
    found = []
    for scenario in (fair, lazy):
        waits = Lab().worlds(scenario, "none", queueing._waits, worlds=8, duration_ns=400 * MS, warmup_ns=50 * MS)
        found.append(ratio([(w[1], w[2]) for w in waits], queueing.SERVICE_NS))
    assert found[0].holds(closed.wait)
    assert found[1].low > 1.05 * closed.wait


def test_pause_loop_exits_are_found_by_the_lock_check():
    _, response = formulas.repairman(16, 20, 1.0)
    plain = queueing.lock_queue(16, 20, "fifo")
    exiting = replace(plain, host=replace(plain.host, ple=Ple(window_ns=300, grow=1), costs=type(plain.host.costs)()))
    found = []
    for scenario in (plain, exiting):
        held = Lab().worlds(scenario, "none", queueing._held, worlds=8, duration_ns=10 * MS, warmup_ns=MS)
        found.append(ratio([(spent, count) for count, spent, _ in held], US))
    assert found[0].holds(response)
    assert not found[1].holds(response)


def test_residues_see_a_single_nanosecond():
    result = simulate(conservation.everything(), "relaxed", duration_ns=5 * MS, warmup_ns=MS)
    clean = conservation.Residues.of(result)
    assert (clean.vcpu_ns, clean.pcpu_ns, clean.lock_ns, clean.queue_ns) == (0, 0, 0, 0)
    vm = result.vms[0]
    late = replace(vm.vcpus[0], ready_ns=vm.vcpus[0].ready_ns + 1)
    wrong = conservation.Residues.of(
        replace(
            result,
            vms=(replace(vm, vcpus=(late, *vm.vcpus[1:])), *result.vms[1:]),
            pcpus=(replace(result.pcpus[0], idle_ns=result.pcpus[0].idle_ns - 1), *result.pcpus[1:]),
            locks=(replace(result.locks[0], wait_sum_ns=result.locks[0].wait_sum_ns + 1), *result.locks[1:]),
        )
    )
    assert (wrong.vcpu_ns, wrong.pcpu_ns, wrong.lock_ns, wrong.queue_ns) == (1, 1, 1, 1)


def test_controls_ask_policies_where_they_say_that_vcpus_spin():
    asked = {
        name: simulate(scenario, "legacy", duration_ns=20 * MS, warmup_ns=0).decisions
        for name, scenario in controls.controls()
    }
    assert asked["k=1, pinned"] > 100
    assert asked["a pCPU for each vCPU"] > 100
    assert asked["compute only, 3 VMs"] == 0


def test_contenders_yield_under_every_policy_of_the_kernel():
    assert {"2011", "legacy", "strict", "sched-v2", "series-v2", "series-v3"} <= set(controls.KERNEL_POLICIES)
    assert not {"none", "random", "clairvoyant", "least-lag"} & set(controls.KERNEL_POLICIES)
    for policy in controls.KERNEL_POLICIES:
        result = simulate(controls.contenders(2, 4), policy, duration_ns=100 * MS, warmup_ns=0)
        assert sum(vm.yields_ok + vm.relaxed_ok for vm in result.vms) > 100


def test_the_row_of_a_control_is_that_of_the_worst_policy():
    calm, wild, lopsided = Interval(0.004, 0.0005, 8), Interval(0.001, 0.006, 8), Interval(-0.0049, 0.0, 8)
    assert controls.farthest("a", {"calm": calm, "lopsided": lopsided}).passed
    row = controls.farthest("a", {"calm": calm, "wild": wild, "lopsided": lopsided})
    assert "(wild)" in row.quantity and "3 policies" in row.quantity
    assert not row.passed and row.measured == 0.001


def test_an_unfair_policy_is_a_misfit_only_with_a_cause_and_while_it_is_unfair():
    assert controls.fair_share("p", 4, 0.252, "").passed
    assert controls.fair_share("p", 4, 0.253, "").failed
    assert controls.fair_share("p", 4, 0.118, "why").verdict == "misfit"
    assert controls.fair_share("p", 4, 0.252, "why").verdict == "misfit"  # within 1 %, but not by much
    row = controls.fair_share("p", 4, 0.251, "why")
    assert row.failed and "no longer a misfit" in row.rule
    assert all(policy in controls.KERNEL_POLICIES and vms in (2, 3, 4) for policy, vms in controls.MISFITS)


def test_conservation_meets_every_policy_and_scenario_and_every_mechanism():
    full, quick = conservation.pairs(quick=False), conservation.pairs(quick=True)
    assert {scenario.name for scenario, _ in full} == {s.name for s in SCENARIOS} | {"everything", "switches"}
    assert {scenario.host.pcpus for scenario, _ in quick if scenario in SCENARIOS} <= {1, 2, 3, 4}
    for host in conservation.hosts():
        assert {policy.name for scenario, policy in quick if scenario == host} == {p.name for p in ALL_POLICIES}


def test_switches_are_at_work_in_the_scenario_of_switches():
    scenario = conservation.switches(start="random")
    names = ("polls", "polls_ok", "named_ok", "flags_left", "guest_switches")
    seen = conservation.happened(simulate(scenario, "legacy", duration_ns=50 * MS, warmup_ns=0))
    assert all(seen[name] > 0 for name in names), seen
    other = conservation.happened(simulate(conservation.everything(), "legacy", duration_ns=20 * MS, warmup_ns=0))
    assert not any(other[name] for name in ("polls", "flags_left", "guest_switches"))


# --- the series -----------------------------------------------------------------------------------------------------


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
        return [(self.rates[policy] + seed * 0.1, 0.12 + seed * 1e-4) for seed in range(times["worlds"])]


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


# --- running and reporting ------------------------------------------------------------------------------------------


def test_the_table_of_checks():
    assert [check.id for check in validate.CHECKS] == [f"V{n}" for n in range(1, 13)]
    for check in validate.CHECKS:
        assert check.function.__doc__.startswith((f"{check.id}:", f"{check.id} "))


def test_run_checks_keeps_the_order_and_tells_its_progress():
    told = []
    outcomes = validate.run_checks(["V7", "V4"], quick=True, progress=lambda *what: told.append(what), threads=2)
    assert [outcome.check.id for outcome in outcomes] == ["V4", "V7"]
    assert all(outcome.passed for outcome in outcomes)
    assert [len(outcome.rows) for outcome in outcomes] == [17, 3]
    shares = [share for share, _ in told]
    assert shares == sorted(shares) and shares[0] == 0.0 and shares[-1] == 1.0
    assert told[0][1].startswith("V4 ") and told[-1][1].startswith("V7 ")


def test_results_do_not_depend_on_threads():
    one, two = (validate.run_checks(["V5"], quick=True, threads=threads)[0].rows for threads in (1, 2))
    assert one == two


@pytest.mark.parametrize(
    "ids, threads, message",
    [(["V13"], 1, 'unknown check "V13"'), (["v4"], 1, 'unknown check "v4"'), (["V4"], 0, "threads = 0: must be 1")],
)
def test_bad_arguments(ids, threads, message):
    with pytest.raises(ValueError, match=message):
        validate.run_checks(ids, threads=threads)


@pytest.fixture
def outcomes():
    rows = (exact("exits", 4, 4), statistical("wait | x", 0.5, Interval(0.52, 0.001, 9), 0.01))
    check = replace(validate.CHECKS[0], title="a title", expected="theory")
    return [validate.Outcome(check, rows, False, 1.25), validate.Outcome(check, rows[:1], True, 0.25)]


def test_an_outcome_passes_when_none_of_its_rows_fails(outcomes):
    assert [outcome.passed for outcome in outcomes] == [False, True]
    assert not replace(outcomes[1], rows=()).passed


@pytest.fixture
def misfit():
    rows = (
        series.judged("gain, right", 14.4, Interval(9.0, 1.0, 10), (6, 15)),
        series.judged("gain, low", 14.4, Interval(3.0, 1.0, 10), (6, 15), cause="queues are never that long"),
    )
    return validate.Outcome(next(check for check in validate.CHECKS if check.id == "V9"), rows, False, 1.0)


def test_a_misfit_fails_nothing_and_is_counted_and_shown_with_its_cause(misfit, outcomes):
    assert misfit.passed and [row.quantity for row in misfit.misfits] == ["gain, low"]
    data = validate.to_dict([misfit])
    assert (data["passed"], data["misfits"]) == (True, 1)
    assert [row["verdict"] for row in data["checks"][0]["rows"]] == ["pass", "misfit"]
    assert validate.to_dict(outcomes)["misfits"] == 0
    console = Console(width=120, record=True)
    console.print(validate.render([misfit]))
    text = console.export_text()
    assert "misfits with their causes: 1" in text and "V9 gain, low: queues are never that long" in text
    page = validate.markdown([misfit])
    assert page.startswith("1 of 1 checks passed, misfits with their causes: 1; full form")
    assert "| 1 (95%) | mean in +6 … +15; half-width ≤ 3 | misfit |" in page
    assert "- Misfit, gain, low: queues are never that long" in page


def test_a_failure_beside_a_misfit_fails(misfit):
    failing = series.judged("gain, worse", 14.4, Interval(2.0, 1.0, 10), (6, 15))
    assert not replace(misfit, rows=(*misfit.rows, failing)).passed


def test_render(outcomes):
    console = Console(width=120, record=True)
    console.print(validate.render(outcomes))
    lines = console.export_text().splitlines()
    assert sum("V1 a title" in line for line in lines) == 2
    assert any("wait | x" in line and "0.52" in line and "0.001" in line and "FAIL" in line for line in lines)


def test_markdown(outcomes):
    text = validate.markdown(outcomes)
    assert "isfit" not in text and text.startswith("1 of 2 checks passed; short form (`--quick`), 2 s.")
    assert "## V1 a title\n\nExpected: theory.\n" in text
    assert "| exits | 4 | 4 | - | equal | pass |" in text
    assert "| wait \\| x | 0.5 | 0.52 | 0.001 | in interval, half-width ≤ 1% | FAIL |" in text


def test_to_dict_is_json(outcomes):
    data = json.loads(json.dumps(validate.to_dict(outcomes), allow_nan=False))
    assert (data["passed"], data["level"]) == (False, 0.999)
    assert [check["passed"] for check in data["checks"]] == [False, True]
    assert data["checks"][0]["rows"][1] == {
        "quantity": "wait | x",
        "expected": 0.5,
        "measured": 0.52,
        "half_width": 0.001,
        "rule": "in interval, half-width ≤ 1%",
        "passed": False,
        "cause": "",
        "level": 0.999,
        "verdict": "FAIL",
    }


@pytest.mark.slow
def test_every_check_passes_in_its_short_form():
    failed = [
        (outcome.check.id, row)
        for outcome in validate.run_checks(quick=True, threads=2)
        for row in outcome.rows
        if row.failed
    ]
    assert failed == []


def test_a_start_at_uniform_phases_is_what_the_formula_needs():
    """Started in step, all targets of a shootdown run or wait together and the latency is that of one target."""
    scenario = stalls.lonely_sender(2)
    idle = Compute(Dist.constant(S))
    step = replace(scenario.host, start="aligned")
    vms = tuple(
        replace(
            vm, workload=replace(vm.workload, roles=tuple(replace(r, program=r.program[1:]) for r in vm.workload.roles))
        )
        for vm in scenario.vms
    )
    assert vms[1].workload.roles[0].program[0].phases == (idle,)
    found = Lab().worlds(
        replace(scenario, host=step, vms=vms),
        "none",
        lambda result: (result.vms[0].shootdown_ns, result.vms[0].shootdowns),
        worlds=8,
        duration_ns=2 * S,
        warmup_ns=100 * MS,
    )
    alone = formulas.shootdown_latency(2, 1, 3.0)
    assert ratio(found, MS).holds(alone) and alone < 1.0
