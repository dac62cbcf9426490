"""Policies × scenarios × seeds: run what is missing, keep what is done.

Each finished run is one line of `runs.jsonl`, written as it ends and keyed by everything that decides its result, so an
interrupted comparison goes on where it stopped and an edited scenario, policy or source never mixes with old results.
Processes in one folder share the work (kvmgym.measure.claims). A line is checked when it is read.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Event
from typing import Any

from kvmgym.files import append_line, from_json, lines_of, locked, to_json
from kvmgym.measure.claims import Claims
from kvmgym.measure.compare import Learned, Row, row_of
from kvmgym.measure.provenance import agents_digest, policies_digest
from kvmgym.measure.schema import SCHEMA, fault_of
from kvmgym.measure.simulate import simulate_batch
from kvmgym.params import Scenario
from kvmgym.policies import Policy
from kvmgym.policies.digest import digest
from kvmgym.threads import Stopped, never

_LONGEST = 2**20  # bytes of a line; a row has some hundreds
_POLL_S = 0.25  # how often to look whether others have finished theirs
_SHOWN = 3  # lines left out that a message tells of


@dataclass(frozen=True)
class Run:
    """One cell of a comparison before it is run."""

    scenario: Scenario
    policy: Policy | Learned
    seed: int
    duration_ns: int
    warmup_ns: int

    @cached_property
    def key(self) -> str:
        """A digest of what decides the result: the scenario as the policy prepares it, seed, times, kvmgym's sources
        and the versions below them; the policy's name, function with all that it uses, weights and what it is shown; of
        a trained agent its name and files."""
        policy, times = self.policy, (self.seed, self.duration_ns, self.warmup_ns)
        if isinstance(policy, Learned):
            return _key(agents_digest(), self.scenario.to_toml(), policy.name, policy.digest, *times)
        shown = policy.privileged, policy.needs_lag, policy.weights
        prepared = policy.prepare(self.scenario).to_toml()
        return _key(policies_digest(), prepared, policy.name, _function(policy.function), shown, *times)

    def gave(self, row: Row) -> bool:
        """Whether a row is of this run by what it says of itself."""
        named = row["scenario"], row["policy"], row["seed"]
        return named == (self.scenario.name, self.policy.name, self.seed)


def _function(function: Any) -> str:
    """What stands for a policy's function in a key: the name of one of this package, whose sources are in the key; of
    any other a digest of all that it uses, as it is now."""
    plain = getattr(function, "py_func", function)
    own = plain.__module__.split(".")[0] == __name__.split(".")[0] and "<locals>" not in plain.__qualname__
    return f"{plain.__module__}.{plain.__qualname__}" if own else digest(function)


def _key(*parts: object) -> str:
    return hashlib.sha256(repr((SCHEMA, *parts)).encode()).hexdigest()[:24]


@dataclass
class Store:
    """Finished runs, in a folder. `problem` is set when a line could not be written; the runs stay in memory. bad: by
    number, from 1, why a line is no row; such lines are left out."""

    folder: Path
    found: dict[str, Row] = field(default_factory=dict)
    problem: str | None = None
    bad: dict[int, str] = field(default_factory=dict)
    _line_of: dict[str, int] = field(default_factory=dict)
    _lines: int = 0  # read so far, whole ones
    _end: int = 0  # of them, in bytes

    def open(self) -> None:
        """Make the folder and read what is there. OSError when it cannot be written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and not self.path.is_file():
            raise OSError(None, "no regular file", str(self.path))
        with open(self.path, "ab"):
            pass
        self._read()

    @property
    def path(self) -> Path:
        """Where the runs are, one JSON object a line."""
        return self.folder / "runs.jsonl"

    @property
    def claims(self) -> Claims:
        """Who is at which run in this folder."""
        return Claims(self.folder / "claims")

    def refresh(self) -> None:
        """Read what was added since the last time, by this process or another."""
        try:
            self._read()
        except OSError as error:
            self.problem = f"{self.path}: {error.strerror or error}"

    def _read(self) -> None:
        with open(self.path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == self._end:
                return
            if size < self._end:  # somebody has cut it
                self._lines, self._end = 0, 0
                self.bad.clear()
            with locked(file.fileno(), shared=True):
                file.seek(self._end)
                for content, ended in lines_of(file, _LONGEST):
                    self._take(content, self._lines + 1)
                    if ended:
                        self._lines, self._end = self._lines + 1, file.tell()

    def _take(self, content: bytes, line: int) -> None:
        self.bad.pop(line, None)
        if not content.strip():
            return
        try:
            row: Any = None if len(content) > _LONGEST else from_json(content)
            why = f"longer than {_LONGEST} bytes" if len(content) > _LONGEST else fault_of(row)
        except ValueError as error:
            why = str(error)
        if why:
            self.bad[line] = why
        else:
            self.found[row["key"]] = row
            self._line_of[row["key"]] = line

    def told(self, run: Run) -> Row | None:
        """The finished run, None when there is none. A row that is kept under the run's key and says that it is of
        another is left out."""
        row = self.found.get(run.key)
        if row is not None and not run.gave(row):
            self.bad[self._line_of.get(run.key, 0)] = "its key is that of another run"
            del self.found[run.key]
            return None
        return row

    def left_out(self) -> str | None:
        """One line about the lines that were left out, None without any."""
        if not self.bad:
            return None
        shown = [f"line {line}: {why}" for line, why in sorted(self.bad.items())[:_SHOWN]]
        more = [f"{len(self.bad) - _SHOWN} more"] * (len(self.bad) > _SHOWN)
        lines = "1 line is" if len(self.bad) == 1 else f"{len(self.bad)} lines are"
        return f"{self.path}: {lines} no finished run and left out; {'; '.join([*shown, *more])}"

    def add(self, key: str, row: Row) -> None:
        """Keep a finished run: one write, flushed to the disk. ValueError for a row that could not be read again."""
        own = {"schema": SCHEMA, "key": key}
        row = {**own, **row, **own}
        why = fault_of(row)
        if why:
            raise ValueError(f"{row.get('scenario')}, {row.get('policy')}, seed {row.get('seed')}: {why}")
        self.found[key] = row
        try:
            append_line(self.path, to_json(row))
        except OSError as error:
            self.problem = f"{self.path}: {error.strerror or error}"


# --- running --------------------------------------------------------------------------------------------------------

Tell = Callable[[float], None]


def summarise(run: Run, stopped: Stopped = never) -> Row:
    """Simulate one cell of a policy and keep what the tables need. kvmgym.threads.Stop once `stopped()` is True."""
    assert isinstance(run.policy, Policy)
    times: dict[str, Any] = {"duration_ns": run.duration_ns, "warmup_ns": run.warmup_ns}
    return row_of(simulate_batch(run.scenario, run.policy, seeds=[run.seed], stopped=stopped, **times)[0])


def run_all(runs: Sequence[Run], store: Store, threads: int, tell: Tell = lambda done: None) -> list[Row]:
    """Run what the store lacks on `threads` threads; tell(number done) now and then. Results come in the order of
    `runs`. What another process in the folder is at is left to it and waited for.

    KeyboardInterrupt stops those under way, keeps what has ended, and is raised again.
    """
    missing = {run.key: run for run in runs if store.told(run) is None}
    already = len(runs) - len(missing)
    tell(already)
    of_policies = {key: run for key, run in missing.items() if isinstance(run.policy, Policy)}
    of_agents = {key: run for key, run in missing.items() if isinstance(run.policy, Learned)}
    with store.claims as claims:
        _run_policies(of_policies, store, claims, threads, lambda done: tell(already + done))
        _run_agents(of_agents, store, claims, lambda done: tell(len(runs) - len(of_agents) + done))
    return [store.found[run.key] for run in runs]


class _Todo:
    """The runs that are neither done nor under way here."""

    def __init__(self, runs: Iterable[tuple[str, Run]], store: Store, claims: Claims) -> None:
        self.left, self.store, self.claims = dict(runs), store, claims

    def take(self, most: int) -> dict[str, Run]:
        """At most `most` runs that nobody has done and nobody is at, claimed."""
        taken: dict[str, Run] = {}
        for key in list(self.left):
            if len(taken) == most:
                break
            if self._is_done(key) or not self.claims.take(key):
                continue
            self.store.refresh()  # whoever had the claim may have finished in between
            if self._is_done(key):
                self.claims.release(key)
            else:
                taken[key] = self.left.pop(key)
        return taken

    def _is_done(self, key: str) -> bool:
        if self.store.told(self.left[key]) is None:
            return False
        del self.left[key]
        return True

    def keep(self, key: str, row: Row) -> None:
        """Store a row and give up the claim of its run."""
        self.store.add(key, row)
        self.claims.release(key)

    def wait(self) -> None:
        """A moment, for what others are at."""
        time.sleep(_POLL_S)
        self.store.refresh()


def _run_policies(missing: dict[str, Run], store: Store, claims: Claims, threads: int, tell: Tell) -> None:
    """Runs of compiled policies, each on a thread."""
    for run in missing.values():
        run.policy.engine_function  # type: ignore[union-attr]  # noqa: B018  compiled here once, not in each thread
    todo, stop = _Todo(missing.items(), store, claims), Event()
    with ThreadPoolExecutor(threads) as pool:
        pending: dict[Future[Row], str] = {}
        try:
            while todo.left or pending:
                taken = todo.take(threads - len(pending))
                pending.update({pool.submit(summarise, run, stop.is_set): key for key, run in taken.items()})
                if not pending:
                    if todo.left:
                        todo.wait()
                    continue
                finished, _ = wait(pending, return_when=FIRST_COMPLETED, timeout=0.5)
                for future in finished:
                    todo.keep(pending.pop(future), future.result())
                tell(len(missing) - len(todo.left) - len(pending))
        except BaseException:
            stop.set()
            for future, key in pending.items():
                if not future.cancel() and future.exception() is None:
                    todo.keep(key, future.result())
            raise
    tell(len(missing))


def _run_agents(missing: dict[str, Run], store: Store, claims: Claims, tell: Tell) -> None:
    """Runs of trained agents: all seeds of a scenario in one batch."""
    batches: dict[tuple[int, str, int, int], dict[str, Run]] = {}
    for key, run in missing.items():
        together = id(run.policy), run.scenario.to_toml(), run.duration_ns, run.warmup_ns
        batches.setdefault(together, {})[key] = run
    todos = [_Todo(batch.items(), store, claims) for batch in batches.values()]
    done = 0
    while todos:
        worked = False
        for todo in todos:
            before = len(todo.left)
            taken = todo.take(before)
            if taken:
                worked = True
                _evaluate(taken, todo, lambda finished, done=done: tell(done + finished))  # type: ignore[misc]
            done += before - len(todo.left)
            tell(done)
        todos = [todo for todo in todos if todo.left]
        if todos and not worked:
            todos[0].wait()


def _evaluate(batch: dict[str, Run], todo: _Todo, tell: Tell) -> None:
    """Run an agent on one scenario for the seeds of a batch; tell(how many of them are done, in parts too)."""
    first = next(iter(batch.values()))
    assert isinstance(first.policy, Learned)
    seeds, times = [run.seed for run in batch.values()], (first.duration_ns, first.warmup_ns)
    rows = first.policy.evaluate(first.scenario, seeds, *times, tell=lambda share: tell(share * len(batch)))
    for key, row in zip(batch, rows, strict=True):
        todo.keep(key, row)
