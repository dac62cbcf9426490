"""Compile the engine before the first simulation, with a message."""

from __future__ import annotations

import time

from rich.console import Console

from kvmgym.core.jit import is_compiled
from kvmgym.measure.simulate import simulate
from kvmgym.params import Branch, Choose, Compute, Dist, Host, Lock, LockSpec, Ops, Role, Scenario, Unlock, Vm, Workload

_TINY = Workload(
    "tiny",
    "what compile_once simulates",
    (
        Role(
            "main",
            (
                Choose((Branch(1.0, (Lock("a"), Compute(Dist.exponential(500)), Unlock("a"))),)),
                Compute(Dist.constant(1000)),
                Ops(),
            ),
        ),
    ),
    locks=(LockSpec("a"),),
)


def compile_once(console: Console) -> float:
    """Make sure that the engine's machine code is there; the first time after an installation or an edit takes half a
    minute or more and says so. Returns the seconds it took."""
    began = time.perf_counter()
    scenario = Scenario("tiny", Host(pcpus=2), (Vm("a", 2, _TINY), Vm("b", 2, _TINY)))
    if is_compiled():
        simulate(scenario, "legacy", duration_ns=1000, warmup_ns=0)
    else:
        with console.status("compiling the engine, once for this installation (about a minute) …"):
            simulate(scenario, "legacy", duration_ns=1000, warmup_ns=0)
        console.print(f"compiled the engine in {time.perf_counter() - began:.0f} s; later starts take under 2 s")
    return time.perf_counter() - began
