"""The gain over a baseline: hand-worked values, VMs that stand still, and hosts whose VMs run different programs."""

import json
import math
import warnings
from pathlib import Path

import pytest

from kvmgym import simulate
from kvmgym.cli.plots import gain_bars, gain_dots
from kvmgym.measure.compare import row_of
from kvmgym.measure.gains import Cell, cells, host_gain
from kvmgym.measure.metrics import MixedProgramsWarning
from kvmgym.measure.stats import Gain, log_gain, paired_vm_gain
from kvmgym.scenarios import BY_NAME

MIXED = ("mixed-8p-4vm", "dedup-noisy-7vm", "dedup-12p-hog-3ms")
MS = 1_000_000


def row(policy: str, seed: int, *ops: float, programs: str = "xyz", fairness: float = 1.0) -> dict[str, object]:
    """A row of VMs a, b, c with these operations a second; by default each runs a program of its own."""
    used = list(programs[: len(ops)])
    return {
        "scenario": "s", "policy": policy, "seed": seed, "vm_names": list("abc"[: len(ops)]), "vm_programs": used,
        "vm_ops_per_s": list(ops), "ops_per_s": sum(ops) if len(set(used)) == 1 else None, "fairness": fairness,
        "wasted_share": 0.1, "ple_exits_per_s": 1.0, "yields_ok_per_s": 1.0,
    }  # fmt: skip


def gained(base: list[tuple[float, ...]], mine: list[tuple[float, ...]], programs: str = "xyz") -> Cell:
    """The cell of policy "new" over "old", one tuple of VMs a seed."""
    rows = [row("old", seed, *ops, programs=programs) for seed, ops in enumerate(base)]
    rows += [row("new", seed, *ops, programs=programs) for seed, ops in enumerate(mine)]
    return cells(rows, "old")[1]


# --- hand-worked values -----------------------------------------------------------------------------------------------


def test_twice_as_fast_and_half_as_fast_cancel_whatever_the_units() -> None:
    """The sum would say -49 %: it counts the operations of `a`, which are many."""
    cell = gained([(1000.0, 10.0), (3000.0, 20.0)], [(500.0, 20.0), (1500.0, 40.0)])
    assert cell.gain and cell.gain.mean == pytest.approx(0, abs=1e-12)
    assert cell.gain.low == pytest.approx(0, abs=1e-9) and cell.gain.high == pytest.approx(0, abs=1e-9)
    a, b = cell.host.vms
    assert a.gain and b.gain
    assert (a.gain.mean, b.gain.mean) == (pytest.approx(-0.5), pytest.approx(1.0))
    assert cell.host.worst == a and cell.host.worst_text == "a -50.0 %" and a.ops_per_s.mean == 1000
    assert cell.mixed and cell.ops_per_s is None


def test_the_gain_is_the_geometric_mean() -> None:
    cell = gained([(10.0, 10.0, 10.0)] * 2, [(80.0, 10.0, 10.0)] * 2)
    assert cell.gain and cell.gain.mean == pytest.approx(1.0)  # (8 * 1 * 1) ** (1 / 3) - 1


def test_equal_programs_give_what_their_sum_gives() -> None:
    base = [(100.0, 102.0), (98.0, 100.0), (101.0, 99.0)]
    mine = [(112.0, 113.0), (109.0, 110.0), (111.0, 112.0)]
    cell = gained(base, mine, "xx")
    of_sum = sum(sum(new) / sum(old) - 1 for new, old in zip(mine, base, strict=True)) / 3
    assert cell.gain and cell.gain.mean == pytest.approx(of_sum, abs=1e-4) and of_sum > 0.1
    assert not cell.mixed and cell.ops_per_s and cell.ops_per_s.mean == pytest.approx(sum(map(sum, mine)) / 3)


def test_the_interval_is_of_the_logarithms() -> None:
    """ln 1.1, 1.2, 1.3: mean 0.1799987, deviation 0.0835513; t(95 %, 2) = 4.302653, so 0.207553 to either side."""
    gain = log_gain([math.log(1.1), math.log(1.2), math.log(1.3)])
    assert gain.mean == pytest.approx(math.expm1(0.1799987), abs=1e-6)
    assert gain.low == pytest.approx(math.expm1(0.1799987 - 0.207553), abs=1e-5)
    assert gain.high == pytest.approx(math.expm1(0.1799987 + 0.207553), abs=1e-5)
    assert gain.half_width == pytest.approx((gain.high - gain.low) / 2) and gain.text == "+19.7 ± 25.0"
    assert gain.holds(0.0) and not gain.holds(-0.03) and gain.n == 3


