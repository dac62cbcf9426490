"""Keys of runs: they change with all that decides a result, and with nothing else."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from storing import SMALL, TIMES

from kvmgym.measure import provenance
from kvmgym.measure.compare import Learned
from kvmgym.measure.store import Run
from kvmgym.policies import as_policy
from kvmgym.scenarios import BY_NAME


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
