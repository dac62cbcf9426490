"""Processes in one folder share the work, and lose nothing when one of them is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import storing
from storing import SMALL, TIMES, opened, runs

from kvmgym.files import read_json
from kvmgym.measure import claims, store
from kvmgym.measure.claims import Claims
from kvmgym.measure.compare import Learned
from kvmgym.measure.schema import SCHEMA
from kvmgym.measure.store import Run, run_all
from kvmgym.policies import as_policy


def started(folder: Path, *more: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, storing.__file__, str(folder), *more])


def ran(folder: Path) -> dict[str, list[str]]:
    """By process what it ran."""
    return {path.stem: path.read_text().splitlines() for path in folder.glob("*.ran")}


def names(wanted: list[Run]) -> list[str]:
    return sorted(f"{run.policy.name} {run.seed}" for run in wanted)


def test_two_processes_share_the_work(tmp_path: Path) -> None:
    both = [started(tmp_path), started(tmp_path)]
    assert [process.wait() for process in both] == [0, 0]
    found = ran(tmp_path)
    assert len(found) == 2
    assert sorted(line for lines in found.values() for line in lines) == names(storing.twelve())
    kept = opened(tmp_path)
    assert set(kept.found) == {run.key for run in storing.twelve()} and not kept.bad
    assert [path.name for path in (tmp_path / "claims").iterdir()] == ["lock"]


def test_a_killed_process_loses_nothing_and_another_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = started(tmp_path, "halt")
    while len(next(iter(ran(tmp_path).values()), [])) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(opened(tmp_path).found) == 2 and len(list((tmp_path / "claims").iterdir())) == 2
    real, again = store.summarise, []

    def told(run: Run, *rest: object) -> dict[str, Any]:
        again.append(run)
        return real(run)

    monkeypatch.setattr(store, "summarise", told)
    assert len(run_all(storing.twelve(), opened(tmp_path), threads=2)) == 12
    assert names(again) == sorted(set(names(storing.twelve())) - set(next(iter(ran(tmp_path).values()))[:2]))
    assert [path.name for path in (tmp_path / "claims").iterdir()] == ["lock"]


def test_a_run_that_another_process_has_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claimed by another machine, finished there while this one waits: it is not run here."""
    (run,) = runs(("none",), seeds=1)
    row = store.summarise(run)
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / run.key).write_text('{"host": "elsewhere", "pid": 1, "started": ""}')
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            opened(tmp_path).add(run.key, row)

    monkeypatch.setattr(store, "time", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(store, "summarise", lambda run: pytest.fail("ran it here"))
    assert run_all([run], opened(tmp_path), threads=1) == [{"schema": SCHEMA, "key": run.key, **row}]
    assert len(slept) == 3


def test_an_agents_batch_leaves_out_what_another_process_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seeds here, one there: it is waited for, and its row is read."""
    made: list[list[int]] = []

    def evaluate(scenario: Any, seeds: Any, *times: int, tell: Callable[[float], None]) -> list[dict[str, Any]]:
        made.append(list(seeds))
        tell(0.5)
        tell(1.0)
        return [{**row, "policy": "mine", "seed": seed} for seed in seeds]

    agent = Learned("mine", "0123", evaluate)
    row = store.summarise(Run(SMALL, as_policy("none"), 0, *TIMES))
    wanted = [Run(SMALL, agent, seed, *TIMES) for seed in range(3)]
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / wanted[1].key).write_text('{"host": "elsewhere", "pid": 1, "started": ""}')
    other = {**row, "policy": "mine", "seed": 1, "ops_per_s": 7.0}
    sleep = SimpleNamespace(sleep=lambda seconds: opened(tmp_path).add(wanted[1].key, other))
    monkeypatch.setattr(store, "time", sleep)
    told: list[float] = []
    found = run_all(wanted, opened(tmp_path), 1, told.append)
    assert made == [[0, 2]] and [row["seed"] for row in found] == [0, 1, 2] and found[1]["ops_per_s"] == 7.0
    assert told == sorted(told) and told[-1] == 3


def test_claims_expire_unless_they_are_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run"
    path.write_text('{"host": "elsewhere", "pid": 1, "started": ""}')
    mine = Claims(tmp_path)
    assert not mine.take("run") and not mine.take("run")
    monkeypatch.setattr(claims, "EXPIRES_S", 0.0)
    os.utime(path, ns=(1, 1))
    assert not mine.take("run")  # renewed since
    assert mine.take("run") and read_json(path) == mine.owner
    mine.release("run")
    assert not path.exists()


def test_a_claim_that_was_taken_over_is_not_released(tmp_path: Path) -> None:
    mine = Claims(tmp_path)
    assert mine.take("run")
    (tmp_path / "run").write_text('{"host": "elsewhere", "pid": 1, "started": ""}')
    mine.release("run")
    assert (tmp_path / "run").exists()


def test_claims_of_processes_that_ended_are_free(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine = Claims(tmp_path)
    for name, change in {"ended": {"pid": ended.pid}, "reused": {"started": "1"}, "huge": {"pid": 10**30}}.items():
        (tmp_path / name).write_text(json.dumps({**mine.owner, **change}))
        assert mine.take(name), name
    for name, text in {"mine": json.dumps(mine.owner), "torn": "{", "odd": "[1]"}.items():
        (tmp_path / name).write_text(text)
        assert not mine.take(name), name


def test_a_folder_without_claims_runs_everything(tmp_path: Path) -> None:
    (tmp_path / "claims").write_text("no folder")
    assert len(run_all(runs(), opened(tmp_path), threads=1)) == 6
