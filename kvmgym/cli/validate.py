"""`kvmgym validate`: the simulator against exact and closed-form results."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console

from kvmgym.cli.arguments import one_of, output_file
from kvmgym.files import write_output
from kvmgym.validate import CHECKS

EXIT_FAILED = 1


def add_validate(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "validate",
        parents=[common],
        help="check the simulator against exact and closed-form results",
        description="Run the checks of docs/validation.md and print expected, measured, interval and verdict. The exit "
        "status is 1 when one fails.",
    )
    known = one_of("check", [check.id for check in CHECKS])
    command.add_argument("checks", nargs="*", metavar="ID", type=known, help="checks to run, as V1 V4 (default: all)")
    command.add_argument("--quick", action="store_true", help="shorter runs, for continuous integration")
    command.add_argument("--markdown", metavar="FILE", type=output_file,
                         help="also write the table as Markdown (-: to standard output)")  # fmt: skip
    command.set_defaults(run=run)


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Run the checks, print and write the table; returns it as data."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from kvmgym import validate
    from kvmgym.measure.warmup import compile_once

    compile_once(console)
    ids = options.checks or None
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("checks", total=1.0)

        def tell(done: float, what: str) -> None:
            bar.update(task, completed=done, description=what)

        outcomes = validate.run_checks(ids, quick=options.quick, progress=tell, threads=options.threads)
    console.print(validate.render(outcomes))
    if options.markdown:
        write_output(options.markdown, validate.markdown(outcomes))
    failed = [outcome for outcome in outcomes if not outcome.passed]
    console.print(f"{len(outcomes) - len(failed)} checks passed, {len(failed)} failed")
    return {**validate.to_dict(outcomes), "exit_status": EXIT_FAILED if failed else 0}
