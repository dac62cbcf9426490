"""`kvmgym bench`: the simulator's speed, as medians of several runs on this machine, each figure with its target.

Events are changes of a vCPU's or pCPU's state at a simulated time, counted where the state changes (core/account.py and
its callers): a phase that ends, a spin that begins or ends, an interrupt sent, taken or finished, a spin exit, a
switch, a wakeup, a tick. Turns of the loop that change nothing are none.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kvmgym.bench import env
from kvmgym.bench.figures import MS, WARMUP_NS, Figure, at_least, at_most, machine, scenario_of, timed
from kvmgym.core import events, layout, rng
from kvmgym.core.jit import jit
from kvmgym.core.memory import carve, view
from kvmgym.measure.simulate import advance
from kvmgym.params import Compute, Dist, Host, Role, Scenario, Vm, Workload
from kvmgym.policies import BY_NAME
from kvmgym.world.blueprint import Blueprint


@dataclass(frozen=True)
class Speed:
    """Medians of one scenario's speed on one core, a second of wall time."""

    events_per_s: float
    decisions_per_s: float
    simulated_per_s: float


def speed(scenario: Scenario, policy: str, repeats: int, simulated_ns: int) -> Speed:
    """The speed of one world of `scenario` after a warm-up, over `repeats` stretches of simulated_ns."""
    blueprint, chosen = Blueprint(scenario), BY_NAME[policy]
    row = blueprint.worlds([0])[0]
    advance(blueprint, row, WARMUP_NS, chosen)
    world, found = view(row, blueprint.static), []
    for k in range(repeats):
        before = int(world.host[0]["events"]), int(world.host[0]["decisions"])
        seconds = timed(lambda k=k: advance(blueprint, row, WARMUP_NS + (k + 1) * simulated_ns, chosen))  # type: ignore[misc]
        after = int(world.host[0]["events"]), int(world.host[0]["decisions"])
        counted = ((after[0] - before[0]) / seconds, (after[1] - before[1]) / seconds)
        found.append((*counted, simulated_ns / 1e9 / seconds))
    return Speed(*(statistics.median(column) for column in zip(*found, strict=True)))


def _speed_figures(repeats: int) -> list[Figure]:
    figures = []
    for name, scenario, target in (
        ("16 pCPUs x 64 vCPUs", scenario_of(16, 4, 16), 5.0),
        ("4 pCPUs x 8 vCPUs", scenario_of(4, 1, 8), 10.0),
    ):
        measured = speed(scenario, "relaxed", repeats, 200 * MS)
        text = f"{measured.decisions_per_s / 1e3:,.0f} k decisions/s, {measured.simulated_per_s:.2f} simulated s/s"
        figures.append(at_least(f"events, {name}, dedup, relaxed", measured.events_per_s / 1e6, "M/s", target, text))
    return figures


