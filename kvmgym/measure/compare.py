"""Policies × scenarios × seeds: run what is missing, keep what is done (kvmgym.measure.gains compares them).

Each finished run is one line of `runs.jsonl`, written as it ends and keyed by everything that decides its result, so an
interrupted comparison goes on where it stopped and an edited scenario or engine never mixes with old results.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from kvmgym.core.jit import CACHE_DIR
from kvmgym.measure.metrics import Result
from kvmgym.measure.shown import METRICS
from kvmgym.measure.simulate import simulate
from kvmgym.params import Scenario
from kvmgym.policies import GROUPS as GROUPS
from kvmgym.policies import Policy

Row = dict[str, Any]
Entrant = TypeVar("Entrant", bound="Policy | Learned")
# Groups of policies in the order of the tables, with their headings.
LEARNED = "learned"  # the group of trained agents, after these
HEADINGS: Mapping[str, str] = MappingProxyType({**GROUPS, LEARNED: LEARNED})


class Evaluate(Protocol):
    """Runs a trained agent on a scenario for each seed and returns the rows of `row_of`."""

    def __call__(
        self,
        scenario: Scenario,
        seeds: Sequence[int],
        duration_ns: int,
        warmup_ns: int,
        *,
        tell: Callable[[float], None],
    ) -> list[Row]: ...


@dataclass(frozen=True)
class Learned:
    """A trained agent beside policies. digest: of what decides its actions; evaluate: how it is run."""

    name: str
    digest: str
    evaluate: Evaluate
    year: str = "-"
    source: str = "trained agent"
    privileged: bool = False


def group_of(policy: Policy | Learned) -> str:
    """Which of HEADINGS a policy or trained agent belongs to."""
    return LEARNED if isinstance(policy, Learned) else policy.group


def grouped(policies: Iterable[Entrant]) -> list[Entrant]:
    """The policies in the order of their groups, bounds first; within a group in their own order."""
    order = list(HEADINGS)
    return sorted(policies, key=lambda policy: order.index(group_of(policy)))


@dataclass(frozen=True)
class Run:
    """One cell of a comparison before it is run."""

    scenario: Scenario
    policy: Policy | Learned
    seed: int
    duration_ns: int
    warmup_ns: int

    @property
    def key(self) -> str:
        """A digest of what decides the result: the scenario as the policy prepares it, the policy's name, code, weights
        and what it is shown (of a trained agent its name and files), seed, times, engine."""
        policy, times = self.policy, (self.seed, self.duration_ns, self.warmup_ns)
        if isinstance(policy, Learned):
            return _digest(self.scenario.to_toml(), policy.name, policy.digest, *times)
        plain: Any = getattr(policy.function, "py_func", policy.function)
        code = plain.__code__.co_code.hex() + repr((plain.__code__.co_consts, plain.__code__.co_names))
        shown = policy.privileged, policy.needs_lag, policy.weights
        return _digest(policy.prepare(self.scenario).to_toml(), policy.name, code, shown, *times)


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr((CACHE_DIR.name, *parts)).encode()).hexdigest()[:24]


@dataclass
class Store:
    """Finished runs, in a folder. `problem` is set when a line could not be written; the runs stay in memory."""

    folder: Path
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    problem: str | None = None

    def open(self) -> None:
        """Make the folder and read what is there. OSError when it cannot be written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8"):
            pass
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
                self.found[row["key"]] = row
            except (ValueError, KeyError, TypeError):
                continue  # the last line of an interrupted run

    @property
    def path(self) -> Path:
        """Where the runs are, one JSON object a line."""
        return self.folder / "runs.jsonl"

    def add(self, key: str, row: dict[str, Any]) -> None:
        """Keep a finished run: one write, flushed to the disk."""
        self.found[key] = {"key": key, **row}
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(self.found[key]) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self.problem = f"{self.path}: {error.strerror or error}"


