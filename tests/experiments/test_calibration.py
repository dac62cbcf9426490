"""The calibration: its rules on made-up numbers, what is frozen, and a report that belongs to the committed JSON."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.calibration import analysis, effect, predictions, rankings, rules, sweep, variants
from experiments.calibration.files import compact
from experiments.calibration.rules import Point
from kvmgym.core import layout
from kvmgym.params import Costs
from kvmgym.scenarios import SERIES_WORKLOADS, series
from kvmgym.validate.series import HEADROOM
from kvmgym.workloads import BY_NAME as WORKLOAD
from kvmgym.workloads import FAMILIES

# --- the fitting rule ---


def grid(*gains: float, half_width: float = 0.5, wasted: float = 20.0) -> list[Point]:
    """Points at shootdowns x 1, 2, 4 …, lock_ops x 1."""
    return [Point(2.0**place, 1.0, gain, half_width, wasted) for place, gain in enumerate(gains)]


def test_the_nearest_gain_wins_when_the_seeds_can_tell() -> None:
    choice = rules.choose(grid(1.0, 5.0, 9.0, 14.0), target=9.4, least_wasted=9.0)
    assert (choice.point.shootdowns, choice.tied, choice.headroom) == (4.0, 1, True)
    assert choice.misfit == pytest.approx(-0.4)


def test_a_tie_goes_to_the_factors_nearest_one() -> None:
    choice = rules.choose(grid(1.0, 9.0, 9.4, 9.2), target=9.4, least_wasted=9.0)
    assert (choice.point.shootdowns, choice.tied) == (2.0, 3)


def test_nearest_is_on_the_log_scale_over_both_factors() -> None:
    points = [Point(4.0, 1.0, 9.0, 1.0, 20.0), Point(0.5, 1.0, 9.0, 1.0, 20.0), Point(1.41, 1.41, 9.0, 1.0, 20.0)]
    assert rules.choose(points, 9.0, 9.0).point == points[2]  # 0.70 octaves; 1/2 is one octave off


def test_points_without_headroom_are_left_out() -> None:
    points = [replace(point, wasted=5.0) if point.gain == 9.4 else point for point in grid(9.4, 3.0, 6.0)]
    choice = rules.choose(points, target=9.4, least_wasted=9.0)
    assert (choice.point.gain, choice.headroom) == (6.0, True)
    bare = rules.choose([replace(point, wasted=5.0) for point in points], target=9.4, least_wasted=9.0)
    assert (bare.point.gain, bare.headroom) == (9.4, False)


def test_out_of_reach_stays_a_misfit() -> None:
    choice = rules.choose(grid(1.0, 2.0, 3.9, 4.0), target=9.4, least_wasted=9.0)
    assert (choice.point.shootdowns, choice.tied) == (4.0, 2)
    assert choice.misfit == pytest.approx(-5.5) and abs(choice.misfit) > choice.tolerance


# --- judging ---


@pytest.mark.parametrize(
    "gain, half_width, published, sign, size",
    [
        (8.0, 1.0, 9.7, "right", "rough size"),
        (3.0, 1.0, 9.7, "right", "TOO SMALL"),
        (25.0, 1.0, 9.7, "right", "TOO LARGE"),
        (1.0, 10.0, 9.7, "not clear", "rough size"),
        (-5.0, 2.0, 9.7, "WRONG", "TOO SMALL"),
    ],
)
def test_verdicts(gain: float, half_width: float, published: float, sign: str, size: str) -> None:
    cell = {"gain": gain, "half_width": half_width}
    assert predictions.verdicts(cell, published) == (sign, size)


def test_regression() -> None:
    assert [rules.regression_verdict(*ends) for ends in ((-3, -1), (-1, 1), (1, 2))] == ["REGRESSION", "none", "gain"]


def test_kendall() -> None:
    assert rules.kendall([1, 2, 3, 4], [1, 2, 3, 4]) == 1
    assert rules.kendall([1, 2, 3, 4], [4, 3, 2, 1]) == -1
    assert rules.kendall([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(4 / 6)  # one of six pairs is reversed


def test_moves_of_ranks() -> None:
    assert rules.moved({"a": 3, "b": 2, "c": 1}, {"a": 1, "b": 2, "c": 3}) == ["a 1→3", "c 3→1"]


def test_only_clear_pairs_are_conclusions_and_can_flip() -> None:
    first = {"good": [110.0, 111.0, 110.0], "base": [100.0, 100.5, 100.0], "noisy": [80.0, 130.0, 100.0]}
    both = rankings.joined(first, first)
    assert rankings.clear_pairs(both) == [("good", "base")]
    assert rankings.clear_pairs(both, 1 - 1e-12) == []
    after = {"good": [98.0, 98.5, 98.0], "base": [100.0, 100.5, 100.0]}
    assert rankings.flips(after, [("good", "base")]) == [("good > base", True)]
    assert rankings.flips(first, [("good", "base")]) == []


def test_the_noise_floor_is_over_all_ways_to_halve_the_seeds() -> None:
    still = {"a": [3.0, 3.0], "b": [2.0, 2.0]}
    assert rankings.noise({"unchanged": {"s": still}, "other_seeds": {"s": still}}) == {"s": [1.0, 1.0, 1.0]}
    turned = {"a": [1.0, 1.0], "b": [2.0, 2.0]}  # halved by table the order turns; mixed halves are alike
    assert rankings.noise({"unchanged": {"s": still}, "other_seeds": {"s": turned}}) == {"s": [-1.0, 0.0, 0.0]}


# --- what is simulated ---


def test_factors_change_the_two_rates_and_nothing_else() -> None:
    changed = variants.with_factors("dedup", 2, {"shootdowns": 2.0, "lock_ops": 0.5}).vms[1].workload.rates
    own = WORKLOAD["dedup"].rates
    assert changed is not None and own is not None
    assert (changed.shootdowns, changed.lock_ops) == (1200.0, 7500.0)
    assert replace(changed, shootdowns=own.shootdowns, lock_ops=own.lock_ops) == own
    assert variants.with_factors("dedup", 2, sweep.ONE) is not None
    assert variants.with_factors("dedup", 2, sweep.ONE).to_toml() == series("dedup", 2).to_toml()


def test_every_assumed_cost_is_varied_and_no_other() -> None:
    varied = {variant.name for variant in variants.variants()}
    assumed = {name for name, item in Costs.__dataclass_fields__.items() if item.metadata["mark"] not in ("V", "D")}
    assert varied - assumed == {"ple.window_ns", "lag_credit_scale", "halt_poll"} and assumed <= varied
    host = series("dedup", 2).host
    for variant in variants.variants():
        assert variant.apply(host) != host, variant.name


def test_the_traced_effect_of_yields() -> None:
    """vCPU 0 (pCPU 0) yields to 1 on its own pCPU, which runs at once, then to 2 elsewhere, which runs too late."""
    rows = [
        (0, layout.TR_RUN, 0, 0),
        (0, layout.TR_WAKE, 1, 0),
        (0, layout.TR_WAKE, 2, 3),
        (1_000, layout.TR_YIELD, 0, 4 * 1 + 2),
        (1_000, layout.TR_YIELD, 0, 4 * 2 + 1),
        (5_000, layout.TR_RUN, 1, 0),
        (6_000, layout.TR_YIELD, 0, 4 * 2 + 2),
        (26_001, layout.TR_RUN, 2, 3),
    ]
    found = effect.read(np.array(rows, dtype=layout.TRACE), begin_ns=0)
    assert found == {
        "yields": 2,
        "same_pcpu": 0.5,
        "at_once": 0.5,
        "at_once_same_pcpu": 1.0,
        "at_once_other_pcpu": 0.0,
    }
    assert effect.read(np.array(rows, dtype=layout.TRACE), begin_ns=2_000)["yields"] == 1


def test_a_tiny_sweep_runs_freezes_and_goes_on(tmp_path, monkeypatch) -> None:
    """Two points of the grid; the second call finds every run and refuses to replace what is frozen."""
    monkeypatch.setattr(sweep, "SERIES_WORKLOADS", ("dedup",))
    monkeypatch.setattr(rules, "SHOOTDOWN_FACTORS", {"dedup": (1.0, 2.0)})
    monkeypatch.setattr(rules, "LOCK_FACTORS", (1.0,))
    short = ["fit", "--seeds", "2", "--duration", "0.02", "--warmup", "0.002", "--threads", "1"]
    command = [*short, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path)]
    assert sweep.main(command) == 0
    factors = sweep.frozen(tmp_path)["factors"]["dedup"]
    assert factors in ({"shootdowns": 1.0, "lock_ops": 1.0}, {"shootdowns": 2.0, "lock_ops": 1.0})
    runs = (tmp_path / "runs" / "runs.jsonl").read_text().splitlines()
    assert len(runs) == 2 * 2 * 2  # points, policies, seeds
    other = {"factors": {"dedup": {"shootdowns": 9.0, "lock_ops": 9.0}}}
    (tmp_path / "frozen.json").write_text(json.dumps(other))
    assert sweep.main(command) == 1
    assert json.loads((tmp_path / "frozen.json").read_text()) == other
    assert sweep.main([*command, "--refreeze"]) == 0
    assert sweep.frozen(tmp_path)["factors"]["dedup"] == factors
    assert (tmp_path / "runs" / "runs.jsonl").read_text().splitlines() == runs


def test_json_is_compact_and_the_same_data() -> None:
    data = {"a": [1.5] * 40, "b": {"c": "x", "d": [1, 2]}, "e": {}}
    assert json.loads(compact(data)) == data
    assert '"b": {"c": "x", "d": [1, 2]}' in compact(data)


# --- what is committed ---


def test_frozen_is_what_the_fit_chose() -> None:
    data, profiles = analysis.load(), {family.profile.name: family.profile for family in FAMILIES}
    assert set(data["frozen"]["factors"]) == set(SERIES_WORKLOADS)
    for workload, part in data["fit"]["workloads"].items():
        points = [Point(**point) for point in part["grid"]]
        choice = rules.choose(points, part["target"], HEADROOM[workload])
        factors = data["frozen"]["factors"][workload]
        assert factors == {"shootdowns": choice.point.shootdowns, "lock_ops": choice.point.lock_ops}
        for name, rate in data["frozen"]["rates_per_cpu_second"][workload].items():
            assert rate == pytest.approx(getattr(profiles[workload], name) * factors[name], rel=1e-5)
        assert len(points) == len(rules.SHOOTDOWN_FACTORS[workload]) * len(rules.LOCK_FACTORS)


def test_no_stage_shares_a_seed_with_another() -> None:
    data = analysis.load()
    settings = [data[stage]["settings"] for stage in analysis.STAGES]
    seeds = [set(range(item["first_seed"], item["first_seed"] + item["seeds"])) for item in settings]
    assert all(not seeds[i] & seeds[j] for i in range(3) for j in range(i))


def test_the_report_is_up_to_date() -> None:
    text = (analysis.HERE / "report.md").read_text(encoding="utf-8")
    assert text == analysis.report(analysis.load()), "run python -m experiments.calibration.analysis"


def test_unused_constants_changed_nothing() -> None:
    data = SimpleNamespace(**analysis.load()["sensitivity"])
    inert = [variant for variant in data.variants if variant["inert"]]
    assert {variant["constant"] for variant in inert} == set(variants.INERT)
    assert all(variant["ops_per_s"] == data.unchanged for variant in inert)
    assert any(variant["ops_per_s"] != data.unchanged for variant in data.variants)
