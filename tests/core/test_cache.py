"""The cache of compiled code: what is kept and removed where, who may be read, and what is said meanwhile.

Most tests compile functions of a few lines in processes of their own; none compiles the engine.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from rich.console import Console

from kvmgym.core import cachedir, jit, notes
from kvmgym.measure import warmup

DIGESTS = [f"{number:016x}" for number in range(10)]
DAYS = 86_400
compiles = pytest.mark.skipif(jit.disabled(), reason="nothing is compiled under NUMBA_DISABLE_JIT=1")

TINY = """
from kvmgym.core.jit import jit

@jit
def twice(x):
    return 2 * x
"""
WORLD = """
import numpy as np
from kvmgym.core.jit import jit
from kvmgym.core.memory import carve
from kvmgym.scenarios import BY_NAME
from kvmgym.world.blueprint import Blueprint

@jit
def pcpus(w):
    return w.par[0].pcpus

@jit
def pcpus_row(state, static):
    return pcpus(carve(state, static))

@jit
def more_row(state, static):
    return pcpus(carve(state, static)) + 100

blueprint = Blueprint(BY_NAME["dedup-small"])
rows = blueprint.state.copy(), blueprint.static
"""


def python(folder: Path, script: str, **variables: str | None) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, in `folder`. A variable that is None is not set."""
    environment = {**os.environ, "KVMGYM_CACHE_DIR": str(folder / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("KVMGYM_QUIET", None)
    environment["PYTHONPATH"] = os.pathsep.join(["", *sys.path])
    for name, value in variables.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    return subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def made(folder: Path, age_days: float, marker: bool = True) -> Path:
    """A folder as if it was used so long ago."""
    folder.mkdir(parents=True)
    (folder / "kept.code").write_text("machine code")
    if marker:
        (folder / cachedir.MARKER).write_text("")
    then = time.time() - age_days * DAYS
    for path in (*folder.iterdir(), folder):
        os.utime(path, (then, then))
    return folder


# --- nothing that is not ours is removed ----------------------------------------------------------------------------


def test_importing_leaves_the_folders_beside_it_alone(tmp_path: Path) -> None:
    """KVMGYM_CACHE_DIR may be a folder full of somebody's data."""
    data = [made(tmp_path / "cache" / name, 30 + k, marker=False) for k, name in enumerate("abcdefg")]
    data += [made(tmp_path / "cache" / digest, 40, marker=False) for digest in DIGESTS]
    assert python(tmp_path, "import kvmgym").returncode == 0
    assert all((folder / "kept.code").read_text() == "machine code" for folder in data)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir() if path not in data) == [cachedir.OURS]


def test_only_old_folders_with_marker_and_digest_are_removed(tmp_path: Path) -> None:
    root = tmp_path / cachedir.OURS
    ours = [made(root / digest, 10 - k) for k, digest in enumerate(DIGESTS[:8])]
    foreign = made(root / "0123456789abcdef", 99, marker=False)
    named = made(root / "my results", 99)
    elsewhere = made(tmp_path / "elsewhere", 99)
    (root / DIGESTS[9]).symlink_to(elsewhere)
    now = made(root / DIGESTS[8], 50)
    cachedir.prune(now)
    assert [folder.exists() for folder in ours] == [False] * 4 + [True] * 4  # the four used last stay
    assert all((folder / "kept.code").exists() for folder in (foreign, named, elsewhere, now, root / DIGESTS[9]))


def test_folders_of_a_day_stay_however_many(tmp_path: Path) -> None:
    ours = [made(tmp_path / cachedir.OURS / digest, 0.5) for digest in DIGESTS]
    cachedir.prune(ours[0])
    assert all(folder.exists() for folder in ours)


# --- where code is kept ---------------------------------------------------------------------------------------------


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No folder can be written but the temporary directory, which is returned."""
    (tmp_path / "file").write_text("")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv(cachedir.VARIABLE, str(tmp_path / "file" / "below"))
    monkeypatch.setenv(notes.QUIET, "1")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


def mine(folder: Path) -> Path:
    return folder / f"{cachedir.OURS}-{os.geteuid()}"


def test_the_variable_names_the_folder_above_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cachedir.VARIABLE, str(tmp_path))
    folder, kept = cachedir.choose(DIGESTS[1])
    assert (folder, kept) == (tmp_path / cachedir.OURS / DIGESTS[1], True)
    assert [path.name for path in folder.iterdir()] == [cachedir.MARKER]


def test_the_standard_places_come_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cachedir.VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cachedir.choose(DIGESTS[1]) == (tmp_path / "xdg" / cachedir.OURS / DIGESTS[1], True)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cachedir.choose(DIGESTS[1]) == (tmp_path / ".cache" / cachedir.OURS / DIGESTS[1], True)


def test_the_temporary_folder_is_closed_to_others(nowhere: Path) -> None:
    folder, kept = cachedir.choose(DIGESTS[1])
    assert (folder, kept) == (mine(nowhere) / DIGESTS[1], True)
    assert mine(nowhere).stat().st_mode & 0o777 == 0o700
    assert cachedir.choose(DIGESTS[1])[0] == folder


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o701])
def test_a_temporary_folder_that_is_open_to_others_is_not_read(nowhere: Path, mode: int) -> None:
    planted = made(mine(nowhere) / DIGESTS[1], 0)
    mine(nowhere).chmod(mode)
    folder, kept = cachedir.choose(DIGESTS[1])
    assert kept and mine(nowhere) not in folder.parents
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    assert planted.exists()


def test_a_temporary_folder_that_is_a_link_is_not_read(nowhere: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir(mode=0o700)
    mine(nowhere).symlink_to(tmp_path / "other")
    folder, kept = cachedir.choose(DIGESTS[1])
    assert kept and folder.parent.parent == nowhere and not folder.parent.is_symlink()
    assert not any((tmp_path / "other").iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_temporary_folder_of_somebody_else_is_not_read(nowhere: Path) -> None:
    mine(nowhere).mkdir(mode=0o700)
    os.chown(mine(nowhere), 12345, 12345)
    folder, kept = cachedir.choose(DIGESTS[1])
    assert kept and mine(nowhere) not in folder.parents


def test_a_warm_folder_that_cannot_be_written_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cachedir.VARIABLE, str(tmp_path))
    warm = made(tmp_path / cachedir.OURS / DIGESTS[1], 3)

    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    monkeypatch.setattr(os, "utime", read_only)
    assert cachedir.choose(DIGESTS[1]) == (warm, True)
    cachedir.prune(warm)  # which cannot mark it as used


BARE = """
import os, pathlib, pwd, tempfile
def nobody(*_): raise KeyError("no such user")
def nothing(*_, **__): raise FileNotFoundError("no usable temporary directory")
os.environ.pop("HOME", None)
pwd.getpwuid, tempfile.gettempdir, tempfile.mkdtemp = nobody, nothing, nothing
from kvmgym.core import jit
import kvmgym
from tiny import twice
print(twice(21), jit.KEPT)
"""


@compiles
def test_without_home_and_without_any_folder_it_works(tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(TINY)
    done = python(tmp_path, BARE, KVMGYM_CACHE_DIR=None, XDG_CACHE_HOME=None)
    assert done.stdout == "42 False\n", done.stderr


# --- files ----------------------------------------------------------------------------------------------------------

TWICE = "from tiny import twice; print(twice(21), sum(twice.stats.cache_hits.values()))"


def code_files(folder: Path) -> list[Path]:
    return sorted((folder / "cache").rglob(f"*{cachedir.SUFFIX}"))


@compiles
@pytest.mark.parametrize("damage", ["empty", "half", "a bit", "foreign"])
def test_a_damaged_file_is_dropped_and_compiled_again(tmp_path: Path, damage: str) -> None:
    (tmp_path / "tiny.py").write_text(TINY)
    assert python(tmp_path, TWICE).stdout == "42 0\n"
    (file,) = code_files(tmp_path)
    whole = file.read_bytes()
    turned = whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]
    file.write_bytes(
        {"empty": b"", "half": whole[: len(whole) // 2], "a bit": turned, "foreign": b"cos\nsystem"}[damage]
    )
    again = python(tmp_path, TWICE)
    assert again.stdout == "42 0\n"
    assert again.stderr == f"kvmgym: compiled code in {file.parent} was damaged and is compiled again\n"
    later = python(tmp_path, TWICE)
    assert (later.stdout, later.stderr) == ("42 1\n", "")


@compiles
def test_an_edited_function_is_compiled_anew(tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(TINY)
    assert python(tmp_path, TWICE).stdout == "42 0\n"
    (tmp_path / "tiny.py").write_text(TINY.replace("2 * x", "3 * x"))
    assert python(tmp_path, TWICE).stdout == "63 0\n"


@compiles
def test_a_folder_that_fills_up_keeps_nothing_and_breaks_nothing(tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(TINY)
    full = """
import pathlib
def full(*_): raise OSError(28, "No space left on device")
pathlib.Path.write_bytes = full
"""
    done = python(tmp_path, full + TWICE)
    assert (done.stdout, code_files(tmp_path)) == ("42 0\n", [])


def test_the_digest_covers_subfolders(tmp_path: Path) -> None:
    for name in ("core/engine.py", "core/host/queues.py", "policies/kernel.py", "codes.py", "cli/main.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")

    def digest() -> str:
        return jit.digest(tmp_path, jit.sources(tmp_path, "core", "policies", "codes.py"))

    first = digest()
    (tmp_path / "cli/main.py").write_text("2")
    assert digest() == first
    seen = {first}
    for name in ("core/engine.py", "core/host/queues.py", "policies/kernel.py", "codes.py"):
        (tmp_path / name).write_text("2")
        seen.add(digest())
    (tmp_path / "core/host/queues.py").rename(tmp_path / "core/queues.py")
    seen.add(digest())
    assert len(seen) == 6


# --- functions of a World, and what is said about compiling ---------------------------------------------------------

COMPILING = "kvmgym: compiling the engine, once for this installation, about half a minute …\n"
ONE = "from world import *; print(pcpus_row(*rows), sum(pcpus.stats.cache_hits.values()))"
OTHER = "from world import *; print(more_row(*rows), sum(pcpus.stats.cache_hits.values()))"
LIBRARY = "; print(type(pcpus.overloads[pcpus.signatures[0]].library).__name__)"


@compiles
def test_compiling_says_so_once_and_a_warm_start_nothing(tmp_path: Path) -> None:
    """On stderr. A function of a World has no machine code of its own, and is linked into a later one from its file."""
    (tmp_path / "world.py").write_text(WORLD)
    cold = python(tmp_path, ONE + LIBRARY)
    assert (cold.stdout, cold.stderr) == ("4 0\nInnerLibrary\n", COMPILING)
    warm = python(tmp_path, ONE)
    assert (warm.stdout, warm.stderr) == ("4 0\n", "")
    linked = python(tmp_path, OTHER + LIBRARY)
    assert (linked.stdout, linked.stderr) == ("104 1\nInnerLibrary\n", "")


@compiles
def test_the_line_can_be_switched_off(tmp_path: Path) -> None:
    (tmp_path / "world.py").write_text(WORLD)
    cold = python(tmp_path, ONE, KVMGYM_QUIET="1")
    assert (cold.stdout, cold.stderr) == ("4 0\n", "")


def test_a_listener_hears_of_compiling_instead(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[str] = []
    with notes.told_of_compiling(lambda: heard.append("compiling")):
        notes.compiling(True)
        notes.compiling(True)
    assert heard == ["compiling", "compiling"]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("cold", [True, False])
def test_compile_once_speaks_only_when_it_compiles(cold: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "simulate", lambda *_, **__: notes.compiling(True) if cold else None)
    console = Console(file=io.StringIO(), force_terminal=True)
    warmup.compile_once(console)
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert ("compiling the engine" in written, "compiled the engine in" in written) == (cold, cold)
