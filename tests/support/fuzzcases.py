"""What the process of the fuzz tests runs: one function for each kind of case. Each raises what the product raises."""

from __future__ import annotations

import io
import os
import re
import signal
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from fuzzing import Fault

import kvmgym
from kvmgym import params, scenarios
from kvmgym.cli.main import main
from kvmgym.env.buffers import StaticRows
from kvmgym.policies import POLICIES
from kvmgym.workloads import BY_NAME as WORKLOADS

SHORT_NS = 100_000
SMALL = (
    "--scenarios",
    "shootdowns-small",
    "--policies",
    "none",
    "--duration",
    "0.001",
    "--warmup",
    "0",
    "--seeds",
    "2",
)
_ROOM: dict[str, Path] = {}


def room() -> Path:
    """A folder for the files of cases, which becomes the working folder."""
    if "room" not in _ROOM:
        _ROOM["room"] = Path(tempfile.mkdtemp(prefix="kvmgym-fuzz-"))
    os.chdir(_ROOM["room"])
    return _ROOM["room"]


def warm_up() -> None:
    """Compile what cases use, so that their time is their own."""
    room()
    for policy in POLICIES:
        kvmgym.simulate(scenarios.BY_NAME["shootdowns-small"], policy, duration_ns=SHORT_NS, warmup_ns=0)
    for kind in ("single", "vector"):
        _stepped(_environment(kind), 3)


# --- scenarios --------------------------------------------------------------------------------------------------------


def scenario_text(text: str) -> None:
    """A scenario file's text: read, written, read again, and run for a moment."""
    found = params.Scenario.from_toml_text(text, WORKLOADS, "fuzz.toml")
    again = params.Scenario.from_toml_text(found.to_toml(WORKLOADS.values()), WORKLOADS)
    if again != found:
        raise Fault("comes back changed from its own TOML")
    if found.host.pcpus <= 64 and found.vcpus <= 64:
        kvmgym.simulate(found, "legacy", duration_ns=SHORT_NS, warmup_ns=0)


def scenario_bytes(content: bytes) -> None:
    """A scenario file of any bytes."""
    path = room() / "fuzz.toml"
    path.write_bytes(content)
    params.Scenario.from_toml(path, WORKLOADS)


# --- Python -----------------------------------------------------------------------------------------------------------


def make(case: tuple[str, dict[str, Any]]) -> None:
    """An object of kvmgym.params, a distribution or a scenario, from keyword arguments."""
    name, given = case
    where: Any = params.Dist if name.startswith("Dist.") else scenarios if hasattr(scenarios, name) else params
    made = getattr(where, name.removeprefix("Dist."))(**given)
    hash(made), repr(made)


def call(case: tuple[str, dict[str, Any]]) -> None:
    """simulate or simulate_batch."""
    name, given = case
    getattr(kvmgym, name)(**given)


def environment(case: tuple[str, dict[str, Any], dict[str, Any], Any]) -> None:
    """An environment from keyword arguments, its reset, a step."""
    kind, given, reset, action = case
    env = {"single": kvmgym.DirectedYieldEnv, "vector": kvmgym.DirectedYieldVectorEnv}[kind](**given)
    try:
        env.reset(**reset)
        env.step(action)
        env.render()
    finally:
        env.close()


def _environment(kind: str, **more: Any) -> Any:
    name = more.pop("scenario", "shootdowns-small")
    if kind == "single":
        return kvmgym.DirectedYieldEnv(name, **more)
    return kvmgym.DirectedYieldVectorEnv(3, name, autoreset_mode="same_step", **more)


def _stepped(env: Any, steps: int) -> None:
    env.reset(seed=7)
    _go_on(env, steps)


def _go_on(env: Any, steps: int) -> None:
    rng = np.random.default_rng(steps)
    for _ in range(steps):
        masks = env.action_masks()
        if masks.ndim == 1:
            if env.step(int(rng.choice(np.flatnonzero(masks))))[3]:
                return
        else:
            env.step(np.array([rng.choice(np.flatnonzero(mask)) for mask in masks]))


def snapshot(case: tuple[str, list[tuple[int | str, str, Any]]]) -> None:
    """A snapshot that was changed, restored, and 30 steps from there. A refusal leaves the environment as it was."""
    kind, changes = case
    env = _environment(kind)
    try:
        _stepped(env, 20)
        saved, before = env.snapshot(), env.snapshot()
        for key, how, value in changes:
            _change(saved, key, how, value)
        try:
            env.restore(saved)
        except Exception:
            if not _same(env.snapshot(), before):
                raise Fault("a refused snapshot has changed the environment") from None
            _go_on(env, 5)
            raise
        _go_on(env, 30)
    finally:
        env.close()


