"""The comparison: what it keeps, what it computes, and what happens when it is disturbed."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from kvmgym.files import write_atomically
from kvmgym.measure import compare
from kvmgym.measure.compare import GROUPS, Run, Store, group_of, grouped, run_all
from kvmgym.measure.gains import cells
from kvmgym.measure.published import published_for
from kvmgym.policies import POLICIES, Policy, as_policy
from kvmgym.scenarios import BY_NAME

SMALL = BY_NAME["hotlock-small"]
TIMES = (5_000_000, 1_000_000)


def runs(policies: tuple[str, ...] = ("none", "legacy"), seeds: int = 3) -> list[Run]:
    return [Run(SMALL, as_policy(policy), seed, *TIMES) for seed in range(seeds) for policy in policies]


def opened(folder: Path) -> Store:
    store = Store(folder)
    store.open()
    return store


def test_results_do_not_depend_on_threads(tmp_path: Path) -> None:
    one = run_all(runs(), opened(tmp_path / "one"), threads=1)
    two = run_all(runs(), opened(tmp_path / "two"), threads=2)
    assert one == two
    assert [row["seed"] for row in one] == [0, 0, 1, 1, 2, 2]
    assert all(row["ops_per_s"] > 0 for row in one)


def test_finished_runs_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_all(runs(), opened(tmp_path), threads=2)
    monkeypatch.setattr(compare, "summarise", lambda run: pytest.fail(f"ran {run.seed} again"))
    assert run_all(runs(), opened(tmp_path), threads=2) == first


def test_an_interruption_keeps_what_was_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, done = compare.summarise, []

    def interrupted(run: Run) -> dict[str, object]:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(run.seed)
        return real(run)

    monkeypatch.setattr(compare, "summarise", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_all(runs(), opened(tmp_path), threads=1)
    assert len(opened(tmp_path).found) == 2
    monkeypatch.setattr(compare, "summarise", real)
    assert len(run_all(runs(), opened(tmp_path), threads=1)) == 6


def test_a_torn_last_line_is_passed_over(tmp_path: Path) -> None:
    rows = run_all(runs(), opened(tmp_path), threads=1)
    text = (tmp_path / "runs.jsonl").read_text()
    (tmp_path / "runs.jsonl").write_text(text[:-40])
    assert len(opened(tmp_path).found) == len(rows) - 1


def test_a_full_disk_is_said_and_loses_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert len(run_all(runs(), store, threads=1)) == 6
    assert store.problem is not None and "No space left on device" in store.problem


def test_the_key_changes_with_everything_that_decides_a_result() -> None:
    base = Run(SMALL, as_policy("legacy"), 0, *TIMES)
    others = [
        Run(BY_NAME["shootdowns-small"], base.policy, 0, *TIMES),
        Run(SMALL, as_policy("strict"), 0, *TIMES),
        Run(SMALL, base.policy, 1, *TIMES),
        Run(SMALL, base.policy, 0, TIMES[0] + 1, TIMES[1]),
        Run(SMALL, base.policy, 0, TIMES[0], TIMES[1] + 1),
        Run(SMALL, as_policy(lambda vm, vcpus, me, ask: 0), 0, *TIMES),
    ]
    assert len({run.key for run in [base, *others]}) == 7
    assert base.key == Run(SMALL, as_policy("legacy"), 0, *TIMES).key


def key(**changes: object) -> str:
    return Run(SMALL, replace(as_policy("legacy"), **changes), 0, *TIMES).key


def test_the_key_knows_what_belongs_to_a_policy() -> None:
    """Two policies of one name and one function that differ in what they bring along are not the same run."""
    changes = ({}, {"deboost": "v2"}, {"deboost": "v3"}, {"ipi_tracking": "v2"}, {"weights": (1.0,)},
               {"weights": (1.0, 2.0)}, {"needs_lag": True}, {"privileged": True})  # fmt: skip
    assert len({key(**change) for change in changes}) == len(changes)
    assert key(deboost=SMALL.host.yield_deboost) == key()  # changes nothing
    assert key(description="other words") == key()


def test_the_key_knows_which_fields_a_function_reads() -> None:
    def one(vm: object, vcpus: object, me: int, ask: object) -> int:
        return int(vcpus[0].ready)  # type: ignore[index]

    def other(vm: object, vcpus: object, me: int, ask: object) -> int:
        return int(vcpus[0].preempted)  # type: ignore[index]

    assert one.__code__.co_code == other.__code__.co_code
    assert key(function=one) != key(function=other)


def test_a_policys_scheduler_half_decides_the_result(tmp_path: Path) -> None:
    """The same function with and without the lag credit."""
    plain, credited = as_policy("legacy"), as_policy("sched-v3")
    assert plain.function is credited.function
    times = 100_000_000, 1_000_000
    small = BY_NAME["dedup-small"]
    rows = run_all([Run(small, policy, 0, *times) for policy in (plain, credited)], opened(tmp_path), threads=1)
    assert rows[0]["events"] != rows[1]["events"]


def test_groups_are_made_from_what_policies_say() -> None:
    by_group = {group: [p.name for p in POLICIES if group_of(p) == group] for group in GROUPS}
    assert set(by_group["bounds"]) >= {"clairvoyant", "clairvoyant-bound"}
    assert by_group["kernel"] == ["2011", "2012", "2017", "2019", "2021", "legacy-i-bug", "legacy"]
    assert set(by_group["series"]) >= {"strict", "relaxed", "sched-v2", "sched-v3", "series-v2", "series-v3"}
    assert set(by_group["others"]) >= {"none", "random", "least-lag", "linear"}
    names = [policy.name for policy in grouped(POLICIES)]
    assert sorted(names) == sorted(policy.name for policy in POLICIES)
    assert names[: len(by_group["bounds"])] == by_group["bounds"]
    mine = Policy("mine", as_policy("none").function, "-", "user", "", "")
    assert group_of(mine) == "others" and group_of(replace(mine, group="kernel")) == "kernel"
    assert Policy("mine", mine.function, "-", "user", "", "", privileged=True).group == "bounds"
    with pytest.raises(ValueError, match=r"Policy.group = 'kernal': must be one of bounds, kernel, series, others"):
        replace(mine, group="kernal")


def test_cells_pair_by_seed() -> None:
    common = {"scenario": "s", "wasted_share": 0.1, "ple_exits_per_s": 1.0, "yields_ok_per_s": 1.0, "fairness": 1.0}
    rows = [
        {**common, "policy": policy, "seed": seed, "ops_per_s": base * factor, "vm_names": ["a", "b"],
         "vm_programs": ["p", "p"], "vm_ops_per_s": [0.4 * base * factor, 0.6 * base * factor]}
        for policy, factor in (("legacy", 1.0), ("new", 1.25))
        for seed, base in enumerate((100.0, 300.0))
    ]  # fmt: skip
    legacy, new = cells(rows, "legacy")
    assert legacy.gain and new.gain and new.ops_per_s
    assert legacy.gain.mean == 0.0
    assert new.gain.mean == pytest.approx(0.25) and new.gain.half_width == pytest.approx(0.0, abs=1e-9)
    assert new.ops_per_s.mean == pytest.approx(250.0)
    assert json.loads(json.dumps(new.to_dict()))["gain"]["seeds"] == 2


def test_write_atomically_leaves_the_old_file_on_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "file.json"
    write_atomically(path, "old")

    def failing(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.json"]


def test_published_figures() -> None:
    dedup = published_for("dedup-4vm")
    assert dedup is not None and dedup.v1_v2 == 1.7
    assert dedup.v3_throughput == pytest.approx(100 / (1 - 0.156) - 100)  # 15.6 % lower latency
    dbench = published_for("dbench-2vm")
    assert dbench is not None and dbench.v3_throughput == 6.65
    assert published_for("dedup-small") is None and published_for("ebizzy-2vm") is None
