"""Faults of guest programs that are found before anything runs.

Left out: whether puts and gets balance over time, and deadlocks between queues, barriers and mutexes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from kvmgym.codes import SPIN_KINDS
from kvmgym.params import errors
from kvmgym.params.program import (
    MOST_NESTED,
    Barrier,
    Block,
    Choose,
    Get,
    Lock,
    Phase,
    Put,
    Repeat,
    Shootdown,
    Unlock,
    nested,
    walk,
)
from kvmgym.params.stillness import MAX_STILL, stillness


class ProgramCheck:
    """Walks the programs of one workload, collects which locks are held where, and raises at the first fault.

    path: what messages start with; programs: one a role; kinds: lock kind by lock name; queues, barriers: names.
    """

    def __init__(
        self,
        path: str,
        programs: tuple[tuple[Phase, ...], ...],
        kinds: Mapping[str, str],
        queues: tuple[str, ...],
        barriers: tuple[str, ...],
    ) -> None:
        self.path = path
        self.programs = programs
        self.kinds = kinds
        self.known = {"lock": tuple(kinds), "queue": queues, "barrier": barriers}
        self.taken_under: dict[str, set[str]] = {name: set() for name in kinds}  # outer lock -> inner locks
        self.acked_under: dict[str, str] = {}  # lock held across a shootdown -> where
        self.irq_off_at: dict[str, str] = {}  # lock waited for with interrupts off -> where

    def run(self) -> None:
        """Raise ValueError at the first fault."""
        for number, program in enumerate(self.programs):
            path = f"{self.path}.roles[{number}].program"
            if nested(program) > MOST_NESTED:
                _fail(path, f"more than {MOST_NESTED} repeats and choices inside each other")
            for here, phase in walk(program, path):
                for what in self.known:
                    if hasattr(phase, what):
                        errors.lookup(f"{here}.{what}", what, getattr(phase, what), self.known[what])
            self.block(program, path, (), False)
            still = stillness(program)
            if still.through is not None:
                _fail(path, "can run through in no time: every choice of branches needs a Compute or Block")
            self.endless(program, path)
            if still.most_around > MAX_STILL:
                many = f"can pass {still.most_around} phases in no time, of at most {MAX_STILL}"
                _fail(path, f"{many}: they need a Compute or Block between them")
        self.queue_ends()
        self.deadlocks()

    def endless(self, program: tuple[Phase, ...], path: str) -> None:
        """Refuse a Repeat that stands still in time for too many phases, by its own path."""
        for here, phase in walk(program, path):
            if isinstance(phase, Repeat) and stillness((phase,)).most > MAX_STILL:
                many = f"can pass {stillness((phase,)).most} phases in no time, of at most {MAX_STILL}"
                _fail(here, f"{many}: repeat fewer times, or with a Compute or Block on every path")

    def block(self, phases: tuple[Phase, ...], path: str, outer: tuple[Lock, ...], repeated: bool) -> None:
        """Check one block; outer: the locks that enclosing blocks hold, outermost first."""
        held: tuple[Lock, ...] = ()
        for place, phase in enumerate(phases):
            here = f"{path}[{place}]"
            if isinstance(phase, Lock):
                self.take(phase, here, outer + held)
                held = (*held, phase)
            elif isinstance(phase, Unlock):
                if not held or held[-1].lock != phase.lock:
                    last = f'"{held[-1].lock}" is' if held else "none is"
                    _fail(here, f'unlocks "{phase.lock}", but {last} the lock that this block took last')
                held = held[:-1]
            else:
                self.step(phase, here, outer + held, repeated)
        if held:
            _fail(path, f'takes "{held[-1].lock}" and does not release it in the same block')

    def step(self, phase: Phase, here: str, held: tuple[Lock, ...], repeated: bool) -> None:
        """Check a phase that is neither Lock nor Unlock under the locks held there."""
        if isinstance(phase, (Get, Put, Barrier, Block)):
            self.refuse_wait(f"{phase.kind} can block", here, held)
        elif isinstance(phase, Shootdown):
            self.shootdown(here, held)
        elif isinstance(phase, Repeat):
            if repeated:
                _fail(here, "a repeat inside another repeat")
            self.block(phase.phases, f"{here}.phases", held, True)
        elif isinstance(phase, Choose):
            for number, branch in enumerate(phase.branches):
                self.block(branch.phases, f"{here}.branches[{number}].phases", held, repeated)

    def take(self, phase: Lock, here: str, held: tuple[Lock, ...]) -> None:
        if phase.lock in (lock.lock for lock in held):
            _fail(here, f'takes "{phase.lock}", which is already held')
        if self.kinds[phase.lock] == "mutex":
            self.refuse_wait("a mutex can block", here, held)
            if phase.irq_off:
                _fail(here, "a mutex cannot switch interrupts off")
        for lock in held:
            self.taken_under[lock.lock].add(phase.lock)
        if phase.irq_off or any(lock.irq_off for lock in held):
            self.irq_off_at[phase.lock] = here

    def refuse_wait(self, what: str, here: str, held: tuple[Lock, ...]) -> None:
        for lock in held:
            if self.kinds[lock.lock] in SPIN_KINDS:
                _fail(here, f'{what}, but the spinlock "{lock.lock}" is held')

    def shootdown(self, here: str, held: tuple[Lock, ...]) -> None:
        for lock in held:
            if lock.irq_off:
                _fail(here, f'a shootdown with interrupts off (lock "{lock.lock}") can deadlock')
            self.acked_under[lock.lock] = here

    def queue_ends(self) -> None:
        used = [phase for program in self.programs for _, phase in walk(program, "")]
        puts = {phase.queue for phase in used if isinstance(phase, Put)}
        gets = {phase.queue for phase in used if isinstance(phase, Get)}
        for name in sorted(puts ^ gets):
            end = "put to but never got from" if name in puts else "got from but never put to"
            _fail(f"{self.path}.queues", f'"{name}" is {end}, so its users would stop')

    def deadlocks(self) -> None:
        """Lock orders with a cycle, and interrupts-off waiters for a lock whose holder awaits a shootdown."""
        after = {name: self.reachable(name) for name in self.taken_under}
        for name, later in after.items():
            if name in later:
                other = next(lock for lock in sorted(later) if name in after[lock])
                _fail(self.path, f'locks "{name}" and "{other}" are taken in both orders')
        for name, here in sorted(self.irq_off_at.items()):
            for held in sorted({name, *after[name]} & self.acked_under.keys()):
                where = self.acked_under[held]
                _fail(here, f'waits with interrupts off behind "{held}", held across the shootdown at {where}')

    def reachable(self, name: str) -> set[str]:
        found: set[str] = set()
        rest = list(self.taken_under[name])
        while rest:
            lock = rest.pop()
            if lock not in found:
                found.add(lock)
                rest.extend(self.taken_under[lock])
        return found


def _fail(path: str, fault: str) -> NoReturn:
    raise ValueError(f"{path}: {fault}")
