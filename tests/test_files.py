"""Files that the product writes: nothing half written, nothing replaced that is no file, everything read back."""

import io
import json
import math
import os
import re
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import fields
from pathlib import Path

import pytest

from kvmgym import files
from kvmgym.bench import engine as bench
from kvmgym.bench import env as bench_env
from kvmgym.bench.figures import Figure
from kvmgym.cli import list as lists
from kvmgym.cli.main import main
from kvmgym.files import (
    append_line,
    check_output,
    from_json,
    is_stdout,
    locked,
    read_json,
    to_json,
    write_atomically,
    write_output,
)
from kvmgym.measure.provenance import PACKAGE
from kvmgym.measure.store import Store
from kvmgym.params import Scenario
from kvmgym.policies.heuristics import DEFAULT_WEIGHTS, load_weights, save_weights
from kvmgym.scenarios import BY_NAME, SCENARIOS
from kvmgym.validate import rows, to_dict
from kvmgym.validate.rows import Check, Outcome
from kvmgym.workloads import BY_NAME as WORKLOADS

QUICK = [
    "--scenarios",
    "hotlock-small",
    "--policies",
    "none",
    "--seeds",
    "2",
    "--duration",
    "0.01",
    "--warmup",
    "0.002",
]


# --- whole files ----------------------------------------------------------------------------------------------------


def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "file.json"
    write_atomically(path, "old")

    def failing(source: object, target: object) -> None:
        raise OSError(28, "No space left on device", source)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="No space") as raised:
        write_atomically(path, "new")
    assert raised.value.filename == str(path)
    assert path.read_text() == "old"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.json"]


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_modes_are_kept_and_new_files_follow_the_umask(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    old.write_text("")
    old.chmod(0o604)
    for path in (new, old):
        write_atomically(path, "text")
    assert stat.S_IMODE(new.stat().st_mode) == 0o640
    assert stat.S_IMODE(old.stat().st_mode) == 0o604


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    for name in ("there", "not there"):
        target, link = tmp_path / "far" / name, tmp_path / f"link to {name}"
        link.symlink_to(target)
        if name == "there":
            target.write_text("old")
        write_atomically(link, "new")
        assert link.is_symlink() and not target.is_symlink() and target.read_text() == "new"
    assert sorted(path.name for path in (tmp_path / "far").iterdir()) == ["not there", "there"]


def test_a_pipe_is_written_through(tmp_path: Path) -> None:
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    write_atomically(pipe, "text" * 50_000)
    reader.join()
    assert found == [b"text" * 50_000] and stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.fixture
def full() -> Path:
    """A device that is always full, through a link: code that replaces files would replace the link."""
    path = Path("/dev/full")
    if not path.is_char_device():
        pytest.skip("needs /dev/full")
    return path


def test_a_device_is_written_through_and_stays_one(tmp_path: Path, full: Path) -> None:
    link = tmp_path / "full"
    link.symlink_to(full)
    with pytest.raises(OSError, match="No space left on device") as raised:
        write_atomically(link, "text")
    assert raised.value.filename == str(link)
    assert link.is_symlink() and link.is_char_device() and full.is_char_device()


def test_a_full_disk_is_one_line_with_the_name(tmp_path: Path, full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = tmp_path / "full"
    link.symlink_to(full)
    assert main(["list", "policies", "--json", str(link)]) == 1
    assert capsys.readouterr().err == f"kvmgym list: {link}: No space left on device\n"
    assert link.is_char_device()


@pytest.mark.parametrize(
    "name, why", [("", "Is a directory"), ("file/below", "Not a directory"), ("x" * 300, "too long")]
)
def test_what_cannot_be_written_is_named(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=why) as raised:
        write_atomically(tmp_path / name, "text")
    assert raised.value.filename == str(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "name, allowed",
    [("", "a file, not a folder"), ("file/below/it", "in a folder, but"), ("dir", "a file, not a folder")],
)
def test_an_impossible_file_is_said_before_any_work(
    name: str, allowed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dir").mkdir()
    path = tmp_path / name
    assert main(["compare", *QUICK, "--out", str(tmp_path / "out"), "--json", str(path)]) == 2
    assert main(["validate", "V4", "--quick", "--markdown", str(path)]) == 2
    out, err = capsys.readouterr()
    compared, validated = err.splitlines()
    assert compared.startswith("kvmgym compare: --json = ") and validated.startswith("kvmgym validate: --markdown = ")
    assert out == "" and compared.count(f": must be {allowed}") == validated.count(f": must be {allowed}") == 1
    assert not (tmp_path / "out").exists() and err.count("\n") == 2


def test_a_new_file_in_new_folders_has_a_chance(tmp_path: Path) -> None:
    for name in (tmp_path / "file", tmp_path / "new" / "folder" / "file", "/dev/stdout", "-"):
        check_output(str(name))
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_a_circle_is_named(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to(tmp_path / "other")
    (tmp_path / "other").symlink_to(tmp_path / "one")
    with pytest.raises(OSError, match="symbolic links"):
        write_atomically(tmp_path / "one", "text")


# --- standard output ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_json_on_standard_output_is_all_there_is(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "policies", "--json", name]) == 0
    out, err = capfd.readouterr()
    heading, found = lists.rows("policies")
    assert from_json(out) == {"policies": [dict(zip(heading, row, strict=True)) for row in found]}
    assert "clairvoyant" in err and "wrote" not in err


def test_json_of_a_comparison_on_standard_output(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *QUICK, "--out", str(tmp_path), "--json", "-"]) == 0
    out, err = capfd.readouterr()
    assert from_json(out) == read_json(tmp_path / "summary.json")
    assert "runs in" in err


def test_standard_output_that_goes_to_a_file_is_not_replaced(tmp_path: Path) -> None:
    """What was written before stays, and what comes after follows."""
    code = "import sys; from kvmgym.files import write_atomically, write_output; print('before'); "
    code += (
        "write_atomically('/dev/stdout', 'a\\n'); write_output('-', 'é\\n'); write_atomically(sys.argv[1], 'b\\n'); "
    )
    code += "print('after')"
    path = tmp_path / "out"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    with open(path, "wb") as file:
        subprocess.run([sys.executable, "-c", code, path], stdout=file, env=environment, check=True)
    assert path.read_text(encoding="utf-8") == "before\na\né\nb\nafter\n"


def test_markdown_and_json_cannot_both_have_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "V4", "--json", "-", "--markdown", "-"]) == 2
    assert "--markdown = '-': must be a file when --json is standard output" in capsys.readouterr().err


def test_standard_output_may_be_any_stream_or_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with redirect_stdout(io.StringIO()) as stream:
        write_output("-", "text \u00e9")
    assert stream.getvalue() == "text \u00e9"
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OSError, match="Bad file descriptor.*standard output"):
        write_output("-", "text")


