"""The training command: python -m kvmgym_agents.ppo.train --scenario dedup-small --minutes 5 --out runs/my-ppo."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console

EPILOG = "An interrupted run goes on with --resume. Then: kvmgym compare --agent runs/my-ppo --scenarios dedup-small"
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


def parser(training: Any) -> argparse.ArgumentParser:
    """The options; those of `training` (the dataclass) are None unless given."""
    found = argparse.ArgumentParser(prog="python -m kvmgym_agents.ppo.train", description=__doc__, epilog=EPILOG)
    found.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run's folder, as runs/my-ppo")
    found.add_argument("--resume", action="store_true", help="go on from the folder's checkpoint, with its settings")
    found.add_argument("--threads", type=int, default=1, metavar="N",
                       help="of torch; more do not help a network this small (default: %(default)s)")  # fmt: skip
    for field in fields(training):
        kind = {"str": str, "int": int, "float": float}[str(field.type)]
        found.add_argument(f"--{field.name.replace('_', '-')}", type=kind, metavar=kind.__name__.upper(),
                           help=f"{HELP[field.name]} (default: {field.default})")  # fmt: skip
    return found


def chosen_training(options: argparse.Namespace, training: Any) -> Any:
    """The settings of the run: new ones, or the folder's when it goes on. Errors: ValueError."""
    from kvmgym_agents.ppo.loop import has_checkpoint
    from kvmgym_agents.ppo.storage import SETTINGS, read_settings

    given = {field.name: getattr(options, field.name) for field in fields(training)}
    given = {name: value for name, value in given.items() if value is not None}
    folder = options.out
    if not options.resume:
        if (folder / SETTINGS).exists():
            raise ValueError(f"{folder} holds a run: go on with --resume, or name another folder with --out")
        return training(**given)
    if not has_checkpoint(folder):
        raise ValueError(f"{folder}: no checkpoint to go on from; leave --resume out to begin")
    try:
        saved = training(**read_settings(folder).training)
    except TypeError as error:
        raise ValueError(f"{folder / SETTINGS}: training: {error}") from None
    for name, value in given.items():
        if name not in _MAY_GROW and value != getattr(saved, name):
            option = f"--{name.replace('_', '-')}"
            raise ValueError(
                f"{option} {value}: {folder} was begun with {getattr(saved, name)}; --resume keeps its settings"
            )
    return replace(saved, **{name: given.get(name, getattr(saved, name)) for name in _MAY_GROW})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, 2 for a mistake in the options or files, 130 when interrupted."""
    console = Console()
    try:
        from kvmgym_agents.ppo.loop import Run, Training, prepare_torch
    except ModuleNotFoundError as error:
        print(f"error: needs {error.name}, which is not installed: pip install 'kvmgym[train]'", file=sys.stderr)
        return 2
    from kvmgym.measure.warmup import compile_once

    options = parser(Training).parse_args(arguments)
    try:
        training = chosen_training(options, Training)
        training.scenarios()
        if options.threads < 1:
            raise ValueError(f"--threads {options.threads}: must be 1 or more")
        prepare_torch(options.threads, training.seed)
        compile_once(console, environment=True)
        run = Run(options.out, training, console, options.resume)
        if run.done >= 1:
            spent = f"{run.model.num_timesteps:,} decisions in {run.seconds / 60:.1f} minutes"
            more = "--decisions" if training.decisions else "--minutes"
            raise ValueError(f"{options.out} has been trained for {spent}: give more {more}")
        run.go()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; the same command with --resume goes on from {options.out}", file=sys.stderr)
        return 130
    console.print(f"trained in {options.out}: kvmgym compare --agent {options.out} --scenarios {training.scenario}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
