"""The command line: `kvmgym list | compare | train | evaluate | validate | bench | warmup`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from kvmgym import __version__
from kvmgym.cli.arguments import EXIT_USAGE, Parser, add_common, say
from kvmgym.cli.bench import add_bench
from kvmgym.cli.compare import add_compare
from kvmgym.cli.evaluate import add_evaluate
from kvmgym.cli.list import add_list
from kvmgym.cli.outputs import takes_stdout, write_result
from kvmgym.cli.terminal import Output, Terminal, guarded_output
from kvmgym.cli.train import LateParser, add_train
from kvmgym.cli.validate import add_validate
from kvmgym.cli.warmup import add_warmup
from kvmgym.params.errors import shorten
from kvmgym.world.deadlock import DeadlockError

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, 1 (a check failed or results were lost), 2 (bad input),
    130. What goes wrong is one line on standard error."""
    name = "kvmgym"
    try:
        with guarded_output() as output:
            try:
                options = parser().parse_args(arguments)
                options.arguments = list(sys.argv[1:] if arguments is None else arguments)
                name = f"kvmgym {options.command}"
                status = _run(options, Terminal(Output(sys.stderr) if takes_stdout(options) else output))
            except SystemExit as stopped:  # argparse has said all there is to say
                status = int(stopped.code or 0)
            except ValueError as error:
                status = _fault(name, error, EXIT_USAGE)
            except (DeadlockError, OSError, MemoryError) as error:
                status = _fault(name, error, EXIT_FAILED)
    except KeyboardInterrupt:
        return _fault(name, "interrupted", EXIT_INTERRUPTED)
    if output.problem is None or isinstance(output.problem, BrokenPipeError):  # nobody reads on: no fault
        return status
    return _fault(name, f"standard output: {output.problem.strerror}", status or EXIT_FAILED)


def _run(options: argparse.Namespace, console: Terminal) -> int:
    """Run the command that the options name, and write its result where they say."""
    data = options.run(options, console)
    status = int(data.pop("exit_status", 0))
    write_result(options, data, console)
    return status


def _fault(name: str, what: object, status: int) -> int:
    """Say what went wrong in one line, and return the status."""
    if isinstance(what, OSError):
        what = f"{what.filename}: {what.strerror or what}" if what.filename else what.strerror or what
    elif isinstance(what, MemoryError):
        what = f"not enough memory: {what}".rstrip(": ")
    say(f"{name}: {shorten(str(what), 2000)}")
    return status


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = Parser(
        prog="kvmgym",
        description="Simulate, measure and learn Linux KVM's directed yield: which vCPU a spinning vCPU yields to.",
        epilog="Start with `kvmgym compare`, then `kvmgym list`. Each command explains itself with --help.",
    )
    top.add_argument("--version", action="version", version=f"kvmgym {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=LateParser)
    common = argparse.ArgumentParser(add_help=False)
    add_common(common)
    add_compare(commands, common)
    add_list(commands, common)
    add_train(commands, common)
    add_evaluate(commands, common)
    add_validate(commands, common)
    add_bench(commands, common)
    add_warmup(commands, common)
    return top


if __name__ == "__main__":
    sys.exit(main())
