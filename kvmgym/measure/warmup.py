"""Compile the engine before the first simulation or episode, with a spinner where something is compiled."""

from __future__ import annotations

import time

from rich.console import Console

from kvmgym.core.notes import told_of_compiling
from kvmgym.env.single import DirectedYieldEnv
from kvmgym.measure.simulate import simulate
from kvmgym.params import Branch, Choose, Compute, Dist, Host, Lock, LockSpec, Ops, Role, Scenario, Unlock, Vm, Workload
from kvmgym.threads import interrupts_kept

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
_SCENARIO = Scenario("tiny", Host(pcpus=2), (Vm("a", 2, _TINY), Vm("b", 2, _TINY)))


def compile_once(console: Console, environment: bool = False) -> float:
    """Make sure that the engine's machine code is there, and with `environment` that of reset and step. The first time
    after an installation or an edit takes half a minute and says so. Returns the seconds it took."""
    began = time.perf_counter()
    status = console.status("compiling the engine, once for this installation (about half a minute) …")
    compiled: list[bool] = []

    def compiling() -> None:
        if not compiled:
            compiled.append(True)
            status.start()

    try:
        with interrupts_kept(), told_of_compiling(compiling):
            simulate(_SCENARIO, "legacy", duration_ns=1000, warmup_ns=0)
            if environment:
                _take_a_step()
    finally:
        status.stop()
    if compiled:
        console.print(f"compiled the engine in {time.perf_counter() - began:.0f} s; later starts take under 2 s")
    return time.perf_counter() - began


def _take_a_step() -> None:
    env = DirectedYieldEnv("shootdowns-small", duration_ns=2_000_000)
    env.reset(seed=0)
    env.step(env.worlds.max_vcpus)
    env.close()