def test_vms_are_averaged_before_the_interval() -> None:
    """In each seed one VM is faster by what the other is slower: the mean is the same in all, its interval a point."""
    gain = paired_vm_gain([(20.0, 5.0), (5.0, 20.0), (40.0, 2.5)], [(10.0, 10.0)] * 3)
    assert gain.mean == pytest.approx(0, abs=1e-12) and gain.half_width == pytest.approx(0, abs=1e-9)


def test_gains_of_the_baseline_are_zero_and_of_one_seed_without_end() -> None:
    rows = [row("old", seed, 10.0, 20.0) for seed in range(3)]
    (cell,) = cells(rows, "old")
    assert cell.gain == Gain(0.0, 0.0, 0.0, 3)
    alone = gained([(10.0, 10.0)], [(20.0, 20.0)])
    assert alone.gain and (alone.gain.low, alone.gain.high) == (-1.0, math.inf)
    text = json.dumps(alone.to_dict(), allow_nan=False)
    assert json.loads(text)["gain"] == {"mean": 1.0, "low": -1.0, "high": None, "half_width": None, "seeds": 1}


# --- VMs that stand still ---------------------------------------------------------------------------------------------


def test_a_vm_that_stands_still_under_the_policy_alone_is_shown_as_that() -> None:
    cell = gained([(10.0, 10.0), (10.0, 10.0)], [(90.0, 5.0), (90.0, 0.0)])
    assert cell.gain is None and cell.text == "b stands still"
    a, b = cell.host.vms
    assert a.gain and a.gain.mean == pytest.approx(8.0) and b.gain is None and b.text == "stands still"
    assert cell.host.worst == b and cell.host.worst_text == "b stands still" and cell.host.left_out == ()
    plain = json.loads(json.dumps(cell.to_dict(), allow_nan=False))
    assert plain["gain"] is None and plain["why"] == "b stands still"
    both = gained([(10.0, 10.0, 10.0)], [(0.0, 5.0, 0.0)])
    assert both.text == "a and 1 more stand still" and both.host.worst_text == "a stands still"
    assert plain["worst_vm"] == {"vm": "b", "gain": None, "why": "stands still"}
    assert [vm["why"] for vm in plain["vms"]] == ["", "stands still"] and plain["vms"][1]["gain"] is None


def test_a_vm_that_stands_still_under_the_baseline_alone_is_shown_as_that() -> None:
    cell = gained([(10.0, 0.0), (10.0, 0.0)], [(5.0, 3.0), (5.0, 3.0)])
    assert cell.gain is None and cell.text == "b stands still under the baseline alone"
    assert cell.host.worst and cell.host.worst.vm == "a"  # b is better than it was


def test_a_vm_without_progress_in_either_run_is_left_out_and_named() -> None:
    cell = gained([(10.0, 0.0, 4.0)] * 2, [(40.0, 0.0, 4.0)] * 2)
    assert cell.gain and cell.gain.mean == pytest.approx(1.0)  # of a and c
    assert cell.host.left_out == ("b",) and cell.host.vms[1].text == "makes no progress in either run"
    assert cell.to_dict()["left_out"] == ["b"] and cell.host.worst and cell.host.worst.vm == "c"


def test_a_vm_is_left_out_of_the_seeds_alone_in_which_it_makes_no_progress() -> None:
    cell = gained([(10.0, 10.0), (10.0, 0.0)], [(20.0, 20.0), (20.0, 0.0)])
    b = cell.host.vms[1]
    assert cell.gain and cell.gain.mean == pytest.approx(1.0) and cell.gain.n == 2
    assert b.gain and b.gain.mean == pytest.approx(1.0) and (b.gain.n, b.left_out) == (1, 1)
    assert cell.host.left_out == ("b",)


