"""Command lines, files of finished runs, and folders of agents, of any content."""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import odd
import pytest
from fuzzing import Worker, fuzz
from hypothesis import strategies as st

BEGIN = ["compare", "--scenarios", "shootdowns-small", "--policies", "none", "--duration", "0.0005", "--warmup", "0",
         "--seeds", "2", "--out", "out"]  # fmt: skip
COMPARE = ("--policies", "--scenarios", "--scenario", "--vms", "--seeds", "--baseline", "--duration", "--warmup",
           "--out",
           "--json", "--threads", "--agent", "--details", "--nothing", "--pol", "--h")  # fmt: skip
OTHERS = ("list", "validate", "bench", "train", "evaluate", "compar", "")
WORDS = st.sampled_from(("list", "V1", "v99", "policies", "--json", "--markdown", "--quick", "--help", "--repeats",
                        "--version",
                         "--no-compile", "--threads", "-h", "-", "--", "out.json"))  # fmt: skip


def some(options: tuple[str, ...]) -> st.SearchStrategy[list[str]]:
    pairs = st.tuples(st.sampled_from(options), odd.texts).map(list)
    return st.lists(pairs | odd.texts.map(lambda text: [text]), max_size=3).map(lambda found: list(chain(*found)))


def test_command_lines(cases: Worker, pytestconfig: pytest.Config) -> None:
    compare = some(COMPARE).map(lambda more: [*BEGIN, *more])
    others = st.tuples(st.sampled_from(OTHERS), st.lists(WORDS | odd.texts, max_size=3)).map(lambda c: [c[0], *c[1]])
    fuzz(cases, "command", compare | others, pytestconfig, 150, also=[BEGIN, ["list"], ["--help"], []])


# --- finished runs ----------------------------------------------------------------------------------------------------

plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
json_values = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9),
                           inner, max_size=3),
                           max_leaves=6)  # fmt: skip
lines = st.one_of(
    st.integers(0, 3).map(lambda place: b"whole%d" % place),
    json_values.map(lambda value: json.dumps(value).encode() + b"\n"),
    st.dictionaries(st.sampled_from(("key", "seed", "scenario", "policy", "ops_per_s")), plain, min_size=1).map(
        lambda row: json.dumps(row).encode() + b"\n"
    ),
    st.sampled_from((b"\n", b"{", b'{"key": "a"}\n', b"\xff\xfe\n", b"\x00\n", b"[" * 100_000 + b"\n", b"NaN\n",
    b"9" * 5000 + b"\n",
                     b'{"a":' * 5000 + b"\n", b'{"key": ["a"]}\n', b"\r\n", b"null\n")),
    st.binary(max_size=20).map(lambda some: some + b"\n"),
)  # fmt: skip


def test_files_of_finished_runs(cases: Worker, pytestconfig: pytest.Config) -> None:
    fuzz(cases, "rows", st.lists(lines, max_size=5), pytestconfig, 60, also=[[], [b"whole0", b"whole1"], [b"{"]])


@st.composite
def altered(draw: st.DrawFn, row: dict[str, Any]) -> list[bytes]:
    """A finished run with a value of another kind under one of its names."""
    name = draw(st.sampled_from(sorted(row)))
    return [json.dumps({**row, name: draw(json_values)}).encode() + b"\n"]


def test_finished_runs_with_altered_values(cases: Worker, pytestconfig: pytest.Config, tmp_path: Path) -> None:
    from fuzzcases import SMALL

    from kvmgym.cli.main import main

    assert main(["compare", *SMALL, "--out", str(tmp_path)]) == 0
    row = json.loads((tmp_path / "runs.jsonl").read_text().splitlines()[0])
    bad = _is_bad(row)
    values = (None, "x", [1], float("nan"), -1, {}, True)
    damaged = [[json.dumps({**row, name: value}).encode() + b"\n"] for name in row for value in values]
    fuzz(cases, "rows", altered(row).filter(bad), pytestconfig, 40, also=filter(bad, damaged))


def _is_bad(row: dict[str, Any]) -> Any:
    """Whether a line is no run that could have been: one of another kind, or not finite. Numbers that could have been
    are somebody's own forgery and not looked at."""

    def bad(case: list[bytes]) -> bool:
        found = json.loads(case[0])
        (name,) = [name for name in row if found[name] != row[name]] or [""]
        value, right = found.get(name), row.get(name)
        if name in ("", "key", "events", "decisions"):
            return False
        if isinstance(right, int | float) and isinstance(value, int | float) and not isinstance(value, bool):
            return not (value == value and 0 <= value < 1e300)
        return type(value) is not type(right) or isinstance(right, str)

    return bad


# --- agents -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a trained agent."""
    pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    from kvmgym_agents.ppo import storage
    from networks import network

    folder, made = tmp_path_factory.mktemp("agent"), network()
    storage.write_settings(folder, storage.Settings(made.settings, {"minutes": 1}))
    storage.save_weights(folder, made, {"steps": 1})
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_settings_of_any_content(cases: Worker, pytestconfig: pytest.Config) -> None:
    kinds = st.fixed_dictionaries({"kind": st.sampled_from(("maskable-ppo", "x", "os.system")) | json_values})
    text = (json_values | kinds).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=30)
    deep = [{}, {"settings.json": b"[" * 100_000}, {"settings.json": b'{"kind": "maskable-ppo"}'}]
    fuzz(cases, "agent", text.map(lambda found: {"settings.json": found}), pytestconfig, 30, also=deep)


def test_folders_of_trained_agents(cases: Worker, pytestconfig: pytest.Config, trained: dict[str, bytes]) -> None:
    settings = json.loads(trained["settings.json"])

    def with_setting(case: tuple[str, str, Any]) -> dict[str, bytes]:
        part, name, value = case
        inner = settings.get(part)
        changed = {**settings, part: {**inner, name: value} if isinstance(inner, dict) else value}
        return {**trained, "settings.json": json.dumps(changed).encode()}

    inside = sorted({name for part in settings.values() if isinstance(part, dict) for name in part} or {"x"})
    odd_json = json_values | st.sampled_from((4096, 10**9, -1, 10**400, 1e308, "x" * 5000))
    altered = st.tuples(st.sampled_from(sorted(settings)), st.sampled_from(inside), odd_json).map(with_setting)
    names = st.sampled_from(sorted(trained))
    cut = st.tuples(names, st.integers(0, 5000)).map(lambda c: {**trained, c[0]: trained[c[0]][: c[1]]})
    left_out = names.map(lambda name: {other: trained[other] for other in trained if other != name})

    def flipped(case: tuple[str, int]) -> dict[str, bytes]:
        name, place = case
        content = bytearray(trained[name])
        content[place % len(content)] ^= 1
        return {**trained, name: bytes(content)}

    flip = st.tuples(names, st.integers(0, 10**6)).map(flipped)
    fuzz(cases, "agent", altered | cut | left_out | flip, pytestconfig, 40, also=[trained])
