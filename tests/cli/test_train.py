"""`kvmgym train` and `kvmgym evaluate`: from any folder, any installed kind of agent, hints that work as printed."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kinds import BARE, COUNTED, install

from kvmgym.cli import main
from kvmgym.measure import agents
from kvmgym.scenarios import BY_NAME

TINY = ("--envs", "4", "--steps", "8", "--batch", "16", "--evaluation-seeds", "2", "--episode-ms", "5")
QUICK = ("--seeds", "2", "--duration", "0.006", "--warmup", "0.002")


def needs_torch() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("sb3_contrib")
    pytest.importorskip("safetensors")


def kvmgym(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kvmgym", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    return error


# --- the agent of kvmgym_agents ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_train_and_evaluate_from_another_folder_with_an_agents_folder_in_it(tmp_path: Path) -> None:
    """A folder agents/ of the user's own shadows nothing, and is shadowed by nothing."""
    needs_torch()
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "__init__.py").write_text("raise RuntimeError('the user's own')")
    done = kvmgym(tmp_path, "train", "--decisions", "40", "--out", "runs/x", *TINY, "--json", "told.json")
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["folder"] == "runs/x" and told["decisions"] >= 40
    hint = "kvmgym compare --agent runs/x --scenarios dedup-small,dbench-small,vips-small"
    assert done.stdout.splitlines()[-2] == f"trained in runs/x: {hint}"
    done = kvmgym(tmp_path, "evaluate", "--agent", "runs/x", *QUICK)
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "results" / "evaluate" / "summary.json").read_text())
    assert [(cell["scenario"], cell["policy"]) for cell in data["cells"]] == [
        (scenario, policy) for scenario in ("dedup-small", "dbench-small", "vips-small") for policy in ("legacy", "x")
    ]


def test_the_closing_hint_works_as_it_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scenario of one's own in TOML, spaces and brackets in names: one line that a shell takes."""
    needs_torch()
    monkeypatch.chdir(tmp_path)
    text = BY_NAME["dedup-small"].to_toml().replace('"dedup-small"', '"mine"')
    Path("my own host.toml").write_text(text)
    out = "runs of a name that is long enough for a line to be broken/[a] b"
    arguments = ["train", "--scenario", "my own host.toml, vips-small", "--out", out, "--decisions", "40", *TINY]
    assert main.main(arguments) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("trained in ")]
    told, _, hint = line.partition(": ")
    assert told == f"trained in {out}"
    words = shlex.split(hint)
    assert words[:4] == ["kvmgym", "compare", "--agent", out]
    assert main.main([*words[1:], *QUICK, "--policies", "none", "--json", "found.json"]) == 0
    cells = json.loads(Path("found.json").read_text())["cells"]
    assert {cell["scenario"] for cell in cells} == {"mine", "vips-small"}
    assert {cell["policy"] for cell in cells} == {"none", "legacy", "[a] b"}


