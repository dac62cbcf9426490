"""The types of the command line's arguments, and a parser that answers bad ones with one line.

Each type takes the text of an argument and returns its value or raises ArgumentTypeError with the end of the sentence
that `Parser.error` begins with the option's name: `--seeds = '1': must be a whole number from 2 to 10,000`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from kvmgym.files import STDOUT
from kvmgym.params.errors import MAX_NS, SHOWN, nearest, quoted, shorten, shown

EXIT_USAGE = 2
MOST_SEEDS, MOST_THREADS, MOST_REPEATS = 10_000, 1024, 1000
MOST_SECONDS = MAX_NS / 1e9
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")  # int() also takes digits of other scripts, spaces and underscores
_REAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LINE = 400  # characters of a message


class Parser(argparse.ArgumentParser):
    """Prints one line for a bad argument, without the usage; the exit status is 2."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with which option, and stop."""
        named = re.match(r"argument ([^:]+): (= )?", message)
        if named:
            message = named[1].split("/")[0] + (" = " if named[2] else ": ") + message[named.end() :]
        text = " ".join(shorten(word, SHOWN + 2) for word in message.split())  # two: a shown value and a mark after it
        say(f"{self.prog}: {shorten(text, _LINE)}")
        raise SystemExit(EXIT_USAGE)


def say(line: str) -> None:
    """Print a line on standard error; where that is not possible the status has to do."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


def silence(stream: Any) -> None:
    """Let what is still buffered for a broken stream go nowhere, or Python would complain about it at its end."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def refuse(value: object, allowed: str) -> NoReturn:
    """Raise what argparse turns into `OPTION = VALUE: must be ALLOWED`."""
    raise argparse.ArgumentTypeError(f"= {shown(value)}: must be {allowed}")


def whole(low: int, high: int) -> Callable[[str], int]:
    """The type of whole numbers from low to high, in the digits 0 to 9.

    >>> whole(1, 64)("3")
    3
    """

    def number(text: str) -> int:
        if not _WHOLE.fullmatch(text) or not low <= int(text) <= high:
            refuse(text, f"a whole number from {low:,} to {high:,}")
        return int(text)

    return number


def seconds(low: float) -> Callable[[str], float]:
    """The type of simulated times in seconds from `low` to MOST_SECONDS, which is what the core's clock bears.

    >>> seconds(0)("1e-3")
    0.001
    """

    def number(text: str) -> float:
        if not _REAL.fullmatch(text) or not low <= float(text) <= MOST_SECONDS:
            refuse(text, f"a number of seconds from {low:g} to {MOST_SECONDS:,.0f}")
        return float(text)

    return number


def whole_numbers(low: int, high: int) -> Callable[[str], tuple[int, ...]]:
    """The type of lists of whole numbers, as `2,3,4`; repetitions are left out.

    >>> whole_numbers(1, 64)("2,4,2")
    (2, 4)
    """

    def numbers(text: str) -> tuple[int, ...]:
        parts = names(text)
        for part in parts or (text,):
            if not _WHOLE.fullmatch(part) or not low <= int(part) <= high:
                refuse(part, f"whole numbers from {low} to {high}, as 2,3,4")
        return tuple(dict.fromkeys(int(part) for part in parts))

    return numbers


def names(text: str) -> tuple[str, ...]:
    """The names of a list, as `none,relaxed`, each once."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def one_of(what: str, allowed: Collection[str]) -> Callable[[str], str]:
    """The type of a name in a table; upper and lower case are the same.

    >>> one_of("check", ("V1", "V12"))("v12")
    'V12'
    """
    known = {name.lower(): name for name in allowed}

    def name(text: str) -> str:
        if text.lower() not in known:
            raise argparse.ArgumentTypeError(f"unknown {what} {quoted(text)}: {nearest(text, allowed)}")
        return known[text.lower()]

    return name


def output_file(text: str) -> str:
    """The type of a file to write: `-` is standard output; a folder, or a name below a file, is refused."""
    if text == STDOUT:
        return text
    path = _path(text, "a file name, or - for standard output")
    if path.is_dir() or text.endswith(os.sep):
        refuse(text, "a file, not a folder")
    _below_a_folder(path.parent, text)
    return text


def output_folder(text: str) -> str:
    """The type of a folder to write to, which may not exist yet."""
    path = _path(text, "the name of a folder")
    _below_a_folder(path, text)
    return text


def _path(text: str, allowed: str) -> Path:
    try:
        os.lstat(text)
    except FileNotFoundError:
        if not text:
            refuse(text, allowed)
    except (OSError, ValueError) as error:  # too long, through a file, a NUL, an endless link
        if not isinstance(error, NotADirectoryError | PermissionError):
            refuse(text, f"{allowed} ({getattr(error, 'strerror', None) or error})")
    return Path(text)


def _below_a_folder(path: Path, text: str) -> None:
    """Refuse a path that has to be a folder, or below one, and has something else in its way."""
    for part in (path, *path.parents):
        if os.path.lexists(part):
            if not part.is_dir():
                refuse(text, f"in a folder, but {shorten(str(part))} is none")
            return


def input_path(text: str) -> str:
    """The type of a file or folder to read; whether it can be read is found when it is."""
    _path(text, "the name of a file or folder")
    return text


def add_common(parser: Any) -> None:
    """The options of every command."""
    parser.add_argument("--json", metavar="FILE", type=output_file,
                        help="also write the result as JSON (-: to standard output)")  # fmt: skip
    parser.add_argument("--threads", metavar="N", type=whole(1, MOST_THREADS), default=os.cpu_count() or 1,
                        help="threads (default: all, %(default)s)")  # fmt: skip
