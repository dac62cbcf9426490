"""The store: what is kept, what keys it, what gets in, and what happens when it is disturbed."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import storing

from kvmgym.files import append_line, read_json, to_json
from kvmgym.measure import claims, provenance, store
from kvmgym.measure.claims import Claims
from kvmgym.measure.compare import Learned
from kvmgym.measure.schema import FIELDS, SCHEMA, fault_of
from kvmgym.measure.store import Run, Store, run_all
from kvmgym.policies import as_policy
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
    monkeypatch.setattr(store, "summarise", lambda run: pytest.fail(f"ran {run.seed} again"))
    assert run_all(runs(), opened(tmp_path), threads=2) == first


def test_an_interruption_keeps_what_was_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, done = store.summarise, []

    def interrupted(run: Run) -> dict[str, object]:
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


# --- keys -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package's sources that the digests are made of."""
    copy = tmp_path / "kvmgym"
    shutil.copytree(provenance.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "PACKAGE", copy)
    return copy


def both_keys() -> tuple[str, str]:
    """Of a policy's run and of an agent's."""
    provenance.policies_digest.cache_clear()
    provenance.agents_digest.cache_clear()
    agent = Learned("mine", "0123", lambda *what, **how: [])
    found = Run(SMALL, as_policy("legacy"), 0, *TIMES).key, Run(SMALL, agent, 0, *TIMES).key
    provenance.policies_digest.cache_clear()
    provenance.agents_digest.cache_clear()
    return found


@pytest.mark.parametrize(
    "name, changes",
    [
        ("world/blueprint.py", (True, True)),
        ("world/programs.py", (True, True)),
        ("measure/metrics.py", (True, True)),
        ("measure/simulate.py", (True, True)),
        ("core/host/eevdf.py", (True, True)),
        ("params/host.py", (True, True)),
        ("codes.py", (True, True)),
        ("brand/new/module.py", (True, True)),
        ("env/stepping.py", (False, True)),
        ("env/observation.py", (False, True)),
        ("cli/plots.py", (False, False)),
        ("bench/engine.py", (False, False)),
    ],
)
def test_the_key_changes_with_the_sources_that_decide(package: Path, name: str, changes: tuple[bool, bool]) -> None:
    before = both_keys()
    path = package / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text((path.read_text() if path.exists() else "") + "\n# another line\n")
    after = both_keys()
    assert tuple(one != other for one, other in zip(before, after, strict=True)) == changes


def test_the_digest_of_sources_covers_names_and_folders(tmp_path: Path) -> None:
    contents = ({"a.py": "1", "b.py": "2"}, {"a.py": "2", "b.py": "1"}, {"a.py": "12", "b.py": ""}, {"c/a.py": "1"},
                {"d/a.py": "1"}, {"a.py": "1"}, {"a.py": "1", "c/d/e.py": ""})  # fmt: skip
    found = []
    for place, files in enumerate(contents):
        for name, text in files.items():
            path = tmp_path / str(place) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        found.append(provenance.sources_digest(tmp_path / str(place)))
    assert len(set(found)) == len(contents)


def test_the_key_changes_with_the_version_of_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    before = both_keys()
    monkeypatch.setattr(numpy, "__version__", "0.0.1")
    after = both_keys()
    assert before[0] != after[0] and before[1] != after[1]


def test_the_key_changes_with_what_a_users_function_uses() -> None:
    """A global, a helper, a helper's helper, a closure, a default, a constant, a name."""
    source = """
LIMIT = {limit}
def deep(me):
    return me + {deep}
def helper(me):
    return deep(me) * LIMIT
def make(cell):
    def mine(vm, vcpus, me, ask, extra={extra}):
        return helper(me) % {constant} + cell - extra + len([one for one in range({inner})])
    return mine
"""
    base = {"limit": 1, "deep": 1, "extra": 1, "constant": 5, "cell": 1, "inner": 3}

    def key_of(**changes: int) -> str:
        values, names = {**base, **changes}, {"__name__": "mine"}
        exec(source.format(**values), names)
        return Run(SMALL, as_policy(names["make"](values["cell"])), 0, *TIMES).key  # type: ignore[operator]

    assert key_of() == key_of()
    assert len({key_of(**{name: 7}) for name in base} | {key_of()}) == 1 + len(base)


