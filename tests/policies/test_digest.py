"""The digest of a function: it changes with all that decides what the function does, and with nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kvmgym.policies import POLICIES
from kvmgym.policies.digest import digest, reach

HELPERS = """
import numba
import numpy as np
DEEP = (1.5, "word", {"a": [1, 2]})
TABLE = np.arange(4)

@numba.njit
def deeper(x):
    return x + 1

@numba.njit
def score(x):
    return deeper(x) * 2

class Level:
    low = 3

def unused(x):
    return x
"""
OWN = """
import numpy as np
import helpers
from helpers import score
from functools import partial

WANTED = 3
NAMES = frozenset({"ready", "preempted", "blocking", "idle", "halted"})

def plain(vm, vcpus, me, ask):
    return WANTED

def comprehension(vm, vcpus, me, ask):
    return [i for i in range(vcpus.size) if i != me and str(i) in NAMES][0]

def nested(vm, vcpus, me, ask):
    def inner(x):
        return x in {"a", "b", "c", "d"}
    return inner(me) and (lambda: 1.25)()

def calls(vm, vcpus, me, ask):
    return score(me)

def through_module(vm, vcpus, me, ask):
    return helpers.score(me) + helpers.DEEP[0]

def reads_array(vm, vcpus, me, ask):
    return helpers.TABLE[me]

def closes_over(k, table):
    def policy(vm, vcpus, me, ask, bonus=7):
        return k + table[me] + bonus
    return policy

closed = closes_over(4, np.ones(3))

def recursive(vm, vcpus, me, ask):
    return recursive(vm, vcpus, me - 1, ask) if me else 0

ALL = dict(plain=plain, comprehension=comprehension, nested=nested, calls=calls, through_module=through_module,
           reads_array=reads_array, closed=closed, recursive=recursive)
"""
PRINT = """
import own
from kvmgym.policies.digest import digest
for name, function in own.ALL.items():
    print(name, digest(function))
"""


def digests(folder: Path, own: str = OWN, helpers: str = HELPERS, hash_seed: str = "1") -> dict[str, str]:
    """The digests of the functions, worked out by a process of its own."""
    folder.mkdir(exist_ok=True)
    (folder / "own.py").write_text(own)
    (folder / "helpers.py").write_text(helpers)
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(["", *sys.path])}
    command = [sys.executable, "-B", "-c", PRINT]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return dict(line.split() for line in done.stdout.splitlines())


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return digests(tmp_path_factory.mktemp("first"))


def test_each_function_has_its_own(first: dict[str, str]) -> None:
    assert len(first) == 8 == len(set(first.values()))
    assert all(len(value) == 32 and int(value, 16) >= 0 for value in first.values())


def test_it_is_the_same_in_every_process_and_folder(first: dict[str, str], tmp_path: Path) -> None:
    """Another order of sets, other addresses, another folder, other line numbers, other things beside it."""
    own = "# moved\n\n\n" + OWN + "\nBESIDE = 5\n"
    helpers = "# moved\n" + HELPERS.replace("def unused(x):\n    return x", "def unused(x):\n    return -x")
    assert digests(tmp_path, own, helpers, hash_seed="77") == first


@pytest.mark.parametrize(
    "file, old, new, changed",
    [
        ("helpers", "x + 1", "x + 2", {"calls", "through_module"}),  # what a helper calls
        ("helpers", "1.5", "1.25", {"through_module"}),
        ("helpers", "np.arange(4)", "np.arange(4) + 1", {"reads_array"}),
        ("own", "WANTED = 3", "WANTED = 3.0", {"plain"}),
        ("own", '"halted"', '"asleep"', {"comprehension"}),
        ("own", '"d"', '"e"', {"nested"}),
        ("own", "1.25", "1.5", {"nested"}),
        ("own", "closes_over(4", "closes_over(5", {"closed"}),
        ("own", "np.ones(3)", "np.ones(3, np.float32)", {"closed"}),
        ("own", "bonus=7", "bonus=8", {"closed"}),
        ("own", "i != me and", "i == me and", {"comprehension"}),
    ],
)
def test_it_changes_with_what_it_depends_on(
    file: str, old: str, new: str, changed: set[str], first: dict[str, str], tmp_path: Path
) -> None:
    texts = {"own": OWN, "helpers": HELPERS}
    assert old in texts[file]
    texts[file] = texts[file].replace(old, new)
    now = digests(tmp_path, texts["own"], texts["helpers"])
    assert {name for name in first if now[name] != first[name]} == changed


WANTED = 3


def wants(vm, vcpus, me, ask):
    return WANTED


def test_a_changed_global_counts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(wants)
    monkeypatch.setitem(globals(), "WANTED", 4)
    assert digest(wants) != before
    monkeypatch.setitem(globals(), "WANTED", 3)
    assert digest(wants) == before


@pytest.mark.parametrize(
    "one, other", [(1, True), (0.0, -0.0), (1, 1.0), (np.int64(1), np.int32(1)), ("1", b"1"), ((1,), [1])]
)
def test_values_that_are_equal_and_not_the_same(one: object, other: object, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for value in (one, other):
        monkeypatch.setitem(globals(), "WANTED", value)
        seen.append(digest(wants))
    assert seen[0] != seen[1]


def test_what_it_reads_is_found_in_what_it_calls_too() -> None:
    reads = {policy.name: reach(policy.function).names for policy in POLICIES}
    assert "lag_ns" in reads["least-lag"] and "lag_ns" not in reads["legacy"]
    assert {policy.name for policy in POLICIES if "waits_for" in reads[policy.name]} == {
        policy.name for policy in POLICIES if policy.privileged
    }
    assert {policy.name for policy in POLICIES if "lag_ns" in reads[policy.name]} == {
        policy.name for policy in POLICIES if policy.needs_lag
    }
