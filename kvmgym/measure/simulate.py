"""Run a scenario under a policy: `simulate` for one seed, `simulate_batch` for many worlds on threads."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from kvmgym.core import engine, layout
from kvmgym.core.memory import view
from kvmgym.measure import metrics
from kvmgym.params import Scenario
from kvmgym.params.errors import check
from kvmgym.policies import Policy, PolicyFunction, as_policy
from kvmgym.world.blueprint import Blueprint, Bytes
from kvmgym.world.deadlock import DeadlockError, explain_deadlock

DURATION_NS, WARMUP_NS = 1_000_000_000, 200_000_000


def simulate(
    scenario: Scenario | Blueprint,
    policy: str | Policy | PolicyFunction,
    *,
    seed: int = 0,
    duration_ns: int = DURATION_NS,
    warmup_ns: int = WARMUP_NS,
) -> metrics.Result:
    """Simulate one world of `scenario` for warmup_ns + duration_ns and measure the last duration_ns.

    policy: a name (kvmgym.policies.POLICIES), or your own function `policy(vm, vcpus, me, ask) -> index`. The same seed
    gives the same bits. Errors: ValueError for an unknown policy or an impossible time, DeadlockError when a guest
    deadlocks.

    >>> from kvmgym.params import Compute, Dist, Host, Ops, Role, Scenario, Vm, Workload
    >>> spin_free = Workload("demo", "", (Role("main", (Compute(Dist.constant(1_000_000)), Ops())),))
    >>> result = simulate(Scenario("one", Host(pcpus=1), (Vm("a", 1, spin_free),)), "legacy", duration_ns=10**9)
    >>> round(result.vms[0].ops_per_s, -1)
    1000.0
    """
    return simulate_batch(scenario, policy, seeds=[seed], duration_ns=duration_ns, warmup_ns=warmup_ns)[0]


def simulate_batch(
    scenario: Scenario | Blueprint,
    policy: str | Policy | PolicyFunction,
    *,
    seeds: Sequence[int],
    duration_ns: int = DURATION_NS,
    warmup_ns: int = WARMUP_NS,
    threads: int = 1,
) -> list[metrics.Result]:
    """`simulate` for each seed, on `threads` threads; the results do not depend on their number."""
    check(duration_ns >= 1, "duration_ns", duration_ns, "at least 1")
    check(warmup_ns >= 0, "warmup_ns", warmup_ns, "0 or more")
    chosen = as_policy(policy)
    blueprint = scenario if isinstance(scenario, Blueprint) else Blueprint(scenario)
    wanted = chosen.prepare(blueprint.scenario)
    if wanted is not blueprint.scenario:
        blueprint = Blueprint(wanted, blueprint.trace_rows)
    chosen.check_on(blueprint)
    rows = blueprint.worlds(seeds)
    for row in rows:
        chosen.install(view(row, blueprint.static))

    def run(row: Bytes) -> None:
        advance(blueprint, row, warmup_ns, chosen)
        engine.settle_row(row, blueprint.static, layout.YES)
        advance(blueprint, row, warmup_ns + duration_ns, chosen)
        engine.settle_row(row, blueprint.static, layout.NO)

    if threads == 1 or len(rows) == 1:
        for row in rows:
            run(row)
    else:
        chosen.engine_function  # noqa: B018  compile before threads start
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, rows))
    return [
        metrics.read(blueprint, view(row, blueprint.static), chosen.name, seed)
        for row, seed in zip(rows, seeds, strict=True)
    ]


def advance(blueprint: Blueprint, row: Bytes, until_ns: int, policy: Policy) -> None:
    """Run one row to `until_ns`. DeadlockError when a guest deadlocks."""
    with np.errstate(over="ignore"):  # interpreted runs: random streams wrap on purpose
        status = engine.advance_row(row, blueprint.static, until_ns, policy.engine_function, layout.NO)
    if status == layout.AT_DEADLOCK:
        raise DeadlockError(explain_deadlock(blueprint, view(row, blueprint.static)))
