"""`kvmgym train`: train an agent of an installed kind. The kind brings its own options."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from kvmgym.cli.arguments import Parser, output_file, output_folder
from kvmgym.measure import agents
from kvmgym.params.errors import check
from kvmgym.policies import BY_NAME as POLICY

DEFAULT_KIND = "maskable-ppo"


class LateParser(Parser):
    """A command's parser that may get more options when it is used: those of a kind of agent, whose package only its
    command imports. late: called once with the parser and the arguments; a ValueError is a mistake in them."""

    late: Callable[[argparse.ArgumentParser, Sequence[str]], None] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As ArgumentParser's."""
        late, self.late = self.late, None
        if late is not None:
            try:
                late(self, list(args or ()))
            except ValueError as error:
                self.error(str(error))
        return super().parse_known_args(args, namespace)


def add_train(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser. common: not taken, because the threads of a training are its kind's matter."""
    command = commands.add_parser(
        "train",
        help="train an agent",
        description="Train an agent in a folder; an interrupted run goes on with --resume. Then `kvmgym evaluate "
        "--agent DIR` and `kvmgym compare --agent DIR` measure it. Needs what pip installs with kvmgym[train].",
    )
    add = command.add_argument
    add("--out", required=True, metavar="DIR", type=output_folder, help="the run's folder, as runs/my-ppo (required)")
    add("--kind", metavar="NAME", default=DEFAULT_KIND,
        help="kind of agent, which decides the options below (default: %(default)s)")  # fmt: skip
    add("--json", metavar="FILE", type=output_file, help="also write the result as JSON")
    command.set_defaults(run=run)
    command.late = _add_those_of_the_kind


def _add_those_of_the_kind(command: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the options of the kind that the arguments name."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--kind", default=DEFAULT_KIND)
    name = early.parse_known_args(list(arguments))[0].kind
    _trainable(name).add_arguments(command.add_argument_group(f"options of {name}"))


def _trainable(name: str) -> agents.Trainable:
    found = agents.kind(name, "--kind")
    check(isinstance(found, agents.Trainable), "--kind", name, "a kind that can be trained")
    return found  # type: ignore[return-value]


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Train; returns what the kind tells about the run."""
    options.out = Path(options.out)
    name = options.out.resolve().name
    check(name not in POLICY, "--out", str(options.out), "a folder that is not named as a policy")
    try:
        return _trainable(options.kind).train(options, console)
    except ModuleNotFoundError as error:
        raise agents.missing(error, options.kind, "--kind " + options.kind) from None