def _scaling_figure(repeats: int) -> list[Figure]:
    """Cost of an event at 256 pCPUs against 16, VMs of 16 vCPUs, four vCPUs a pCPU; both measured in turn."""
    ratios, detail = [], []
    small, large = scenario_of(16, 4, 16), scenario_of(256, 64, 16)
    for _ in range(repeats):
        one, other = speed(small, "relaxed", 1, 100 * MS), speed(large, "relaxed", 1, 20 * MS)
        ratios.append(one.events_per_s / other.events_per_s)
        detail.append((one.events_per_s / 1e6, other.events_per_s / 1e6))
    middle = detail[sorted(range(repeats), key=ratios.__getitem__)[repeats // 2]]
    text = f"{middle[0]:.1f} and {middle[1]:.1f} M events/s"
    return [at_most("cost of an event, 256 x 1024 against 16 x 64", statistics.median(ratios), "x", 2.0, text)]


def _threads_figure(repeats: int) -> list[Figure]:
    """Eight worlds on two threads against one."""
    blueprint, chosen = Blueprint(scenario_of(16, 4, 16)), BY_NAME["relaxed"]
    ratios = []
    for _ in range(repeats):
        seconds = []
        for threads in (1, 2):
            rows = blueprint.worlds(range(8))
            with ThreadPoolExecutor(threads) as pool:
                work = [lambda row=row: advance(blueprint, row, 100 * MS, chosen) for row in rows]
                seconds.append(timed(lambda work=work, pool=pool: list(pool.map(lambda one: one(), work))))  # type: ignore[misc]
        ratios.append(seconds[0] / seconds[1])
    return [at_least("two cores against one", statistics.median(ratios), "x", 1.8)]


def _memory_figures(repeats: int) -> list[Figure]:
    blueprint = Blueprint(scenario_of(16, 4, 16))
    row = blueprint.worlds([0])[0]

    def snapshot_and_restore() -> None:
        for _ in range(1000):
            row[:] = row.copy()

    micros = statistics.median(timed(snapshot_and_restore) * 1e3 for _ in range(max(repeats, 3)))
    return [
        at_most("a world of 16 x 64", row.nbytes / 1024, "KiB", 64.0, "without the tables that all worlds share"),
        at_most("snapshot and restore of it", micros, "us", 20.0),
    ]


_FIRST_EVENT = """
import time
began = time.perf_counter()
from rich.console import Console
from kvmgym.cli.main import parser
from kvmgym.measure.warmup import compile_once
parser().parse_args(["compare"])
compile_once(Console(quiet=True))
print(time.perf_counter() - began)
"""

_FIRST_EPISODE = """
import time
began = time.perf_counter()
import kvmgym
from kvmgym.scenarios import BY_NAME
kvmgym.simulate(BY_NAME["dedup-small"], "legacy", duration_ns=1_000_000, warmup_ns=0)
env = kvmgym.DirectedYieldEnv("dedup-small")
env.reset(seed=0)
env.step(0)
print(time.perf_counter() - began)
"""


def _start_figures(repeats: int, first_compile: bool) -> list[Figure]:
    def start(script: str, cache: str | None) -> float:
        environment = {**os.environ, **({"KVMGYM_CACHE_DIR": cache} if cache else {})}
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True)
        return float(done.stdout)

    def cold(script: str) -> float:
        with tempfile.TemporaryDirectory() as folder:
            return start(script, folder)

    later = statistics.median(start(_FIRST_EVENT, None) for _ in range(max(repeats, 3)))
    figures = [at_most("start of `kvmgym compare` to the first event", later, "s", 2.0)]
    if first_compile:
        figures.append(at_most("the same after installing, compiling included", cold(_FIRST_EVENT), "s", 60.0))
        name = "first `simulate`, `reset` and `step` after installing, compiling included"
        figures.append(at_most(name, cold(_FIRST_EPISODE), "s", 35.0))
    return figures


@jit
def mm1_row(state: Any, static: Any, arrivals: Any, customers: Any) -> Any:
    """An M/M/1 queue on the event tree alone: leaf 0 arrives, leaf 1 departs. Returns the summed waiting time [ns]."""
    w = carve(state, static)
    events.rebuild(w)
    owner = w.vcpu[0]
    waiting, now, last, served, summed = 0, 0, 0, 0, 0
    events.set_time(w, layout.NO, rng.draw(w, owner, arrivals))
    while served < customers:
        leaf = events.first(w)
        now = w.tree_ns[leaf]
        summed += max(waiting - 1, 0) * (now - last)
        last = now
        if leaf == layout.NO:
            waiting += 1
            events.set_time(w, layout.NO, now + rng.draw(w, owner, arrivals))
            if waiting == 1:
                events.set_time(w, layout.YES, now + rng.draw(w, owner, arrivals + 1))
        else:
            waiting -= 1
            served += 1
            later = now + rng.draw(w, owner, arrivals + 1) if waiting > 0 else layout.INF
            events.set_time(w, layout.YES, later)
    return summed


def _mm1_engine(customers: int) -> float:
    """Customers a second through M/M/1, rho = 0.8, on this engine's event queue."""
    program = (Compute(Dist.exponential(1_250_000)), Compute(Dist.exponential(1_000_000)))
    scenario = Scenario("mm1", Host(pcpus=2), (Vm("a", 1, Workload("mm1", "", (Role("r", program),))),))
    blueprint = Blueprint(scenario)
    row = blueprint.worlds([0])[0]
    kinds = view(row, blueprint.static).dist["first"]
    first = layout.NO if kinds[0] >= 0 else layout.YES
    mm1_row(row, blueprint.static, first, layout.YES)
    return customers / timed(lambda: mm1_row(row, blueprint.static, first, customers))


def _mm1_simpy(customers: int) -> float:
    """The same on SimPy."""
    import random

    import simpy

    generator = random.Random(0)
    environment = simpy.Environment()
    server, served = simpy.Resource(environment, capacity=1), [0]
    done = environment.event()

    def customer() -> Any:
        with server.request() as turn:
            yield turn
            yield environment.timeout(generator.expovariate(1.0))
        served[0] += 1
        if served[0] == customers:
            done.succeed()

    def source() -> Any:
        while True:
            yield environment.timeout(generator.expovariate(0.8))
            environment.process(customer())

    environment.process(source())
    return customers / timed(lambda: environment.run(done))


def _mm1_figure(repeats: int) -> list[Figure]:
    try:
        ratios = [_mm1_engine(2_000_000) / _mm1_simpy(20_000) for _ in range(repeats)]
    except ImportError:
        return [Figure("M/M/1 against SimPy", None, "x", detail="SimPy is not installed")]
    return [Figure("M/M/1 customers/s on the event tree against SimPy", statistics.median(ratios), "x")]


def run(console: Console, repeats: int = 5, first_compile: bool = True) -> dict[str, Any]:
    """Measure everything and print it; returns the figures as data, with exit_status 1 when a target is missed."""
    parts: list[tuple[str, Callable[[], list[Figure]]]] = [
        ("events a second", lambda: _speed_figures(repeats)),
        ("scaling with the host", lambda: _scaling_figure(repeats)),
        ("two cores", lambda: _threads_figure(repeats)),
        ("memory", lambda: _memory_figures(repeats)),
        ("M/M/1", lambda: _mm1_figure(repeats)),
        *env.parts(repeats),
        ("start-up", lambda: _start_figures(repeats, first_compile)),
    ]
    figures: list[Figure] = []
    for what, measure in parts:
        with console.status(f"measuring {what} …"):
            figures += measure()
    table = Table(title=f"medians of {repeats}; {machine()}", title_justify="left")
    for column in ("figure", "measured", "target", "", "detail"):
        table.add_column(column, justify="right" if column in ("measured", "target") else "left")
    for figure in figures:
        verdict = "" if figure.met is None else "met" if figure.met else Text("missed", style="red")
        measured = "-" if figure.value is None else f"{figure.value:,.2f} {figure.unit}"
        table.add_row(figure.name, measured, figure.target, verdict, figure.detail)
    console.print(table)
    missed = any(figure.met is False for figure in figures)
    data = [asdict(figure) for figure in figures]
    return {"machine": machine(), "repeats": repeats, "figures": data, "exit_status": int(missed)}