PINNED = """
import sys
from kvmgym.measure.store import Run
from kvmgym.policies import custom
from kvmgym.scenarios import BY_NAME

WORDS = frozenset(("ready", "blocking", "preempted"))

def mine(vm, vcpus, me, ask):
    inner = lambda index: index in {1, 2, 3, 4, 5}
    return sum(1 for index in range(len(vcpus)) if inner(index) and "ready" in WORDS) - 1

print(Run(BY_NAME["hotlock-small"], custom(mine), 0, 5_000_000, 1_000_000).key)
"""


def test_the_key_of_a_users_policy_is_the_same_in_each_process(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(PINNED)

    def key_with(seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, file], env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    first = key_with("1")
    assert len(first.strip()) == 24 and first == key_with("2")


# --- rows -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good() -> dict[str, Any]:
    """A row as it is in the file."""
    run = Run(SMALL, as_policy("none"), 0, *TIMES)
    return {"schema": SCHEMA, "key": run.key, **store.summarise(run)}


def test_the_schema_is_that_of_the_rows(good: dict[str, Any]) -> None:
    assert set(good) == {"schema", *FIELDS} and fault_of(good) is None
    assert fault_of(json.loads(to_json(good))) is None


def bad(**changes: object) -> Callable[[dict[str, Any]], bytes]:
    """A line with other values; one that is the text "1e999" is that number."""
    return lambda good: json.dumps({**good, **changes}).replace('"1e999"', "1e999").encode()


def without(name: str) -> Callable[[dict[str, Any]], bytes]:
    return lambda good: json.dumps({key: value for key, value in good.items() if key != name}).encode()


BAD_LINES: dict[str, tuple[Callable[[dict[str, Any]], bytes], str]] = {
    "torn": (lambda good: json.dumps(good).encode()[:-30], "not JSON"),
    "foreign": (lambda good: b"seed,ops_per_s", "not JSON"),
    "an array": (lambda good: b"[1, 2]", "no JSON object"),
    "null": (lambda good: b"null", "no JSON object"),
    "another object": (lambda good: b'{"a": 1}', "schema is None, not 2"),
    "of another schema": (bad(schema=1), "schema is 1, not 2"),
    "without a key": (without("key"), "key is missing"),
    "without a measure": (without("fairness"), "fairness is missing"),
    "another key": (bad(key="../../etc"), "key = '../../etc': must be 24 hex digits"),
    "a key that is a list": (bad(key=["a"]), "key = ['a']: must be"),
    "a seed that is text": (bad(seed="0"), "seed = '0': must be a whole number, 0 or more"),
    "a seed that is true": (bad(seed=True), "seed = True: must be"),
    "a seed below 0": (bad(seed=-1), "seed = -1: must be"),
    "no duration": (bad(duration_ns=0), "duration_ns = 0: must be a whole number above 0"),
    "no scenario": (bad(scenario=None), "scenario = None: must be a name"),
    "NaN": (bad(ops_per_s=float("nan")), "holds NaN, which is no JSON"),
    "infinity": (bad(ops_per_s=float("inf")), "holds Infinity, which is no JSON"),
    "beyond a float": (bad(ops_per_s="1e999"), "ops_per_s = inf: must be a finite number, 0 or more"),
    "400 digits": (bad(events=10**400), "events = 1000000000000000000000000000000000000...: must be a whole number"),
    "5000 digits": (lambda good: b'{"events": ' + b"1" * 5000 + b"}", "Exceeds the limit"),
    "below 0": (bad(ops_per_s=-1.0), "ops_per_s = -1.0: must be"),
    "a share above 1": (bad(wasted_share=1.5), "wasted_share = 1.5: must be a number of 0 to 1"),
    "no VM": (bad(vm_ops_per_s=[]), "vm_ops_per_s = []: must be"),
    "a VM without a number": (bad(vm_ops_per_s=[1.0, None]), "vm_ops_per_s = [1.0, None]: must be"),
    "an unknown field beyond a float": (bad(more=["1e999"]), "'more' holds a number that is not finite"),
    "nested too deep": (lambda good: b"[" * 100_000, "nested too deep"),
    "not UTF-8": (lambda good: b'{"key": "\xff"}', "not UTF-8"),
    "binary": (lambda good: bytes(range(128, 256)), "not UTF-8"),
    "endless": (lambda good: b"0" * (2**20 + 1), "longer than 1048576 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_line_is_counted_named_and_left_out(kind: str, good: dict[str, Any], tmp_path: Path) -> None:
    made, why = BAD_LINES[kind]
    other = {**good, "key": "0" * 24, "seed": 1}
    lines = [json.dumps(good).encode(), made(good), json.dumps(other).encode(), b"", b""]
    (tmp_path / "runs.jsonl").write_bytes(b"\n".join(lines))
    found = opened(tmp_path)
    assert list(found.found.values()) == [good, other]
    assert list(found.bad) == [2] and why in found.bad[2]
    message = found.left_out()
    assert message is not None and message.startswith(f"{tmp_path / 'runs.jsonl'}: 1 line is no finished run")
    assert f"line 2: {found.bad[2]}" in message and "\n" not in message and len(message) < 400


def test_a_row_of_another_run_is_left_out_and_the_run_is_made(good: dict[str, Any], tmp_path: Path) -> None:
    run = Run(SMALL, as_policy("none"), 0, *TIMES)
    append_line(tmp_path / "runs.jsonl", json.dumps({**good, "policy": "legacy", "ops_per_s": 1e9}))
    found = opened(tmp_path)
    assert run_all([run], found, threads=1) == [good]
    assert found.bad == {1: "its key is that of another run"}


def test_a_row_that_could_not_be_read_again_is_not_written(good: dict[str, Any], tmp_path: Path) -> None:
    found = opened(tmp_path)
    with pytest.raises(ValueError, match="hotlock-small, none, seed 0: ops_per_s = nan"):
        found.add("0" * 24, {**good, "ops_per_s": float("nan")})
    assert found.path.read_bytes() == b"" and not found.found


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "runs.jsonl")
    with pytest.raises(OSError, match="no regular file") as raised:
        opened(tmp_path)
    assert raised.value.filename == str(tmp_path / "runs.jsonl")


def test_a_row_of_another_process_is_read_as_it_comes(good: dict[str, Any], tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    one.add("0" * 24, good)
    other.refresh()
    assert list(other.found) == ["0" * 24]
    whole = json.dumps({**good, "key": "1" * 24})
    with open(one.path, "a") as file:
        file.write(whole[:50])
        file.flush()
        other.refresh()
        assert list(other.found) == ["0" * 24] and list(other.bad) == [2]
        file.write(whole[50:] + "\n")
    other.refresh()
    assert list(other.found) == ["0" * 24, "1" * 24] and not other.bad


# --- processes ------------------------------------------------------------------------------------------------------


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
    assert sorted(line for lines in found.values() for line in lines) == names(storing.runs())
    kept = opened(tmp_path)
    assert set(kept.found) == {run.key for run in storing.runs()} and not kept.bad
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

    def told(run: Run) -> dict[str, Any]:
        again.append(run)
        return real(run)

    monkeypatch.setattr(store, "summarise", told)
    assert len(run_all(storing.runs(), opened(tmp_path), threads=2)) == 12
    assert names(again) == sorted(set(names(storing.runs())) - set(next(iter(ran(tmp_path).values()))[:2]))
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
