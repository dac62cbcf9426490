"""The command line: `kvmgym list | compare | validate | bench | warmup`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from kvmgym import __version__
from kvmgym.cli.compare import add_compare
from kvmgym.cli.list import add_list
from kvmgym.files import write_atomically
from kvmgym.world.deadlock import DeadlockError

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, 1 (a check failed or results were lost), 2 (bad input),
    130."""
    console = Console() if sys.stdout.isatty() else Console(width=100)
    options = parser().parse_args(arguments)
    try:
        data = options.run(options, console)
        status = int(data.pop("exit_status", 0))
        if options.json:
            write_atomically(Path(options.json), json.dumps(data, indent=1) + "\n")
            console.print(f"wrote {options.json}")
        return status
    except ValueError as error:
        print(f"kvmgym {options.command}: {error}", file=sys.stderr)
        return EXIT_USAGE
    except DeadlockError as error:
        print(f"kvmgym {options.command}: {error}", file=sys.stderr)
        return EXIT_FAILED
    except OSError as error:
        print(f"kvmgym {options.command}: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print(f"kvmgym {options.command}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="kvmgym",
        description="Simulate, measure and learn Linux KVM's directed yield: which vCPU a spinning vCPU yields to.",
        epilog="Start with `kvmgym compare`, then `kvmgym list`. Each command explains itself with --help.",
    )
    top.add_argument("--version", action="version", version=f"kvmgym {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", metavar="FILE", help="also write the result as JSON")
    common.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="threads (default: all, %(default)s)"
    )
    add_compare(commands, common)
    add_list(commands, common)
    _add_validate(commands, common)
    _add_bench(commands, common)
    _add_warmup(commands, common)
    return top


def _add_warmup(commands: Any, common: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "warmup",
        parents=[common],
        help="compile the engine and the environment now, once for this installation",
        description="Compile what the first simulation and the first episode would compile; later starts take seconds.",
    )
    command.set_defaults(run=_warmup)


def _warmup(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    from kvmgym.measure.warmup import compile_once

    seconds = compile_once(console, environment=True)
    console.print("ready: the first simulation and the first episode start at once")
    return {"seconds": seconds}


def _add_validate(commands: Any, common: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "validate",
        parents=[common],
        help="check the simulator against exact and closed-form results",
        description="Run the checks of docs/validation.md and print expected, measured, interval and verdict. The exit "
        "status is 1 when one fails.",
    )
    command.add_argument("checks", nargs="*", metavar="ID", help="checks to run, as V1 V4 (default: all)")
    command.add_argument("--quick", action="store_true", help="shorter runs, for continuous integration")
    command.add_argument("--markdown", metavar="FILE", help="also write the table as Markdown")
    command.set_defaults(run=_validate)


def _validate(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from kvmgym import validate
    from kvmgym.measure.warmup import compile_once

    compile_once(console)
    ids = [name.upper() for name in options.checks] or None
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("checks", total=1.0)

        def tell(done: float, what: str) -> None:
            bar.update(task, completed=done, description=what)

        outcomes = validate.run_checks(ids, quick=options.quick, progress=tell, threads=options.threads)
    console.print(validate.render(outcomes))
    if options.markdown:
        write_atomically(Path(options.markdown), validate.markdown(outcomes))
    failed = [outcome for outcome in outcomes if not outcome.passed]
    console.print(f"{len(outcomes) - len(failed)} checks passed, {len(failed)} failed")
    return {**validate.to_dict(outcomes), "exit_status": EXIT_FAILED if failed else 0}


def _add_bench(commands: Any, common: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "bench",
        parents=[common],
        help="measure the simulator's speed",
        description="Measure events, decisions and simulated seconds a second, scaling, start-up, memory and "
        "snapshots; medians of several runs. docs/performance.md has a run's figures.",
    )
    command.add_argument("--repeats", type=int, default=5, metavar="N", help="runs a figure (default: %(default)s)")
    command.add_argument("--no-compile", action="store_true", help="do not measure a first compile (1 min)")
    command.set_defaults(run=_bench)


def _bench(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    from kvmgym.bench import engine as bench
    from kvmgym.measure.warmup import compile_once

    compile_once(console)
    data: dict[str, Any] = bench.run(console, repeats=options.repeats, first_compile=not options.no_compile)
    return data


if __name__ == "__main__":
    sys.exit(main())