def _change(saved: dict[str, Any], key: int | str, how: str, value: Any) -> None:
    names = sorted(saved)
    if not names:
        return
    name = names[key % len(names)] if isinstance(key, int) else key
    item = saved.get(name)
    if how == "drop":
        saved.pop(name, None)
    elif how == "set":
        saved[name] = value
    elif how == "foreign":
        other = _environment("vector", scenario=value)
        other.reset(seed=1)
        saved[name] = other.snapshot().get(name)
        other.close()
    elif isinstance(item, np.ndarray) and how == "cast":
        saved[name] = item.view(np.uint8) if item.dtype.hasobject or value == "bytes" else item.astype(value, copy=True)
    elif isinstance(item, np.ndarray) and how == "shape":
        saved[name] = item.reshape(-1)[: len(item.reshape(-1)) - value]
    elif isinstance(item, np.ndarray) and how == "bytes" and item.nbytes >= 8:
        place, number = value
        raw = item.reshape(-1).view(np.uint8)
        at = place % (raw.size - 7)
        raw[at : at + 8] = np.frombuffer(np.int64(number).tobytes(), np.uint8)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, np.ndarray):
        return bool(one.dtype == other.dtype and one.tobytes() == other.tobytes())
    if isinstance(one, StaticRows):
        return _same(vars(one), vars(other))
    return bool(one == other)


# --- command line and files -------------------------------------------------------------------------------------------


def said(arguments: list[str]) -> tuple[int, str, str]:
    """Status, output and errors of a command, which has to end well or with one line."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main(arguments)
    text = err.getvalue()
    if status not in (0, 1, 2) or "Traceback" in text + out.getvalue():
        raise Fault(f"status {status}: {text[:300]}")
    if status == 2 and (text.count("\n") != 1 or len(text) > 3000):
        raise Fault(f"not one line: {text[:300]!r}")
    return status, out.getvalue(), text


def command(arguments: list[str]) -> None:
    """Any command line; long work is left out, and what is done is done in a folder of its own."""
    room()
    with (
        mock.patch("kvmgym.bench.engine.run", return_value={}),
        mock.patch("kvmgym.validate.run_checks", return_value=[]),
    ):
        said(arguments)


def rows(lines: list[bytes]) -> None:
    """A file of finished runs with other content: the comparison comes out as without it."""
    out = room() / "rows"
    out.mkdir(exist_ok=True)
    file = out / "runs.jsonl"
    arguments = ["compare", *SMALL, "--out", str(out)]
    if "whole" not in _ROOM:
        file.unlink(missing_ok=True)
        said(arguments)
        _ROOM["whole"] = out / "whole.jsonl"
        file.rename(_ROOM["whole"])
        _ROOM["gains"] = out / "gains.json"
        _ROOM["gains"].write_text(_gains(out))
    whole = _ROOM["whole"].read_bytes().splitlines(keepends=True)
    content = [whole[int(line[5:]) % len(whole)] if line.startswith(b"whole") else line for line in lines]
    file.write_bytes(b"".join(content))
    status, _, text = said(arguments)
    if status != 0:
        raise Fault(f"status {status}: {text[:300]}")
    if _gains(out) != _ROOM["gains"].read_text():
        raise Fault("the comparison comes out otherwise")


def _gains(out: Path) -> str:
    """The cells of a summary: all that a table shows."""
    text = (out / "summary.json").read_text()
    return text[text.index('"cells"') :]


def agent(files: dict[str, bytes]) -> None:
    """A folder of a trained agent with any files."""
    folder = room() / "agent"
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    status, _, text = said(["compare", *SMALL, "--agent", str(folder), "--out", str(room() / "agents-out")])
    if status == 2 and not re.search(r"agent|settings\.json|weights|needs ", text):
        raise Fault(f"does not name the file: {text[:300]}")


# --- the process itself -----------------------------------------------------------------------------------------------


def probe(what: str) -> None:
    """What the process has to see through."""
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "hang":
        while True:
            pass
    if what == "accident":
        print(1 < "a")  # type: ignore[operator]
    if what == "two lines":
        raise ValueError("one\ntwo")
    if what == "no words":
        raise ValueError
    if what == "wrong kind":
        raise KeyError("name")
    if what == "status":
        os._exit(3)
    if what == "clean":
        raise ValueError("name = 'x': must be y")
