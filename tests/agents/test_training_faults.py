"""Training runs that are stopped at a bad moment, and folders that hold half a run: nothing finished is lost, and one
command goes on."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sb3_contrib")
pytest.importorskip("safetensors")

from kvmgym_agents.ppo import evaluations, loop, storage  # noqa: E402
from kvmgym_agents.ppo.network import CandidateNetwork, NetworkSettings  # noqa: E402
from kvmgym_agents.ppo.training import CHECKPOINT, EVALUATIONS, SETTINGS, WEIGHTS, Training  # noqa: E402
from networks import network  # noqa: E402

from kvmgym.cli import main  # noqa: E402
from kvmgym.measure.agents import load  # noqa: E402

TINY = ("--scenario", "dedup-small", "--envs", "4", "--steps", "8", "--batch", "16", "--evaluation-seeds", "2",
        "--episode-ms", "5")  # fmt: skip


def train(folder: Path, *options: str) -> int:
    return main.main(["train", "--out", str(folder), *options])


def steps_of(folder: Path) -> int:
    return int(storage.read_tensors(folder / CHECKPOINT)[1]["steps"])


# --- kill -9 ----------------------------------------------------------------------------------------------------------


def killed(folder: Path, when: Callable[[], bool], *options: str) -> None:
    """Start a training that would go on for long, and kill it without warning when `when` says so."""
    command = [sys.executable, "-m", "kvmgym", "train", "--out", str(folder), *TINY, "--minutes", "600", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        while not when():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)
    finally:
        process.kill()
        _, error = process.communicate()
    assert process.returncode == -signal.SIGKILL, error


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_begins_again_or_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    killed(first, (first / SETTINGS).exists, "--every-s", "100000")
    assert not (first / CHECKPOINT).exists()
    shutil.copytree(first, second)
    assert train(first, *TINY, "--decisions", "40") == 0  # the same command, shorter
    assert "begins again" not in capsys.readouterr().out
    assert train(second, "--resume", "--decisions", "40") == 0
    assert f"no checkpoint in {second} yet: begins again, with its settings" in capsys.readouterr().out
    assert steps_of(first) == steps_of(second) >= 40
    assert storage.read_settings(second).training["every_s"] == 100_000
    assert load(first).name == "first"


@pytest.mark.slow
def test_a_run_killed_later_keeps_its_checkpoint_and_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def evaluated() -> bool:
        file = folder / EVALUATIONS
        return file.exists() and file.read_bytes().count(b"\n") >= 2

    killed(folder, evaluated, "--every-s", "0.05")
    rows, _ = evaluations.read(folder / EVALUATIONS)
    before = steps_of(folder)
    assert before >= rows[-1]["steps"] > rows[0]["steps"] > 0
    assert load(folder).name == "run"
    assert train(folder, "--resume", "--decisions", str(before + 40)) == 0
    assert steps_of(folder) >= before + 40
    after, damaged = evaluations.read(folder / EVALUATIONS)
    assert after[: len(rows)] == rows and damaged <= 1 and after[-1]["steps"] == steps_of(folder)


# --- half a run -------------------------------------------------------------------------------------------------------


def settings_only(folder: Path, **training: Any) -> None:
    settings = Training(envs=4, steps=8, batch=16, evaluation_seeds=2, episode_ms=5.0, decisions=40, **training)
    storage.write_settings(folder, storage.Settings(NetworkSettings(), vars(settings)))


def test_a_crash_between_the_two_files_of_a_checkpoint_leaves_one_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*what: Any) -> None:
        raise OSError(28, "No space left on device", "disk")

    with monkeypatch.context() as patched:
        patched.setattr(loop, "save_weights", full)
        assert train(tmp_path / "run", *TINY, "--decisions", "40") == 1
    assert (tmp_path / "run" / CHECKPOINT).exists() and not (tmp_path / "run" / WEIGHTS).exists()
    before = steps_of(tmp_path / "run")
    assert train(tmp_path / "run", "--resume", "--decisions", str(before + 8)) == 0
    assert (tmp_path / "run" / WEIGHTS).exists() and steps_of(tmp_path / "run") > before


@pytest.mark.parametrize(
    "prepare, options, message",
    [
        (lambda folder: None, ("--resume",), "no checkpoint to go on from; leave --resume out to begin"),
        (settings_only, ("--resume", "--seed", "5"), "--seed 5: {folder} was begun with 0"),
        (lambda folder: settings_only(folder) or (folder / WEIGHTS).touch(), (), "holds weights but no checkpoint"),
        (lambda folder: settings_only(folder) or (folder / WEIGHTS).touch(), ("--resume",), "holds weights but no"),
        (lambda folder: settings_only(folder) or (folder / CHECKPOINT).touch(), (), "holds a run: go on with --resume"),
        (lambda folder: settings_only(folder) or (folder / CHECKPOINT).touch(), ("--resume",), "damaged or cut off"),
        (lambda folder: (folder / SETTINGS).write_text('{"kind": "dqn"}'), (), "settings.json: kind is 'dqn'"),
        (lambda folder: (folder / SETTINGS).write_text("{"), (), "settings.json: no JSON"),
    ],
    ids=["none", "other seed", "no checkpoint", "resume it", "whole", "cut off", "other kind", "torn"],
)
def test_what_is_in_the_way_is_told_and_left_alone(
    tmp_path: Path,
    prepare: Callable[[Path], Any],
    options: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prepare(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert train(tmp_path, *options) == 2
    error = capsys.readouterr().err
    assert message.format(folder=tmp_path) in error and len(error.splitlines()) == 1
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "training, message",
    [
        ({"hiden": 64}, "training: .*hiden"),
        ({"hidden": 10**9}, r"training: Training.hidden = 1000000000: must be 1 to 1000"),
        ({"minutes": float("inf")}, "training: Training.minutes = None"),  # JSON has no infinity
        ({"minutes": 1e7}, "training: Training.minutes = 10000000.0"),
    ],
)
def test_settings_that_cannot_be_gone_on_with_name_the_file(
    tmp_path: Path, training: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    storage.write_settings(tmp_path, storage.Settings(NetworkSettings(), training))
    assert train(tmp_path, "--resume") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"kvmgym train: {tmp_path / SETTINGS}: ") and len(error.splitlines()) == 1
    assert re.search(message, error)


def test_a_network_larger_than_its_weights_is_refused_before_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = network()
    storage.write_settings(tmp_path, storage.Settings(NetworkSettings(hidden=4096), {}))
    storage.save_weights(tmp_path, made, {"steps": 1})
    with monkeypatch.context() as patched:
        patched.setattr(torch.nn.init, "orthogonal_", _only_without_numbers)
        with pytest.raises(
            ValueError, match=r"embed\.0\.weight is torch\.float32 \[8, 34\]; the settings say \[4096, 34\]"
        ):
            storage.load_network(tmp_path)


def _only_without_numbers(tensor: Any, gain: float = 1.0) -> Any:
    assert tensor.is_meta, "a network of the refused size was made"
    return tensor


def test_loading_leaves_the_random_numbers_of_torch_alone(tmp_path: Path) -> None:
    storage.write_settings(tmp_path, storage.Settings(NetworkSettings(hidden=8), {}))
    storage.save_weights(tmp_path, network(), {"steps": 1})
    torch.manual_seed(4)
    before = torch.get_rng_state()
    found, _ = storage.load_network(tmp_path)
    assert isinstance(found, CandidateNetwork) and torch.equal(torch.get_rng_state(), before)


# --- evaluations.jsonl ------------------------------------------------------------------------------------------------


def test_a_torn_line_swallows_no_other(tmp_path: Path) -> None:
    file = tmp_path / EVALUATIONS
    evaluations.append(file, {"steps": 1})
    file.write_bytes(file.read_bytes() + b'{"steps": 2, "gain')
    evaluations.append(file, {"steps": 3})
    assert evaluations.read(file) == ([{"steps": 1}, {"steps": 3}], 1)
    assert [line for line in file.read_text().split("\n") if line.endswith("}")] == ['{"steps": 1}', '{"steps": 3}']


@pytest.mark.parametrize("line", [b"\xff\xfe", b"[" * 100_000, b"[1]", b"null", b"{"])
def test_damaged_lines_are_counted_and_left_out(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / EVALUATIONS
    file.write_bytes(b'{"steps": 1}\n' + line + b'\n\n{"steps": 2}\n')
    assert evaluations.read(file) == ([{"steps": 1}, {"steps": 2}], 1)


def test_an_evaluation_line_has_no_nan(tmp_path: Path) -> None:
    file = tmp_path / EVALUATIONS
    evaluations.append(
        file, {"steps": 1, "gain_over_legacy": {"a": {"mean": float("nan"), "half_width": float("inf")}}}
    )
    assert file.read_text() == '{"steps": 1, "gain_over_legacy": {"a": {"mean": null, "half_width": null}}}\n'
