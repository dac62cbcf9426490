"""`kvmgym bench`: how fast the simulator is."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console

from kvmgym.cli.arguments import MOST_REPEATS, whole


def add_bench(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "bench",
        parents=[common],
        help="measure the simulator's speed",
        description="Measure events, decisions and simulated seconds a second, scaling, start-up, memory and "
        "snapshots; medians of several runs. docs/performance.md has a run's figures.",
    )
    command.add_argument("--repeats", metavar="N", type=whole(1, MOST_REPEATS), default=5,
                         help="runs a figure (default: %(default)s)")  # fmt: skip
    command.add_argument("--no-compile", action="store_true", help="do not measure a first compile (1 min)")
    command.set_defaults(run=run)


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Measure, print, and return the figures."""
    from kvmgym.bench import engine as bench
    from kvmgym.measure.warmup import compile_once

    compile_once(console)
    data: dict[str, Any] = bench.run(console, repeats=options.repeats, first_compile=not options.no_compile)
    return data
