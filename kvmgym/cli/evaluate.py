"""`kvmgym evaluate`: measure trained agents. It is `kvmgym compare` without policies but the baseline."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console

from kvmgym.cli import compare
from kvmgym.cli.arguments import input_path

SCENARIOS = "dedup-small,dbench-small,vips-small"  # what `kvmgym train` trains on unless told otherwise


def add_evaluate(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser: the options of `compare`, with other defaults."""
    scratch = argparse.ArgumentParser().add_subparsers()
    compare.add_compare(scratch, common)
    scratch.choices["compare"].set_defaults(out="results/evaluate")
    command = commands.add_parser(
        "evaluate",
        parents=[scratch.choices["compare"]],
        add_help=False,
        conflict_handler="resolve",
        help="measure trained agents: their gain over a baseline",
        description="Measure trained agents on scenarios × seeds: their gain in guest operations a second over the "
        "baseline, with 95 % confidence intervals paired by seed, and what lies behind it. It is `kvmgym compare "
        "--agent DIR` with other defaults, in a results folder of its own.",
    )
    add = command.add_argument
    add("--agent", metavar="DIR", action="append", required=True, type=input_path,
        help="a trained agent's folder (repeatable)")  # fmt: skip
    add("--policies", metavar="NAMES", default="", help="policies beside it, as none,relaxed (default: no others)")
    add("--scenarios", metavar="NAMES", default=None,
        help=f"comma-separated names and groups, as of compare (default: {SCENARIOS}, without --scenario)")  # fmt: skip
    command.set_defaults(run=run)


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Run the evaluation, print the tables, write summary and plot; returns the summary."""
    if options.scenarios is None and not options.scenario:
        options.scenarios = SCENARIOS
    return compare.run(options, console)