def test_names_of_standard_output(tmp_path: Path) -> None:
    (tmp_path / "-").write_text("")
    assert is_stdout("-") and is_stdout("/dev/stdout")
    assert not any(map(is_stdout, (tmp_path / "-", tmp_path / "new", "/dev/stderr/x", "")))


def test_a_file_that_is_named_as_an_option_names_it(tmp_path: Path) -> None:
    write_output(str(tmp_path / "file"), "text")
    assert (tmp_path / "file").read_text() == "text"


# --- lines ----------------------------------------------------------------------------------------------------------


def test_a_line_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    """The limit of a file's size stands for a full disk: the write is cut, then refused."""
    path = tmp_path / "lines"
    append_line(path, "whole")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            append_line(path, "x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert raised.value.filename == str(path)
    assert path.read_text() == "whole\n"
    append_line(path, "next")
    assert path.read_text() == "whole\nnext\n"


def test_a_torn_line_stays_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text('{"a": 1}\n{"a"')
    append_line(path, '{"a": 2}')
    assert path.read_text() == '{"a": 1}\n{"a"\n{"a": 2}\n'


def test_a_lock_is_waited_for_and_no_lock_stops_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, added = tmp_path / "lines", threading.Event()
    path.touch()

    def add() -> None:
        append_line(path, "line")
        added.set()

    with open(path, "rb") as file, locked(file.fileno()):
        other = threading.Thread(target=add)
        other.start()
        assert not added.wait(0.1) and path.read_bytes() == b""
    other.join()
    assert path.read_text() == "line\n"
    monkeypatch.setattr(files, "LOCK_WAIT_S", 0.0)
    with open(path, "rb") as file, locked(file.fileno()):
        append_line(path, "more")
    assert path.read_text() == "line\nmore\n"


# --- everything is read back ----------------------------------------------------------------------------------------


def test_json_has_no_nan() -> None:
    data = {"a": [1.5, math.nan, (math.inf, -math.inf)], "b": {"c": math.nan}, "d": "NaN", "e": None, "f": 2**70}
    plain = {"a": [1.5, None, [None, None]], "b": {"c": None}, "d": "NaN", "e": None, "f": 2**70}
    assert from_json(to_json(data)) == plain and from_json(to_json(data, indent=1).encode()) == plain
    for text in ("NaN", "[Infinity]", '{"a": -Infinity}'):
        with pytest.raises(ValueError, match="which is no JSON"):
            from_json(text)


def test_json_is_made_and_read_in_one_place() -> None:
    """Elsewhere a NaN could get in, or a file that is nested too deep could end in a traceback."""
    found = []
    for folder in (PACKAGE, PACKAGE.parent / "agents", PACKAGE.parent / "experiments"):
        for source in folder.rglob("*.py"):
            calls = re.findall(r"json\.(?:dump|load)s?\(.*", source.read_text(encoding="utf-8"))
            found += [source.name for call in calls if "allow_nan=False" not in call and "parse_constant" not in call]
    assert found == ["toml.py"]  # texts alone


@pytest.mark.parametrize(
    "content, why", [(b"{", "not JSON"), (b"\xff", "not UTF-8"), (b"[" * 10**5, "nested too deep")]
)
def test_a_file_that_is_no_json_is_named(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: {why}"):
        read_json(path)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_each_named_scenario_comes_back_from_its_file(scenario: Scenario, tmp_path: Path) -> None:
    for known in ({}, WORKLOADS):
        path = tmp_path / "scenario.toml"
        write_atomically(path, scenario.to_toml(known.values()))
        assert Scenario.from_toml(path, known) == scenario


def test_a_comparison_says_what_made_it_and_comes_back(tmp_path: Path) -> None:
    arguments = ["compare", *QUICK, "--out", str(tmp_path), "--json", str(tmp_path / "copy of.json")]
    assert main(arguments) == 0
    data = read_json(tmp_path / "summary.json")
    assert data == read_json(tmp_path / "copy of.json")
    made = data["made_by"]
    assert made["kvmgym"] and re.fullmatch("[0-9a-f]{64}", made["sources"])
    assert made["command"] == f"kvmgym {' '.join(arguments[:-1])} '{arguments[-1]}'"
    assert set(made["machine"]) == {"cpu", "cpus", "system", "python"} and made["machine"]["cpus"] == os.cpu_count()
    assert set(made["versions"]) == {"numpy", "numba", "gymnasium"} and all(made["versions"].values())
    (text,) = made["scenarios"].values()
    assert Scenario.from_toml_text(text) == BY_NAME["hotlock-small"]
    store = Store(tmp_path)
    store.open()
    assert len(store.found) == 4 and not store.bad


def test_a_comparison_says_which_lines_it_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs.jsonl").write_bytes(b'{"ops_per_s": NaN}\n\xff\n' + b"[" * 10**5)
    assert main(["compare", *QUICK, "--out", str(tmp_path)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert "3 lines are no finished run and left out; line 1: holds NaN" in line
    assert "line 2: not UTF-8; line 3: nested too deep" in line


def test_figures_of_a_benchmark_come_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also what could not be measured, which is no number."""
    monkeypatch.setattr(bench, "_speed_figures", lambda repeats: [Figure("speed", 1.5, "M/s", ">= 1", True)])
    for name in ("_scaling_figure", "_threads_figure", "_memory_figures"):
        monkeypatch.setattr(bench, name, lambda repeats: [])
    monkeypatch.setattr(bench, "_start_figures", lambda repeats, first_compile: [])
    monkeypatch.setattr(bench_env, "parts", lambda repeats: [("training", bench_env._training_figure)])
    monkeypatch.setitem(sys.modules, "simpy", None)
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    assert main(["bench", "--repeats", "1", "--json", str(tmp_path / "bench.json")]) == 0
    found = [Figure(**figure) for figure in read_json(tmp_path / "bench.json")["figures"]]
    assert [(figure.name.split()[0], figure.value) for figure in found] == [
        ("speed", 1.5),
        ("M/M/1", None),
        ("environment's", None),
    ]


def test_outcomes_of_checks_come_back() -> None:
    made = (rows.exact("count", 3, 3), rows.statistical("one world", 1.0, rows.ratio([(2, 1)]), 0.1))
    data = to_dict([Outcome(Check("V0", "title", "expected", lambda lab: []), made, False, 1.25)])
    back = from_json(to_json(data))["checks"][0]["rows"]
    plain = [{field.name: row[field.name] for field in fields(rows.Row)} for row in back]
    assert rows.Row(**plain[0]) == made[0]
    assert math.isinf(made[1].half_width or 0) and plain[1]["half_width"] is None and plain[1]["measured"] == 2.0


def test_lists_come_back(tmp_path: Path) -> None:
    assert main(["list", "--json", str(tmp_path / "list.json")]) == 0
    data = read_json(tmp_path / "list.json")
    for kind in lists.KINDS:
        heading, found = lists.rows(kind)
        assert [tuple(row[name] for name in heading) for row in data[kind]] == found


def test_weights_come_back(tmp_path: Path) -> None:
    save_weights(tmp_path / "weights.json", DEFAULT_WEIGHTS)
    found = load_weights(tmp_path / "weights.json")
    assert {name: value for name, value in found.items() if value} == {k: v for k, v in DEFAULT_WEIGHTS.items() if v}
    (tmp_path / "weights.json").write_text("[" * 10**5)
    with pytest.raises(ValueError, match=r"weights\.json: nested too deep"):
        load_weights(tmp_path / "weights.json")


def test_settings_of_an_agent_come_back(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from kvmgym_agents.ppo import storage
    from kvmgym_agents.ppo.network import NetworkSettings

    made = storage.Settings(NetworkSettings(), {"minutes": 1.5, "scenario": "a.toml,dedup-small"})
    storage.write_settings(tmp_path, made)
    assert storage.read_settings(tmp_path) == made
    assert json.loads((tmp_path / storage.SETTINGS).read_text())["training"] == made.training
