"""What the commands print to: any terminal, pipe or file, in any encoding, of any width, also when it breaks.

`Terminal` is a rich console that never takes markup from names, turns tables that are too wide into vertical ones, and
writes plain letters where the encoding lacks the right ones. `Output` remembers the first fault of writing instead of
raising it, so that a full disk under the output does not lose the work.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console, Group
from rich.status import Status
from rich.table import Table
from rich.text import Text

from kvmgym.cli.arguments import silence
from kvmgym.cli.vertical import changed, fitted

WIDTH = 100  # of what is no terminal, unless COLUMNS says more
NARROWEST, WIDEST = 20, 1000
_PLAIN = {"±": "+/-", "×": "x", "–": "-", "—": "-", "−": "-", "…": "...", "µ": "u", "→": "->", "≥": ">=", "≤": "<="}


def plain(text: str, encoding: str) -> str:
    """The text with what the encoding lacks spelt in ASCII.

    >>> plain("1 ± 2 µs …", "ascii"), plain("1 ± 2 µs …", "latin-1")
    ('1 +/- 2 us ...', '1 ± 2 µs ...')
    """
    try:
        text.encode(encoding)
        return text
    except UnicodeEncodeError:
        return "".join(_letter(letter, encoding) for letter in text)


def _letter(letter: str, encoding: str) -> str:
    try:
        letter.encode(encoding)
        return letter
    except UnicodeEncodeError:
        return _PLAIN.get(letter) or letter.encode(encoding, "backslashreplace").decode(encoding)


class Output:
    """A text stream that keeps its first fault in `problem` and is silent from then on. stream: None when closed."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream
        self.problem: OSError | None = None
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write what the encoding can hold."""
        if self.stream is not None and self.problem is None:
            try:
                self.stream.write(plain(text, self.encoding))
            except OSError as error:
                self._stop(error)
        return len(text)

    def flush(self) -> None:
        """Hand on what is buffered."""
        if self.stream is not None and self.problem is None:
            try:
                self.stream.flush()
            except OSError as error:
                self._stop(error)

    def _stop(self, error: OSError) -> None:
        self.problem = error
        silence(self.stream)

    def isatty(self) -> bool:
        """Whether a person reads it."""
        return self.stream is not None and self.stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def guarded_output() -> Iterator[Output]:
    """While it is open, standard output is an Output, for everybody who prints; a closed standard error is nowhere."""
    while (free := os.open(os.devnull, os.O_RDWR)) <= 2:  # or a closed one's number would go to the next file
        pass
    os.close(free)
    out, err = sys.stdout, sys.stderr
    guarded = Output(out)
    sys.stdout = guarded
    with open(os.devnull, "w") as nowhere:
        sys.stderr = err if err is not None else nowhere
        try:
            yield guarded
        finally:
            guarded.flush()
            sys.stdout, sys.stderr = out, err


def columns(given: str | None) -> int | None:
    """The width that the variable COLUMNS asks for, within what tables can bear; None when it says nothing."""
    if given and given.isascii() and given.isdigit() and len(given) < 10:
        return min(max(int(given), NARROWEST), WIDEST)
    return None


class Terminal(Console):
    """A console for the commands; `print` takes texts as they are, tables, and groups of both."""

    def __init__(self, output: Output) -> None:
        width = columns(os.environ.get("COLUMNS")) or (None if output.isatty() else WIDTH)
        environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        super().__init__(file=output, width=width, markup=False, emoji=False, _environ=environ)  # type: ignore[arg-type]

    def print(self, *objects: Any, **options: Any) -> None:
        """As in rich, each object made to fit first."""
        super().print(*(self._fitting(each) for each in objects), **options)

    def status(self, status: Any, *, spinner: str = "dots", **options: Any) -> Status:
        """As in rich, with a spinner that the encoding has."""
        plain_spinner = spinner if self.encoding.startswith("utf") else "line"
        return super().status(self._fitting(status), spinner=plain_spinner, **options)

    def _fitting(self, item: Any) -> Any:
        if isinstance(item, Group):
            return Group(*(self._fitting(each) for each in item.renderables))
        if isinstance(item, Table):
            return fitted(changed(item, lambda text: plain(text, self.encoding)), self.width)
        if isinstance(item, Text):
            return _text(item, plain(item.plain, self.encoding))
        return plain(item, self.encoding) if isinstance(item, str) else item


def _text(item: Text, written: str) -> Text:
    """The item, or where its letters changed the new ones in its style."""
    return item if written == item.plain else Text(written, style=item.style)
