"""A checked run of a user's own policy before the fast ones, which check nothing.

The function runs as plain Python, with its compiled helpers as plain Python too, on copies of the records of some real
decisions of the scenario. What compiled code would answer with nonsense or a crash is one ValueError here, with the
policy's name and the line.
"""

from __future__ import annotations

import dis
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from inspect import CO_VARARGS, CO_VARKEYWORDS
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any

import numpy as np

from kvmgym.core import engine, layout
from kvmgym.core.jit import disabled
from kvmgym.core.memory import World, view
from kvmgym.params import Compute, Dist, Host, Lock, LockSpec, Ops, Role, Scenario, Unlock, Vm, Workload
from kvmgym.policies import simple
from kvmgym.policies.compiled import compile_policy
from kvmgym.policies.digest import code_of, reach
from kvmgym.policies.interpreted import interpreted
from kvmgym.world.blueprint import Blueprint

DECISIONS = 40  # that are checked in a scenario
_SPAN_NS = 20_000_000
_ENOUGH = 100_000  # lines of the policy, after which the stretch ends
_LINES = 200_000  # of a policy, after which it is taken for endless
_VARIABLE = CO_VARARGS | CO_VARKEYWORDS
_OPCODES = 2_000_000  # of loops on one line, likewise
SCRATCH = frozenset(name for name, _, text in layout.ASK_FIELDS if text.endswith("; policy"))
MAY_WRITE = {"vm": frozenset[str](), "vcpus": frozenset({"dy_eligible"}), "ask": SCRATCH}
_FIELDS = [name for fields in (layout.VM_FIELDS, layout.VCPU_FIELDS, layout.ASK_FIELDS) for name, _, _ in fields]


@dataclass(frozen=True)
class Records:
    """Copies of what a policy is given. vm: [1] VM. vcpus: [n] VCPU. ask: [1] ASK."""

    vm: Any
    vcpus: Any
    ask: Any

    @classmethod
    def copied(cls, vm: Any, vcpus: Any, ask: Any) -> Records:
        """Copies of a VM record, the VCPU records and an ASK record, with attributes that numba's arrays have too."""
        one = [np.array([part], part.dtype).view(np.recarray) for part in (vm, ask)]
        return cls(one[0], vcpus.copy().view(np.recarray), one[1])

    def again(self) -> Records:
        """Copies of these."""
        return Records(self.vm.copy(), self.vcpus.copy(), self.ask.copy())