def test_hosts_on_which_nothing_moves_have_no_gain() -> None:
    cell = gained([(0.0, 0.0)] * 2, [(0.0, 0.0)] * 2)
    assert cell.gain is None and cell.host.worst is None and cell.host.worst_text == "-"
    assert cell.text == "every VM makes no progress in either run" and cell.to_dict()["worst_vm"] is None


def test_a_vm_that_stands_still_is_drawn_as_words(tmp_path: Path) -> None:
    rows = [row("old", seed, 10.0, 20.0) for seed in range(2)] + [row("new", seed, 10.0, 0.0) for seed in range(2)]
    found = cells(rows, "old")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gain_bars(found, tmp_path / "bars.png", "old")
        gain_dots(found, tmp_path / "dots.png", "old", {"old": False, "new": True})
    assert all((tmp_path / name).read_bytes()[:4] == b"\x89PNG" for name in ("bars.png", "dots.png"))


def test_rows_that_cannot_be_paired_are_refused() -> None:
    with pytest.raises(ValueError, match="baseline = old: has no row of s for seed 1"):
        gained([(1.0,)], [(1.0,), (2.0,)])
    with pytest.raises(ValueError, match="baseline has 1 rows: must be 2"):
        host_gain([row("new", 0, 1.0), row("new", 1, 1.0)], [row("old", 0, 1.0)])
    with pytest.raises(ValueError, match=r"vm_names = \['a', 'b'\]: must be \['a'\]"):
        host_gain([row("new", 0, 1.0)], [row("old", 0, 1.0, 2.0)])


# --- hosts whose VMs run different programs ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", MIXED)
def test_the_gain_on_a_mixed_host_is_the_mean_of_its_vms(name: str) -> None:
    results = {
        policy: [simulate(BY_NAME[name], policy, seed=seed, duration_ns=80 * MS, warmup_ns=20 * MS) for seed in (0, 1)]
        for policy in ("legacy", "none")
    }
    _, none = cells([row_of(result) for found in results.values() for result in found], "legacy")
    logs = [
        math.log(mine.ops / base.ops)
        for new, old in zip(results["none"], results["legacy"], strict=True)
        for mine, base in zip(new.vms, old.vms, strict=True)
    ]
    assert none.gain and none.gain.mean == pytest.approx(math.exp(sum(logs) / len(logs)) - 1, rel=1e-9)
    assert [vm.vm for vm in none.host.vms] == [vm.name for vm in BY_NAME[name].vms]
    assert [vm.program for vm in none.host.vms] == [vm.workload.name for vm in BY_NAME[name].vms]
    assert none.ops_per_s is None and none.host.worst and none.gain.mean < -0.02
    assert none.host.worst.gain and none.host.worst.gain.mean < none.gain.mean


def test_the_sum_hides_what_the_gain_shows() -> None:
    """On dedup beside a hog: the hog's operations are many and hardly touched."""
    ops = {}
    for policy in ("legacy", "none"):
        runs = [simulate(BY_NAME[MIXED[2]], policy, seed=seed, duration_ns=200 * MS) for seed in (0, 1)]
        ops[policy] = [[vm.ops_per_s for vm in run.vms] for run in runs]
    of_sum = sum(map(sum, ops["none"])) / sum(map(sum, ops["legacy"])) - 1
    assert of_sum > -0.15 and paired_vm_gain(ops["none"], ops["legacy"]).mean < -0.18


def test_operations_of_different_programs_are_not_added_up() -> None:
    mixed = simulate(BY_NAME["mixed-8p-4vm"], "legacy", duration_ns=5 * MS, warmup_ns=0)
    with pytest.warns(MixedProgramsWarning, match=r"mixed-8p-4vm .*\(dbench, dedup, vips, kernbench\)"):
        assert mixed.ops_per_s == sum(vm.ops_per_s for vm in mixed.vms)
    same = simulate(BY_NAME["dedup-2vm"], "legacy", duration_ns=5 * MS, warmup_ns=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", MixedProgramsWarning)
        assert same.ops_per_s == same.to_dict()["ops_per_s"] == sum(vm.ops_per_s for vm in same.vms) > 0
        assert mixed.to_dict()["ops_per_s"] is None and row_of(mixed)["ops_per_s"] is None
    assert mixed.mixed and not same.mixed and mixed.vms[3].program == "kernbench"