def test_evaluate_takes_files_alone_and_policies_beside(
    tmp_path: Path, made_up: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(BY_NAME["dedup-small"].to_toml().replace('"dedup-small"', '"mine"'))
    arguments = ["evaluate", "--agent", str(made_up), "--scenario", str(file), *QUICK, "--out", str(tmp_path / "out")]
    assert main.main([*arguments, "--policies", "none", "--baseline", "relaxed"]) == 0
    cells = json.loads((tmp_path / "out" / "summary.json").read_text())["cells"]
    assert [(cell["scenario"], cell["policy"]) for cell in cells] == [
        ("mine", name) for name in ("none", "relaxed", "my-agent")
    ]
    assert "my-agent" in capsys.readouterr().out
    assert main.main(["evaluate", *QUICK]) == 2
    assert "--agent" in capsys.readouterr().err


def test_the_defaults_of_evaluate_are_not_those_of_compare() -> None:
    """Both are made from one list of options, which neither may change for the other."""
    parser = main.parser()
    compared = parser.parse_args(["compare"])
    evaluated = parser.parse_args(["evaluate", "--agent", "a", "--agent", "b"])
    assert (compared.out, compared.scenarios, compared.agent) == ("results/compare", None, [])
    assert (evaluated.out, evaluated.scenarios, evaluated.agent) == ("results/evaluate", None, ["a", "b"])
    assert compared.policies and not evaluated.policies


def test_without_torch_one_line_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from kvmgym.cli.main import main; sys.exit(main(sys.argv[1:]))"
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "settings.json").write_text('{"kind": "maskable-ppo"}')
    for arguments, where in (
        (("train", "--out", "runs/x"), "kvmgym train: --kind maskable-ppo"),
        (("evaluate", "--agent", "x"), "kvmgym evaluate: x"),
        (("compare", "--agent", "x"), "kvmgym compare: x"),
    ):
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        wanted = f"{where}: needs torch, which is not installed: pip install 'kvmgym[train]'\n"
        assert (done.returncode, done.stderr) == (2, wanted)
    command = [sys.executable, "-c", code, "train", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--learning-rate" in done.stdout
    assert not (tmp_path / "runs").exists()


# --- kinds of other packages ------------------------------------------------------------------------------------------


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two kinds of another package, and the folder of an agent."""
    modules = {"counted_agents": COUNTED, "bare_agents": BARE}
    points = {"counted": "counted_agents", "bare": "bare_agents", "gone": "no_such_module", "odd": "json"}
    install(tmp_path / "site", monkeypatch, modules, points)
    folder = tmp_path / "my-agent"
    folder.mkdir()
    (folder / "settings.json").write_text('{"kind": "counted"}')
    yield folder
    for name in modules:
        sys.modules.pop(name, None)


def test_another_package_adds_a_kind_with_options_of_its_own(
    made_up: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", str(tmp_path / "run"))
    assert main.main(["train", "--kind", "bare", "--help"]) == 0
    text = capsys.readouterr().out
    assert "options of bare" in text and "--laps" in text and "--learning-rate" not in text
    assert main.main(["train", "--kind=bare", "--laps", "0", *out]) == 2
    assert one_line(capsys) == "kvmgym train: --laps 0: must be 1 or more\n"
    assert main.main(["train", "--kind", "bare", *out]) == 2
    wanted = "--kind bare: needs no_such_torch, which is not installed: pip install 'kvmgym[train]'"
    assert one_line(capsys) == f"kvmgym train: {wanted}\n"


def test_list_shows_the_installed_kinds(made_up: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["list", "agents"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["counted", "made-up", "1.0", "counted_agents"] in rows and [
        "gone",
        "made-up",
        "1.0",
        "no_such_module",
    ] in rows
    assert "counted_agents" not in sys.modules


@pytest.mark.parametrize(
    "kind, message",
    [
        ("bear", '--kind: unknown kind of agent "bear": did you mean "bare"? allowed: bare, counted, gone, '),
        ("counted", "--kind = 'counted': must be a kind that can be trained"),
        ("gone", "--kind: the agents of made-up cannot be imported: No module named 'no_such_module'"),
        ("odd", "--kind: json of made-up is no kind of agent: it lacks needs, files, packages"),
    ],
)
def test_a_kind_that_cannot_be_trained_is_one_line(
    made_up: Path, tmp_path: Path, kind: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["train", "--kind", kind, "--out", str(tmp_path / "run")]) == 2
    assert one_line(capsys).startswith(f"kvmgym train: {message}")


@pytest.mark.parametrize(
    "out, message",
    [
        ("", "--out = '': must be the name of a folder"),
        ("file", "--out = 'file': must be in a folder, but file is none"),
        ("runs/legacy", "--out = 'runs/legacy': must be a folder that is not named as a policy"),
    ],
)
def test_an_impossible_folder_is_one_line(
    tmp_path: Path, out: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert main.main(["train", "--out", out]) == 2
    assert one_line(capsys) == f"kvmgym train: {message}\n"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_what_decides_an_agent_decides_its_digest(made_up: Path, tmp_path: Path) -> None:
    """The files and packages that its kind names, and the sources of the package that acts; nothing else."""
    digests = [agents.digest_of(made_up)]
    (made_up / "weights.safetensors").write_bytes(b"1")
    digests.append(agents.digest_of(made_up))
    source = tmp_path / "site" / "counted_agents.py"
    source.write_text(source.read_text() + "\n# edited\n")
    digests.append(agents.digest_of(made_up))
    about = tmp_path / "site" / "made_up-1.0.dist-info" / "METADATA"
    about.write_text(about.read_text().replace("Version: 1.0", "Version: 1.1"))
    digests.append(agents.digest_of(made_up))
    assert len(set(digests)) == 4
    (made_up / "notes.txt").write_text("of no interest")
    assert agents.digest_of(made_up) == digests[-1]
