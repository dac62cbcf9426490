"""The store: what is kept, and what happens when it is disturbed."""

import os
import resource
from pathlib import Path

import pytest
from storing import opened, runs

from kvmgym.measure import store
from kvmgym.measure.store import Run, run_all
from kvmgym.policies import as_policy
from kvmgym.scenarios import BY_NAME


def test_results_do_not_depend_on_threads(tmp_path: Path) -> None:
    one = run_all(runs(), opened(tmp_path / "one"), threads=1)
    two = run_all(runs(), opened(tmp_path / "two"), threads=2)
    assert one == two
    assert [row["seed"] for row in one] == [0, 0, 1, 1, 2, 2]
    assert all(row["ops_per_s"] > 0 for row in one)


def test_finished_runs_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_all(runs(), opened(tmp_path), threads=2)
    monkeypatch.setattr(store, "summarise", lambda run, *rest: pytest.fail(f"ran {run.seed} again"))
    assert run_all(runs(), opened(tmp_path), threads=2) == first


def test_an_interruption_keeps_what_was_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, done = store.summarise, []

    def interrupted(run: Run, *rest: object) -> dict[str, object]:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(run.seed)
        return real(run)

    monkeypatch.setattr(store, "summarise", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_all(runs(), opened(tmp_path), threads=1)
    assert len(opened(tmp_path).found) == 2
    monkeypatch.setattr(store, "summarise", real)
    assert len(run_all(runs(), opened(tmp_path), threads=1)) == 6


def test_a_torn_last_line_is_left_out_and_swallows_no_other(tmp_path: Path) -> None:
    rows = run_all(runs(), opened(tmp_path), threads=1)
    text = (tmp_path / "runs.jsonl").read_text()
    (tmp_path / "runs.jsonl").write_text(text[:-40])
    torn = opened(tmp_path)
    assert len(torn.found) == 5 and list(torn.bad) == [6]
    assert run_all(runs(), torn, threads=1) == rows
    again = opened(tmp_path)
    assert len(again.found) == 6 and list(again.bad) == [6]
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 7


def test_a_whole_last_line_without_its_end_is_a_row(tmp_path: Path) -> None:
    rows = run_all(runs(), opened(tmp_path), threads=1)
    path = tmp_path / "runs.jsonl"
    path.write_text(path.read_text().rstrip("\n"))
    found = opened(tmp_path)
    assert len(found.found) == len(rows) and not found.bad
    found.add("f" * 24, rows[0] | {"key": "f" * 24})
    assert len(opened(tmp_path).found) == len(rows) + 1


def test_a_full_disk_is_said_and_loses_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = opened(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert len(run_all(runs(), found, threads=1)) == 6
    assert found.problem is not None and "No space left on device" in found.problem


def test_a_disk_that_fills_up_tears_no_row(tmp_path: Path) -> None:
    """The limit of a file's size stands for the disk: the write is cut, then refused."""
    rows = run_all(runs(seeds=1), opened(tmp_path), threads=1)
    path, before = tmp_path / "runs.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    kept, found = path.read_bytes(), opened(tmp_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept) + 100, before[1]))
    try:
        assert len(run_all(runs(), found, threads=1)) == 6
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found.problem == f"{path}: File too large" and path.read_bytes() == kept
    assert run_all(runs(), opened(tmp_path), threads=1)[:2] == rows
    again = opened(tmp_path)
    assert len(again.found) == 6 and not again.bad


def test_a_policys_scheduler_half_decides_the_result(tmp_path: Path) -> None:
    """The same function with and without the lag credit."""
    plain, credited = as_policy("legacy"), as_policy("sched-v3")
    assert plain.function is credited.function
    times = 100_000_000, 1_000_000
    small = BY_NAME["dedup-small"]
    rows = run_all([Run(small, policy, 0, *times) for policy in (plain, credited)], opened(tmp_path), threads=1)
    assert rows[0]["events"] != rows[1]["events"]
