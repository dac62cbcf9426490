"""Faults of the machine around a command: it is killed, the disk is full, another one works in the same folder, its
compiled code is damaged. What was done stays, and nothing else than one line is said."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import GUARD_S, SMALL, command, environment, one_line, run

from kvmgym.core.cachedir import SUFFIX

POLICIES = ("--policies", "none,random,legacy")
LONGER = ("compare", "--scenarios", "shootdowns-small", "--duration", "0.05", "--warmup", "0", "--seeds", "40",
          "--threads",
          "1", *POLICIES)  # fmt: skip
MANY = 40 * 3


def begun(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    """A command under way, in a process group of its own."""
    return subprocess.Popen(
        command(*arguments), env=environment(**variables), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def lines_of(file: Path) -> list[bytes]:
    return file.read_bytes().splitlines(keepends=True) if file.exists() else []


def wait_for_rows(job: subprocess.Popen[str], file: Path, rows: int) -> None:
    while len(lines_of(file)) < rows:
        assert job.poll() is None, "it ended before it was disturbed"
        time.sleep(0.005)


def kill(job: subprocess.Popen[str]) -> None:
    os.killpg(job.pid, signal.SIGKILL)
    job.communicate(timeout=GUARD_S)
    assert job.returncode == -signal.SIGKILL


def cells(folder: Path) -> Any:
    return json.loads((folder / "summary.json").read_text())["cells"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of LONGER when nothing happens."""
    folder = tmp_path_factory.mktemp("undisturbed")
    found = run(*LONGER, "--out", str(folder))
    assert found.returncode == 0 and found.stderr == ""
    return folder


# --- killed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, MANY // 2])
def test_a_killed_comparison_goes_on_and_comes_out_the_same(rows: int, tmp_path: Path, undisturbed: Path) -> None:
    file = tmp_path / "runs.jsonl"
    job = begun(*LONGER, "--out", str(tmp_path))
    wait_for_rows(job, file, rows)
    kill(job)
    kept = {json.loads(line)["key"] for line in lines_of(file) if line.endswith(b"\n")}
    assert rows <= len(kept) < MANY and not (tmp_path / "summary.json").exists()
    again = run(*LONGER, "--out", str(tmp_path))
    assert again.returncode == 0
    assert cells(tmp_path) == cells(undisturbed)
    keys = [json.loads(line)["key"] for line in lines_of(file) if line.startswith(b"{") and line.endswith(b"}\n")]
    assert len(keys) == len(set(keys)) == MANY and kept <= set(keys)


@pytest.mark.parametrize("cut", [1, 20, 400])
def test_a_line_that_was_cut_off_costs_its_own_run_only(cut: int, tmp_path: Path, undisturbed: Path) -> None:
    whole = lines_of(undisturbed / "runs.jsonl")
    (tmp_path / "runs.jsonl").write_bytes(b"".join(whole)[:-cut])
    assert run(*LONGER, "--out", str(tmp_path)).returncode == 0
    assert cells(tmp_path) == cells(undisturbed)
    third = run(*LONGER, "--out", str(tmp_path))
    assert third.returncode == 0 and cells(tmp_path) == cells(undisturbed)
    found = lines_of(tmp_path / "runs.jsonl")
    assert MANY <= len(found) <= MANY + 1, "the third time there was nothing left to run"


# --- a full disk ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_under_the_results_loses_no_table(small_disk: Path, undisturbed: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(48 << 10))
    found = run(*LONGER, "--out", str(small_disk / "out"))
    assert found.returncode == 1 and "Traceback" not in found.stderr + found.stdout
    assert "No space left on device" in " ".join((found.stderr + found.stdout).split())
    assert "gain in" in found.stdout and re.search(r"[+-]\d+\.\d ± \d+\.\d", found.stdout)
    (small_disk / "ballast").unlink()
    shutil.move(small_disk / "out" / "runs.jsonl", undisturbed / "of-the-disk.jsonl")
    elsewhere = undisturbed / "elsewhere"
    elsewhere.mkdir()
    (undisturbed / "of-the-disk.jsonl").rename(elsewhere / "runs.jsonl")
    assert run(*LONGER, "--out", str(elsewhere)).returncode == 0
    assert cells(elsewhere) == cells(undisturbed)