def summarise(run: Run) -> Row:
    """Simulate one cell of a policy and keep what the tables need."""
    assert isinstance(run.policy, Policy)
    times = {"duration_ns": run.duration_ns, "warmup_ns": run.warmup_ns}
    return row_of(simulate(run.scenario, run.policy, seed=run.seed, **times))


def row_of(result: Result) -> Row:
    """What the tables need of a result, and what it is of. ops_per_s is None where the VMs run different programs."""
    seconds = result.duration_ns / 1e9
    return {
        "scenario": result.scenario,
        "policy": result.policy,
        "seed": result.seed,
        "duration_ns": result.duration_ns,
        "warmup_ns": result.warmup_ns,
        "ops_per_s": None if result.mixed else result.ops_per_s,
        "vm_names": [vm.name for vm in result.vms],
        "vm_programs": [vm.program for vm in result.vms],
        "vm_ops_per_s": [vm.ops_per_s for vm in result.vms],
        **{metric.name: metric.read(result) for metric in METRICS},
        "yields_attempted_per_s": sum(vm.yields_attempted + vm.relaxed_attempted for vm in result.vms) / seconds,
        "lock_wait_p99_ns": max((vm.lock_wait.p99_ns or 0.0 for vm in result.vms), default=0.0),
        "ipi_latency_p99_ns": max((vm.ipi_latency.p99_ns or 0.0 for vm in result.vms), default=0.0),
        "events": result.events,
        "decisions": result.decisions,
    }


def run_all(
    runs: Sequence[Run], store: Store, threads: int, tell: Callable[[float], None] = lambda done: None
) -> list[Row]:
    """Run what the store lacks on `threads` threads; tell(number done) now and then. Results come in the order of
    `runs`.

    KeyboardInterrupt stops new runs, waits for those of policies under way to be kept, and is raised again.
    """
    missing = [run for run in runs if run.key not in store.found]
    tell(len(runs) - len(missing))
    of_agents = [run for run in missing if isinstance(run.policy, Learned)]
    of_policies = [run for run in missing if isinstance(run.policy, Policy)]
    _run_policies(of_policies, store, threads, lambda done: tell(len(runs) - len(missing) + done))
    _run_agents(of_agents, store, lambda done: tell(len(runs) - len(of_agents) + done))
    return [store.found[run.key] for run in runs]


def _run_agents(runs: Sequence[Run], store: Store, tell: Callable[[float], None]) -> None:
    """Runs of trained agents: all seeds of a scenario in one batch."""
    batches: dict[tuple[int, str, int, int], list[Run]] = {}
    for run in runs:
        place = id(run.policy), run.scenario.to_toml(), run.duration_ns, run.warmup_ns
        batches.setdefault(place, []).append(run)
    done = 0
    for batch in batches.values():
        first, seeds = batch[0], [run.seed for run in batch]
        assert isinstance(first.policy, Learned)

        def told(share: float, done: int = done, size: int = len(batch)) -> None:
            tell(done + share * size)

        times = first.duration_ns, first.warmup_ns
        rows = first.policy.evaluate(first.scenario, seeds, *times, tell=told)
        for run, row in zip(batch, rows, strict=True):
            store.add(run.key, row)
        done += len(batch)
        tell(done)


def _run_policies(missing: Sequence[Run], store: Store, threads: int, tell: Callable[[float], None]) -> None:
    """Runs of compiled policies, each on a thread."""
    for run in missing:
        run.policy.engine_function  # type: ignore[union-attr]  # noqa: B018  compiled here once, not in each thread
    done = 0
    with ThreadPoolExecutor(threads) as pool:
        pending: dict[Future[Row], Run] = {pool.submit(summarise, run): run for run in missing}
        try:
            while pending:
                finished, _ = wait(pending, return_when=FIRST_COMPLETED, timeout=0.5)
                for future in finished:
                    store.add(pending.pop(future).key, future.result())
                    done += 1
                    tell(done)
        except BaseException:
            for future in pending:
                future.cancel()
            for future, run in pending.items():
                if not future.cancelled() and future.exception() is None:
                    store.add(run.key, future.result())
            raise
