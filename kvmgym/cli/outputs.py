"""Where a command's results go: files, or standard output, which then carries nothing else."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console

from kvmgym.files import STDOUT, check_output, is_stdout, to_json, write_output
from kvmgym.params.errors import check

OPTIONS = ("json", "markdown")  # options that name a file to write


def takes_stdout(options: argparse.Namespace) -> bool:
    """Whether an option has standard output for its file, so that everything else belongs on standard error.

    Errors: ValueError for two that do, OSError for a file that cannot be written.
    """
    named = {name: getattr(options, name, None) for name in OPTIONS}
    for name in named.values():
        check_output(name or STDOUT)
    taking = [name for name in OPTIONS if named[name] and is_stdout(named[name] or "")]
    check(len(taking) < 2, "--markdown", named["markdown"], "a file when --json is standard output")
    return bool(taking)


def write_result(options: argparse.Namespace, data: Any, console: Console) -> None:
    """Write a command's result where --json says, if it does. Errors: OSError."""
    if options.json:
        write_output(options.json, to_json(data, indent=1) + "\n")
        if not is_stdout(options.json):
            console.print(f"wrote {options.json}")