def test_a_full_disk_under_a_json_file_is_one_line(tmp_path: Path) -> None:
    device = tmp_path / "full"  # as /dev/full, which a fault would replace for everybody
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.stat("/dev/full").st_rdev)
        os.close(os.open(device, os.O_WRONLY))
    except OSError as error:
        pytest.skip(f"no device can be made here: {error}")
    found = run(*SMALL, "--policies", "none", "--out", str(tmp_path / "out"), "--json", str(device))
    assert found.returncode == 1 and one_line(found.stderr) and "No space left on device" in found.stderr
    assert device.is_char_device()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    for out in ("/proc/kvmgym/out", "/dev/null/out"):
        found = run(*SMALL, "--out", out)
        assert found.returncode in (1, 2) and one_line(found.stderr) and out.removesuffix("/out") in found.stderr


# --- two in one folder ------------------------------------------------------------------------------------------------


def test_two_comparisons_in_one_folder_share_the_work(tmp_path: Path, undisturbed: Path) -> None:
    jobs = [begun(*LONGER, "--out", str(tmp_path)) for _ in range(2)]
    for job in jobs:
        out, err = job.communicate(timeout=GUARD_S)
        assert job.returncode == 0 and "Traceback" not in out + err
    assert cells(tmp_path) == cells(undisturbed)
    rows = [json.loads(line)["key"] for line in lines_of(tmp_path / "runs.jsonl")]
    assert set(rows) >= {json.loads(line)["key"] for line in lines_of(undisturbed / "runs.jsonl")}
    assert len(rows) <= MANY + 4, "hardly a run was made twice"


def test_one_of_two_in_a_folder_is_killed_and_the_other_ends_whole(tmp_path: Path, undisturbed: Path) -> None:
    first, second = (begun(*LONGER, "--out", str(tmp_path)) for _ in range(2))
    wait_for_rows(first, tmp_path / "runs.jsonl", 10)
    kill(first)
    out, err = second.communicate(timeout=GUARD_S)
    assert second.returncode == 0 and "Traceback" not in out + err
    assert cells(tmp_path) == cells(undisturbed)


# --- compiled code ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_damaged_cache_of_compiled_code_is_made_again(tmp_path: Path) -> None:
    """The files are cut off and overwritten; the command says so in a line a folder, compiles again, and goes on."""
    cache, out = tmp_path / "cache", tmp_path / "out"
    arguments = (*SMALL, "--policies", "none", "--out", str(out))
    assert run(*arguments, KVMGYM_CACHE_DIR=str(cache)).returncode == 0
    files = sorted(cache.rglob(f"*{SUFFIX}"))
    assert len(files) > 4
    for place, file in enumerate(files):
        content = file.read_bytes()
        file.write_bytes((b"", content[: len(content) // 2], b"\x00" * len(content))[place % 3])
    before = cells(out)
    shutil.rmtree(out)
    found = run(*arguments, KVMGYM_CACHE_DIR=str(cache))
    assert found.returncode == 0 and "Traceback" not in found.stderr + found.stdout
    said = [line for line in found.stderr.splitlines() if "was damaged" in line]
    assert len(said) == len({file.parent for file in files})
    assert all(any(str(file.parent) in line for line in said) for file in files)
    assert cells(out) == before


def test_a_cache_folder_that_holds_other_things_keeps_them(tmp_path: Path) -> None:
    for name in ("photos", "0123456789abcdef", "a", "b", "c", "d", "e"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
        os.utime(tmp_path / name, (0, 0))
    found = run("list", "policies", KVMGYM_CACHE_DIR=str(tmp_path))
    assert found.returncode == 0 and found.stderr == ""
    for name in ("photos", "0123456789abcdef", "a", "b", "c", "d", "e"):
        assert (tmp_path / name / "file").read_text() == name


def test_no_home_and_nothing_writable_is_no_fault(tmp_path: Path) -> None:
    found = run("list", "policies", HOME="/nonexistent", XDG_CACHE_HOME="/proc/kvmgym", KVMGYM_CACHE_DIR="")
    assert found.returncode == 0 and "Traceback" not in found.stderr and "legacy" in found.stdout


# --- fork -------------------------------------------------------------------------------------------------------------

FORKED = """
import os, sys
import kvmgym
env = kvmgym.DirectedYieldVectorEnv(4, "shootdowns-small", threads=2, duration_ns=2_000_000)
env.reset(seed=0)
env.step([0, 0, 0, 0])
child = os.fork()
if child == 0:
    rewards = [env.step([0, 0, 0, 0])[1].tolist() for _ in range(20)]
    env.close()
    os._exit(0 if rewards else 3)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_a_batch_with_threads_goes_on_in_a_forked_child() -> None:
    words = [command()[0], "-c", FORKED]
    job = subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        _, err = job.communicate(timeout=GUARD_S / 4)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        job.communicate()
        pytest.fail("the child hangs")
    assert job.returncode == 0, err
