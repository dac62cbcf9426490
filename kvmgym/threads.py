"""Work on threads that Ctrl-C stops and that a forked child has too.

Compiled code returns to Python every few tens of milliseconds; whoever calls it in a loop asks `stopped` in between.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from threading import Event, current_thread, main_thread
from types import FrameType
from typing import Any, TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")
Stopped = Callable[[], bool]


class Stop(Exception):
    """Raised in a worker when another one has failed or the caller was interrupted."""


class Threads:
    """A pool of `number` threads, made at its first use, and made anew in a forked child, where there are none."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0

    def map(self, work: Callable[[Item, Stopped], Found], items: Sequence[Item]) -> list[Found]:
        """`work(item, stopped)` for each item; `stopped()` is True when the work is not wanted any more. An exception
        of an item, or Ctrl-C while waiting, stops the others, and is raised when they have stopped."""
        stop = Event()
        pool = self._mine()
        futures: list[Future[Found]] = [pool.submit(work, item, stop.is_set) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            stop.set()
            for future in futures:
                future.cancel()
            wait(futures)
            raise

    def close(self) -> None:
        """Stop the threads; a later `map` starts others."""
        pool, self._pool = self._pool, None
        if pool is not None and self._process == os.getpid():
            pool.shutdown()

    def _mine(self) -> ThreadPoolExecutor:
        if self._pool is None or self._process != os.getpid():
            self._pool, self._process = ThreadPoolExecutor(self.number), os.getpid()
        return self._pool

    def __getstate__(self) -> dict[str, Any]:
        return {"number": self.number}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__init__(kept["number"])  # type: ignore[misc]


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """Ctrl-C while numba compiles or loads code can be lost in a callback of it: here it is raised again at the end."""
    before = signal.getsignal(signal.SIGINT)
    if current_thread() is not main_thread() or before is not signal.default_int_handler:
        yield
        return
    heard: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if heard:
        raise KeyboardInterrupt


def never() -> bool:
    """`stopped` of work that only Ctrl-C stops."""
    return False
