"""What kvmgym finds under the name "maskable-ppo": how such an agent is loaded and trained. Imports torch when asked.

`kvmgym train --scenario dedup-small --minutes 5 --out runs/my-ppo` runs `train`.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rich.console import Console

from kvmgym.cli.arguments import MOST_THREADS, refuse, whole
from kvmgym.measure.warmup import compile_once
from kvmgym_agents.ppo.training import CHECKPOINT, SETTINGS, WEIGHTS, Training

if TYPE_CHECKING:
    from kvmgym_agents.ppo.agent import PpoAgent

needs = "kvmgym[train]"
files = (SETTINGS, WEIGHTS)
packages = ("torch",)
_MAY_GROW = ("minutes", "decisions")  # settings that a run which goes on may change
HELP = {
    "scenario": "comma-separated names or .toml files; the rows of the batch take them in turn",
    "minutes": "how long to train, in all; --resume with a larger number trains on",
    "decisions": "how many to train on instead of minutes, in whole rollouts: then a seed gives the same bits",
    "seed": "of the network, the worlds and the sampling",
    "envs": "hosts side by side",
    "steps": "decisions of each host in a rollout",
    "batch": "decisions in a step of the optimiser",
    "epochs": "passes over a rollout",
    "learning_rate": "of Adam, falling to a twentieth over the run",
    "entropy": "weight of the entropy bonus",
    "tau_ms": "a reward this much simulated time later counts 1/e",
    "gae_lambda": "of generalised advantage estimation",
    "episode_ms": "simulated length of an episode",
    "hidden": "width of the network's layers",
    "evaluation_seeds": "worlds a scenario in an evaluation",
    "every_s": "seconds between checkpoints, each with an evaluation",
}


def load(folder: Path) -> PpoAgent:
    """The agent of a run's folder. Errors: ValueError; ModuleNotFoundError without torch."""
    from kvmgym_agents.ppo.agent import load as load_agent

    return load_agent(folder)


def _number(text: str) -> float:
    """The type of numbers; which are allowed is checked with the settings."""
    try:
        return float(text)
    except ValueError:
        refuse(text, "a number")


_TYPES: Mapping[str, Callable[[str], Any]] = MappingProxyType(
    {"str": str, "int": whole(-(10**17), 10**17), "float": _number}
)


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """The options; those of Training are None unless given."""
    group.add_argument("--resume", action="store_true", help="go on with the folder's run, with its settings")
    group.add_argument("--threads", type=whole(1, MOST_THREADS), default=1, metavar="N",
                       help="of torch; more do not help a network this small (default: %(default)s)")  # fmt: skip
    for field in fields(Training):
        group.add_argument(f"--{field.name.replace('_', '-')}", type=_TYPES[str(field.type)],
                           metavar=str(field.type).upper(),
                           help=f"{HELP[field.name]} (default: {field.default})")  # fmt: skip


def train(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Train in options.out. Errors: ValueError for a mistake in the options or files, before anything is written."""
    from kvmgym_agents.ppo.loop import Run, prepare_torch

    folder: Path = options.out
    training, goes_on = chosen_training(options)
    training.scenarios()
    folder.mkdir(parents=True, exist_ok=True)  # where nothing can be written, that is said now
    prepare_torch(options.threads, training.seed)
    compile_once(console, environment=True)
    run = Run(folder, training, console, goes_on)
    if run.done >= 1:
        spent = f"{run.model.num_timesteps:,} decisions in {run.seconds / 60:.1f} minutes"
        more = "--decisions" if training.decisions else "--minutes"
        raise ValueError(f"{folder} has been trained for {spent}: give more {more}")
    if options.resume and not goes_on:
        _say(console, f"no checkpoint in {folder} yet: begins again, with its settings")
    try:
        run.go()
    except KeyboardInterrupt:
        if (folder / SETTINGS).exists():
            again = shlex.join(["kvmgym", "train", *_option("--out", folder), "--resume"])
            _say(console, f"interrupted; go on with: {again}")
        raise
    _say(console, f"trained in {folder}: {compare_command(folder, training)}")
    return {"folder": str(folder), "decisions": int(run.model.num_timesteps), "seconds": round(run.seconds, 1)}


def chosen_training(options: argparse.Namespace) -> tuple[Training, bool]:
    """The settings of the run, new ones or the folder's when it goes on, and whether there is a checkpoint.

    A run that was stopped before its first checkpoint may be begun again or gone on with. Errors: ValueError.
    """
    folder: Path = options.out
    given = {field.name: getattr(options, field.name) for field in fields(Training)}
    given = {name: value for name, value in given.items() if value is not None}
    begun, trained = ((folder / name).exists() for name in (SETTINGS, CHECKPOINT))
    if not trained and (folder / WEIGHTS).exists():
        raise ValueError(f"{folder} holds weights but no checkpoint to go on from: name another folder with --out")
    if not options.resume:
        if trained:
            raise ValueError(f"{folder} holds a run: go on with --resume, or name another folder with --out")
        if begun:
            _saved(folder)  # an agent of another kind is not overwritten
        return _by_options(given), False
    if not begun:
        raise ValueError(f"{folder}: no checkpoint to go on from; leave --resume out to begin")
    saved = _saved(folder)
    for name, value in given.items():
        if name not in _MAY_GROW and value != getattr(saved, name):
            option = f"--{name.replace('_', '-')}"
            raise ValueError(
                f"{option} {value}: {folder} was begun with {getattr(saved, name)}; --resume keeps its settings"
            )
    grown = {name: given.get(name, getattr(saved, name)) for name in _MAY_GROW}
    return _by_options({**asdict(saved), **grown}), trained


def _by_options(given: Mapping[str, Any]) -> Training:
    """Settings from options, which a message names as options."""
    try:
        return Training(**given)
    except ValueError as error:
        text = re.sub(r"^Training\.(\w+)", lambda found: "--" + found[1].replace("_", "-"), str(error))
        raise ValueError(text) from None


def _saved(folder: Path) -> Training:
    from kvmgym_agents.ppo.storage import read_settings

    settings = read_settings(folder)
    try:
        return Training(**settings.training)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / SETTINGS}: training: {error}") from None


def compare_command(folder: Path, training: Training) -> str:
    """The command, as a shell takes it, that measures the agent where it was trained.

    >>> compare_command(Path("my runs/a"), Training("dedup-small, my host.toml"))
    "kvmgym compare --agent 'my runs/a' --scenarios dedup-small --scenario 'my host.toml'"
    """
    names = [name for name in training.names if not name.endswith(".toml")]
    words = ["kvmgym", "compare", *_option("--agent", folder)]
    if names:
        words += ["--scenarios", ",".join(names)]
    for file in dict.fromkeys(name for name in training.names if name.endswith(".toml")):
        words += _option("--scenario", file)
    return shlex.join(words)


def _option(name: str, value: str | Path) -> list[str]:
    """An option and its value as words; a value that looks like an option is tied to its name."""
    return [f"{name}={value}"] if str(value).startswith("-") else [name, str(value)]


def _say(console: Console, text: str) -> None:
    """Print a line as it is, to be copied."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
