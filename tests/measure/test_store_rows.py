"""Rows of results: what is none is counted, named and left out."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from storing import SMALL, TIMES, opened

from kvmgym.files import append_line, to_json
from kvmgym.measure import store
from kvmgym.measure.schema import FIELDS, SCHEMA, fault_of
from kvmgym.measure.store import Run, run_all
from kvmgym.policies import as_policy


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
