"""`kvmgym warmup`: compile now what would be compiled at the first use."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console


def add_warmup(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "warmup",
        parents=[common],
        help="compile the engine and the environment now, once for this installation",
        description="Compile what the first simulation and the first episode would compile; later starts take seconds.",
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Compile the engine and the environment; returns the seconds that it took."""
    from kvmgym.measure.warmup import compile_once

    seconds = compile_once(console, environment=True)
    console.print("ready: the first simulation and the first episode start at once")
    return {"seconds": seconds}