class Checker:
    """One policy's function, checked at every call. ValueError with its name and line."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.plain = interpreted(function)
        self.lines = 0  # that were followed so far
        self._check_signature()
        self.codes = {code for each in reach(function).functions for code in code_of(each)}

    def _check_signature(self) -> None:
        code = self.plain.__code__
        plain = not self.plain.__defaults__ and not code.co_kwonlyargcount and not code.co_flags & _VARIABLE
        if code.co_argcount != 4 or not plain:
            raise self.error("must take exactly four arguments, without defaults: vm, vcpus, me, ask", None)

    def call(self, records: Records) -> int:
        """What the policy answers; what it may write is written to `records`."""
        before, me = records.again(), int(records.ask[0].me)
        tracer = _Tracer(self.codes)
        try:
            with tracer, np.errstate(all="ignore"):
                target = self.plain(records.vm[0], records.vcpus, me, records.ask[0])
        except _EndlessError:
            raise self.error(
                f"does not come to an end within {_LINES:,} lines or {_OPCODES:,} steps", tracer.place
            ) from None
        except Exception as error:
            raise self.error(_in_words(error), self._place_of(error.__traceback__)) from error
        self.lines += tracer.lines
        n = len(records.vcpus)
        self._check_target(target, n, me, tracer)
        changed = _changed(before, records)
        if changed:
            field, may = changed
            place = self._writer(before, me)
            raise self.error(f"writes to {field}; it may write to {may}", place)
        return int(target)

    def answer(self, vm: Any, vcpus: Any, ask: Any) -> int:
        """What the policy answers to a VM record, its VCPU records and the ASK record, which gets what it wrote."""
        records = Records.copied(vm, vcpus, ask)
        target = self.call(records)
        vcpus["dy_eligible"] = records.vcpus["dy_eligible"]
        for field in SCRATCH:
            ask[field] = records.ask[field][0]
        return target

    def error(self, text: str, place: tuple[CodeType, int] | None) -> ValueError:
        """What is wrong, and where."""
        code, line = place or (self.plain.__code__, self.plain.__code__.co_firstlineno)
        return ValueError(f"policy {self.name!r}, {Path(code.co_filename).name}, line {line}: {text}")

    def _check_target(self, target: Any, n: int, me: int, tracer: _Tracer) -> None:
        what = f"returns {str(target)[:40]}"
        allowed = f"must be the index of another vCPU, 0 to {n - 1}, or NONE (-1)"
        if isinstance(target, (bool, np.bool_)) or not isinstance(target, (int, np.integer)):
            raise self.error(f"{what}, a {type(target).__name__}; {allowed}", tracer.place)
        if target == me:
            raise self.error(f"{what}, the spinner itself (me); {allowed}", tracer.place)
        if not layout.NONE <= target < n:
            raise self.error(f"{what}; {allowed}", tracer.place)

    def _place_of(self, traceback: TracebackType | None) -> tuple[CodeType, int] | None:
        found = None
        while traceback is not None:
            if traceback.tb_frame.f_code in self.codes:
                found = traceback.tb_frame.f_code, traceback.tb_lineno
            traceback = traceback.tb_next
        return found

    def _writer(self, before: Records, me: int) -> tuple[CodeType, int] | None:
        """The line that writes what it may not: the call again, looking after each line."""
        records = before.again()
        tracer = _Tracer(self.codes, lambda: _changed(before, records) is not None)
        with tracer, np.errstate(all="ignore"):
            self.plain(records.vm[0], records.vcpus, me, records.ask[0])
        return tracer.seen


class _EndlessError(Exception):
    pass


def _loops_on_a_line(code: CodeType) -> bool:
    """Whether a loop of the code lies on one line, of which Python tells no second `line` event."""
    lines = {instruction.offset: instruction.positions.lineno for instruction in dis.get_instructions(code)}  # type: ignore[union-attr]
    jumps = [i for i in dis.get_instructions(code) if i.opcode in dis.hasjrel and i.argval <= i.offset]
    return any(lines[jump.offset] == lines.get(jump.argval) for jump in jumps)


class _Tracer:
    """Follows the lines of a policy. place: the last one; seen: the one after which `watch` was true first."""

    def __init__(self, codes: set[CodeType], watch: Callable[[], bool] | None = None) -> None:
        self.codes, self.watch = codes, watch
        self.place: tuple[CodeType, int] | None = None
        self.seen: tuple[CodeType, int] | None = None
        self.lines = self.opcodes = 0
        self.tight = {code for code in codes if _loops_on_a_line(code)}

    def __enter__(self) -> _Tracer:
        self._mine = sys.gettrace() is None  # a debugger's or coverage's stays
        if self._mine:
            sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        if self._mine:
            sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code not in self.codes:
            return None
        if event == "call":
            frame.f_trace_opcodes = frame.f_code in self.tight
        elif event == "opcode":
            self.opcodes += 1
            if self.opcodes > _OPCODES:
                raise _EndlessError
        if event in ("line", "return"):
            if self.watch and self.seen is None and self.watch():
                self.seen = self.place
            self.place = frame.f_code, frame.f_lineno
            self.lines += 1
            if self.lines > _LINES:
                raise _EndlessError
        return self._trace


def _changed(before: Records, after: Records) -> tuple[str, str] | None:
    """A field that was written and may not be, and what of its record may be."""
    for part, may in MAY_WRITE.items():
        old, new = getattr(before, part), getattr(after, part)
        if old.tobytes() == new.tobytes():
            continue
        for field in old.dtype.names:
            if field not in may and old[field].tobytes() != new[field].tobytes():
                return f"{part}.{field}", f"dy_eligible of vCPUs and to {', '.join(sorted(SCRATCH))} of ask only"
    return None


def _in_words(error: Exception) -> str:
    """An error of plain Python as one line; for a field that does not exist the nearest one that does."""
    text = " ".join(str(error).split())[:200]
    field = re.search(r"rec(?:ord|array).* has no attribute '?(\w+)|no field of name (\w+)", text)
    if field:
        name = field[1] or field[2]
        near = get_close_matches(name, _FIELDS, 1)
        return f"there is no field {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def check_on(blueprint: Blueprint, checker: Checker, shows: int, weights: tuple[float, ...]) -> None:
    """Let the policy decide at the first decisions of a scenario. Of VMs without a decision in the stretch it decides
    on a busy host. ValueError for a policy that does what it may not."""
    sizes = {vm.vcpus for vm in blueprint.scenario.vms if vm.vcpus > 1}
    seen = _run(blueprint, checker, shows, weights)
    for size in sorted(sizes - seen):
        _run(_busy(size), checker, shows, weights)


def _run(blueprint: Blueprint, checker: Checker, shows: int, weights: tuple[float, ...]) -> set[int]:
    """Returns the sizes of the VMs that decided."""
    row = blueprint.worlds([0])[0]
    world = view(row, blueprint.static)
    world.host["shows"] = shows
    world.ask["weights"][0, : len(weights)] = weights
    nobody: Any = simple.none if disabled() else compile_policy("none", simple.none)
    seen, until = set(), checker.lines + _ENOUGH
    with np.errstate(over="ignore"):
        for _ in range(DECISIONS):
            status = engine.advance_row(row, blueprint.static, _SPAN_NS, nobody, layout.YES)
            if status != layout.AT_DECISION or checker.lines > until:
                break
            seen.add(_decide(row, blueprint.static, world, checker))
    return seen


def _decide(row: Any, static: Any, world: World, checker: Checker) -> int:
    ask = world.ask[0]
    vm = world.vm[ask.vm]
    vcpus = world.vcpu[vm.first : vm.first + vm.vcpus]
    engine.answer_row(row, static, checker.answer(vm, vcpus, ask))
    return len(vcpus)


def _busy(vcpus: int) -> Blueprint:
    """A host on which a VM of this size spins at once: one lock, held for long, on half the pCPUs."""
    program = (Lock("a"), Compute(Dist.exponential(50_000)), Unlock("a"), Compute(Dist.exponential(5_000)), Ops())
    spins = Workload("checked", "what policies are checked on", (Role("main", program),), locks=(LockSpec("a"),))
    return Blueprint(Scenario("checked", Host(pcpus=(vcpus + 1) // 2), (Vm("a", vcpus, spins), Vm("b", 2, spins))))
