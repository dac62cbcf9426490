"""What compiling has to say to whoever waits: single lines on standard error, never on standard output."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

QUIET = "KVMGYM_QUIET"  # an environment variable; set to anything, it silences these lines

_told: set[str] = set()
_listeners: list[Callable[[], None]] = []


def tell(text: str) -> None:
    """Print one line on standard error, each text once a process; nothing under KVMGYM_QUIET or without a stderr."""
    if text in _told:
        return
    _told.add(text)
    if sys.stderr is None or os.environ.get(QUIET):
        return
    with suppress(OSError, ValueError):  # closed, or a full disk
        print(f"kvmgym: {text}", file=sys.stderr, flush=True)


@contextmanager
def told_of_compiling(listener: Callable[[], None]) -> Iterator[None]:
    """While it is open, `listener` is called instead of the line when the engine is being compiled."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def compiling(kept: bool) -> None:
    """Called as functions of the engine are compiled: the first call says what the wait is for."""
    if _listeners:
        _listeners[-1]()
    elif kept:
        tell("compiling the engine, once for this installation, about half a minute …")
    else:
        tell("compiling the engine, about half a minute; KVMGYM_CACHE_DIR can name a folder that keeps it …")
