"""Run a scenario under a policy: `simulate` for one seed, `simulate_batch` for many worlds on threads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from kvmgym.core import engine, layout
from kvmgym.core.memory import view
from kvmgym.measure import metrics
from kvmgym.params import Scenario
from kvmgym.params.errors import MAX_NS, check, integer
from kvmgym.policies import Policy, PolicyFunction, as_policy
from kvmgym.scenarios import as_scenario
from kvmgym.threads import Stop, Stopped, Threads, never
from kvmgym.world.blueprint import Blueprint, Bytes, seed_list
from kvmgym.world.deadlock import DeadlockError, explain_deadlock

DURATION_NS, WARMUP_NS = 1_000_000_000, 200_000_000
Simulated: TypeAlias = "str | Path | Scenario | Blueprint"


def simulate(
    scenario: Simulated,
    policy: str | Policy | PolicyFunction,
    *,
    seed: int = 0,
    duration_ns: int = DURATION_NS,
    warmup_ns: int = WARMUP_NS,
) -> metrics.Result:
    """Simulate one world of `scenario` for warmup_ns + duration_ns and measure the last duration_ns.

    scenario: a name, a .toml file, a Scenario or its Blueprint. policy: a name (kvmgym.policies.POLICIES), or your own
    function `policy(vm, vcpus, me, ask) -> index`. The same seed gives the same bits. Errors: ValueError for an unknown
    scenario or policy, a seed outside 0 to 2^63 - 1, or times that are no whole ns or above MAX_NS together; OSError
    for a file that cannot be read; DeadlockError when a guest deadlocks.

    >>> from kvmgym.params import Compute, Dist, Host, Ops, Role, Scenario, Vm, Workload
    >>> spin_free = Workload("demo", "", (Role("main", (Compute(Dist.constant(1_000_000)), Ops())),))
    >>> result = simulate(Scenario("one", Host(pcpus=1), (Vm("a", 1, spin_free),)), "legacy", duration_ns=10**9)
    >>> round(result.vms[0].ops_per_s, -1)
    1000.0
    """
    return simulate_batch(scenario, policy, seeds=[seed], duration_ns=duration_ns, warmup_ns=warmup_ns)[0]


def simulate_batch(
    scenario: Simulated,
    policy: str | Policy | PolicyFunction,
    *,
    seeds: Sequence[int],
    duration_ns: int = DURATION_NS,
    warmup_ns: int = WARMUP_NS,
    threads: int = 1,
    stopped: Stopped = never,
) -> list[metrics.Result]:
    """`simulate` for each seed, on `threads` threads; the results do not depend on their number. All worlds are held at
    once: as many seeds as MAX_BYTES bear. kvmgym.threads.Stop is raised soon after `stopped()` has become True."""
    duration_ns, warmup_ns = window(duration_ns, warmup_ns)
    seeds = seed_list(seeds)
    threads = integer("threads", threads, 1, 1024)
    chosen = as_policy(policy)
    blueprint = scenario if isinstance(scenario, Blueprint) else Blueprint(as_scenario(scenario, " or a Blueprint"))
    wanted = chosen.prepare(blueprint.scenario)
    if wanted is not blueprint.scenario:
        blueprint = Blueprint(wanted, blueprint.trace_rows)
    chosen.check_on(blueprint)
    rows = blueprint.worlds(seeds)
    for row in rows:
        chosen.install(view(row, blueprint.static))

    def run(row: Bytes, others: Stopped) -> None:
        def either() -> bool:
            return others() or stopped()

        advance(blueprint, row, warmup_ns, chosen, either)
        engine.settle_row(row, blueprint.static, layout.YES)
        advance(blueprint, row, warmup_ns + duration_ns, chosen, either)
        engine.settle_row(row, blueprint.static, layout.NO)

    if threads == 1 or len(rows) == 1:
        for row in rows:
            run(row, never)
    else:
        chosen.engine_function  # noqa: B018  compile before threads start
        pool = Threads(min(threads, len(rows)))
        try:
            pool.map(run, list(rows))
        finally:
            pool.close()
    return [
        metrics.read(blueprint, view(row, blueprint.static), chosen.name, seed)
        for row, seed in zip(rows, seeds, strict=True)
    ]


def window(duration_ns: object, warmup_ns: object) -> tuple[int, int]:
    """The times of a measurement, checked: whole ns, together at most MAX_NS. Errors: ValueError."""
    measured = integer("duration_ns", duration_ns, 1, MAX_NS)
    before = integer("warmup_ns", warmup_ns, 0, MAX_NS)
    check(measured + before <= MAX_NS, "duration_ns + warmup_ns", measured + before, f"at most {MAX_NS}")
    return measured, before


def advance(blueprint: Blueprint, row: Bytes, until_ns: int, policy: Policy, stopped: Stopped = never) -> None:
    """Run one row to `until_ns`, or raise Stop when `stopped()` is True. DeadlockError when a guest deadlocks."""
    status = layout.GOING_ON
    with np.errstate(over="ignore"):  # interpreted runs: random streams wrap on purpose
        while status == layout.GOING_ON:
            if stopped():
                raise Stop
            status = engine.advance_row(row, blueprint.static, until_ns, policy.engine_function, layout.NO)
    if status == layout.AT_DEADLOCK:
        raise DeadlockError(explain_deadlock(blueprint, view(row, blueprint.static)))
