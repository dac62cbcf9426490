"""Fuzz tests: cases run in a process of their own, where a crash, a hang or growing memory is an answer, not an end.

A case may succeed or be refused with one clean error; everything else is a fault, told by `Worker.ask` as a text.
"""

from __future__ import annotations

import multiprocessing
import re
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from reprlib import Repr
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

CPU_S = 5.0  # a case that computes for longer hangs
WALL_S = 120.0  # and one that waits for longer, on a machine with other work
GROWTH_MIB = 400  # that all cases of a test together may leave behind
ROOM_GIB = 12  # address space of the process: a case that asks for more is refused by the system
ANSWER = 3000  # characters of an error at most
# Errors of Python and NumPy that say nothing about the argument: it was used, not checked.
ACCIDENTS = re.compile(
    r"not supported between|unsupported operand|object is not|has no len|not subscriptable|not iterable|"
    r"could not be broadcast|could not broadcast|truth value of an array|cannot convert float|invalid literal|"
    r"setting an array element|unhashable|cannot be interpreted as|object cannot be|too large to convert|only integer|"
    r"codec can't|not enough values|too many values|argument must be a string|expected str, bytes|buffer size|"
    r"cannot reshape|Exceeds the limit|embedded null|has no attribute|sequence item|math domain|list index"
)


class _Cases(Repr):
    """Shows a case; integers that Python refuses to print by their size."""

    def repr_int(self, x: int, level: int) -> str:
        return f"<{x.bit_length()} bits>" if x.bit_length() > 1000 else super().repr_int(x, level)


_CASES = _Cases()
_CASES.maxlevel, _CASES.maxlong, _CASES.maxstring, _CASES.maxother = 6, 80, 400, 400
_CASES.maxlist = _CASES.maxtuple = _CASES.maxdict = 20


class Fault(Exception):
    """What a case must not do; raised by cases that look closer than at success and errors."""


def fault_of(error: BaseException) -> str | None:
    """What is wrong with an error as an answer to bad input; None for a clean one."""
    from gymnasium.error import Error

    from kvmgym import DeadlockError

    text = str(error)
    if isinstance(error, MemoryError):
        return None
    if not isinstance(error, ValueError | TypeError | OSError | DeadlockError | Error):
        return _told(error, "")
    if not text.strip() or "\n" in text or len(text) > ANSWER:
        return _told(error, "not one line: ")
    return _told(error, "an accident: ") if ACCIDENTS.search(text) else None


def _told(error: BaseException, what: str) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/tests/" not in f.filename]
    where = f" at {'/'.join(frames[-1].filename.split('/')[-3:])}:{frames[-1].lineno}" if frames else ""
    return f"{what}{type(error).__name__}: {str(error)[:300]}{where}"


def serve(pipe: Any) -> None:
    """The process: answer (name of a case's kind, case) with (fault or None, MiB in use) until the pipe closes."""
    import fuzzcases

    resource.setrlimit(resource.RLIMIT_AS, (ROOM_GIB << 30, ROOM_GIB << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    fuzzcases.warm_up()
    pipe.send("ready")
    while True:
        try:
            name, case = pipe.recv()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, CPU_S)  # nobody handles it, so it ends the process, compiled loops too
        try:
            getattr(fuzzcases, name)(case)
            answer = None
        except Fault as fault:
            answer = str(fault)
        except BaseException as error:
            answer = fault_of(error)
        signal.setitimer(signal.ITIMER_PROF, 0)
        pipe.send((answer, _mib()))


def _mib() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


class Worker:
    """The process that runs cases, made again when one has ended it."""

    def __init__(self) -> None:
        self.process: Any = None
        self.first_mib = self.last_mib = 0.0
        self.asked = 0

    def ask(self, name: str, case: Any) -> str | None:
        """Run one case; returns its fault or None."""
        if self.process is None:
            self._start()
        try:
            self.pipe.send((name, case))
            if not self.pipe.poll(WALL_S):
                return self._ended("waits without end")
            answer, self.last_mib = self.pipe.recv()
        except (EOFError, ConnectionError):
            return self._ended(None)
        self.asked += 1
        if self.asked == 20:
            self.first_mib = self.last_mib
        return answer  # type: ignore[no-any-return]

    @property
    def grown_mib(self) -> float:
        """How much more memory is in use than after the first twenty cases."""
        return self.last_mib - self.first_mib if self.asked > 20 else 0.0

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        if not self.pipe.poll(10 * WALL_S) or self.pipe.recv() != "ready":
            raise RuntimeError("the process of the cases does not start")
        self.asked = 0

    def _ended(self, why: str | None) -> str:
        if why is None:
            self.process.join()
            code = self.process.exitcode
            if code == -signal.SIGPROF:
                why = f"computes for more than {CPU_S:g} s"
            else:
                why = f"ends the process with {signal.Signals(-code).name if code < 0 else f'status {code}'}"
        self.close()
        return why


@contextmanager
def worker() -> Iterator[Worker]:
    """A Worker for some tests."""
    made = Worker()
    try:
        yield made
    finally:
        made.close()


def fuzz(
    worker: Worker, name: str, cases: SearchStrategy[Any], config: pytest.Config, examples: int, *, also: Any = ()
) -> None:
    """Assert that no case of the strategy is a fault, nor memory grows: `examples` of them, or as many as fit in
    --fuzz-seconds. also: cases that are run first, whatever is drawn."""
    for case in also:
        _expect_none(worker, name, case)
    seconds = config.getoption("--fuzz-seconds")
    until = time.monotonic() + (seconds or 0)
    round = 0
    while round == 0 or time.monotonic() < until:
        _one_round(worker, name, cases, examples, None if not seconds else int(until) + round)()
        round += 1
    assert worker.grown_mib < GROWTH_MIB


def _expect_none(worker: Worker, name: str, case: Any) -> None:
    fault = worker.ask(name, case)
    assert fault is None, f"{fault}\nCase of {name}: {_CASES.repr(case)}"


def _one_round(
    worker: Worker, name: str, cases: SearchStrategy[Any], examples: int, start: int | None
) -> Callable[[], None]:
    many = max(examples, settings.default.max_examples if settings.default.max_examples > 100 else 0)  # type: ignore[attr-defined]

    @settings(
        max_examples=many,
        deadline=None,
        derandomize=start is None and settings.default.derandomize,  # type: ignore[attr-defined]
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a fault may cost seconds: it is not made smaller
        database=None,
    )
    @given(cases)
    def one(case: Any) -> None:
        _expect_none(worker, name, case)

    return one if start is None else seed(start)(one)
