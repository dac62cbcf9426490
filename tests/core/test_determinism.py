"""Same seed, same bits: compiled or interpreted, alone or in a batch, on any number of threads, in any steps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from digests import booted, digest, run
from examples import EXAMPLES, KERNEL_EXAMPLES, MS, US
from hypothesis import given
from hypothesis import strategies as st
from strategies import many, policies, scenarios, seeds

from kvmgym.core import engine, layout
from kvmgym.core.jit import jit
from kvmgym.core.layout import AT_DECISION, AT_TIME, NO, YES
from kvmgym.core.memory import carve, view
from kvmgym.measure.simulate import advance, simulate, simulate_batch
from kvmgym.params import Compute, Costs, Dist, Host, Lock, LockSpec, Ple, Role, Scenario, Unlock, Vm, Workload
from kvmgym.policies import BY_NAME
from kvmgym.world.blueprint import Blueprint

HERE = Path(__file__).parents[1]
INTERPRETED_NS = 700 * US  # plain Python makes some thousand events a second


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="compares this process, compiled, with an interpreted one")
def test_compiled_and_interpreted_runs_agree_bit_for_bit():
    pairs = {"mixed": ("relaxed", "random"), "crowded": ("legacy", "strict"), "wide": ("relaxed", "legacy-i-bug"),
             "old_kernel": ("none", "relaxed-only"), "paravirtual": ("linear", "series-v2"),
             "tasked": ("clairvoyant-working", "2017"), "mixed_on_5.4": ("2019",), "mixed_on_6.1": ("random",),
             "mixed_on_6.12": ("legacy",)}  # fmt: skip
    examples = {**EXAMPLES, **KERNEL_EXAMPLES}
    runs = [(name, policy, 3, INTERPRETED_NS, 100) for name, chosen in pairs.items() for policy in chosen]
    plain = subprocess.run(
        [sys.executable, str(HERE / "support" / "digests.py")],
        input=json.dumps([(examples[name].to_toml(), *rest) for name, *rest in runs]),
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(plain.stdout) == [run(examples[name], *rest) for name, *rest in runs]


@jit
def answer_row(state, static, target):
    """engine.answer for one row of bytes."""
    engine.answer(carve(state, static), target)


@many(25)
@given(scenarios(), policies, seeds, st.lists(st.integers(0, MS), max_size=6))
def test_any_way_to_the_same_time_gives_the_same_bits(scenario, policy, seed, stops):
    """In one go; stopping here and there; from a snapshot; in a batch beside another world."""
    blueprint, (whole, split, other) = booted(scenario, policy, seed, seed, seed + 1)
    chosen = BY_NAME[policy]
    advance(blueprint, whole, MS, chosen)
    expected = digest(blueprint, whole)
    for until_ns in sorted(stops):
        advance(blueprint, split, until_ns, chosen)
        snapshot = split.copy()
        advance(blueprint, split, MS, chosen)
        assert digest(blueprint, split) == expected
        split = snapshot
    status = np.full(2, -1, np.int64)
    rows = np.stack([other, booted(scenario, policy, seed)[1][0]])
    with np.errstate(over="ignore"):
        engine.advance_rows(rows, blueprint.static[None], np.zeros(2, np.int64), MS, chosen.engine_function, NO, status)
    assert status.tolist() == [AT_TIME, AT_TIME]
    assert digest(blueprint, rows[1]) == expected
    assert digest(blueprint, rows[0]) != expected


@pytest.mark.parametrize("name", EXAMPLES)
def test_many_small_steps_are_one_large_one(name):
    blueprint, (whole, split) = booted(EXAMPLES[name], "relaxed", 1, 1)
    advance(blueprint, whole, 2 * MS, BY_NAME["relaxed"])
    for until_ns in range(0, 2 * MS + 1, 500):
        advance(blueprint, split, until_ns, BY_NAME["relaxed"])
    assert digest(blueprint, split) == digest(blueprint, whole)


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("policy", ["legacy", "relaxed", "random", "linear", "clairvoyant"])
def test_answering_decisions_from_outside_is_the_compiled_rollout(name, policy):
    blueprint, (inside, outside) = booted(EXAMPLES[name], policy, 2, 2)
    advance(blueprint, inside, 2 * MS, BY_NAME[policy])
    world, chosen = view(outside, blueprint.static), BY_NAME[policy]
    decisions = 0
    while engine.advance_row(outside, blueprint.static, 2 * MS, chosen.engine_function, YES) == AT_DECISION:
        ask = world.ask[0]
        first, n = int(world.vm[ask.vm].first), int(world.vm[ask.vm].vcpus)
        target = chosen.function(world.vm[ask.vm], world.vcpu[first : first + n], int(ask.me), ask)
        answer_row(outside, blueprint.static, target)
        decisions += 1
    assert digest(blueprint, outside) == digest(blueprint, inside)
    assert decisions > 10 or name == "old_kernel"


def test_results_do_not_depend_on_batch_size_or_threads():
    times = {"duration_ns": 2 * MS, "warmup_ns": MS}
    for name, scenario in EXAMPLES.items():
        alone = [simulate(scenario, "relaxed", seed=seed, **times) for seed in range(5)]
        for threads in (1, 2, 4):
            assert simulate_batch(scenario, "relaxed", seeds=range(5), threads=threads, **times) == alone, name
        assert len({result.events for result in alone}) > 1, "different seeds, different runs"


def same_course(blueprint, one, other):
    """True when two worlds did the same, whatever their counters say."""
    one, other = view(one, blueprint.static), view(other, blueprint.static)
    assert one.host[0].trace_len > 0
    return (
        all(np.array_equal(getattr(one, part), getattr(other, part)) for part in ("trace", "tree_ns"))
        and np.array_equal(one.vcpu["rng"], other.vcpu["rng"])
        and np.array_equal(one.se["vruntime_ns"], other.se["vruntime_ns"])
    )


@many(25)
@given(scenarios(), policies, seeds, st.lists(st.integers(0, 3 * MS), min_size=1, max_size=8))
def test_measuring_changes_nothing(scenario, policy, seed, times):
    blueprint, (plain, measured) = booted(scenario, policy, seed, seed, trace_rows=4096)
    for place, until_ns in enumerate(sorted(times)):
        advance(blueprint, measured, until_ns, BY_NAME[policy])
        engine.settle_row(measured, blueprint.static, YES if place % 2 else NO)
    for row in (plain, measured):
        advance(blueprint, row, 4 * MS, BY_NAME[policy])
    assert same_course(blueprint, plain, measured)


def test_measuring_does_not_delay_a_pause_loop_exit():
    """Once broken: a spin that was settled was taken for a new one at the next tick that cost nothing."""
    program = (Lock("l"), Compute(Dist.constant(5 * MS), kernel_share=1.0), Unlock("l"))
    workload = Workload("hold", "", (Role("main", program),), (LockSpec("l"),))
    host = Host(2, hz=1000, costs=Costs.zero(), ple=Ple(window_ns=1_500 * US))
    blueprint = Blueprint(Scenario("s", host, (Vm("a", 2, workload),)), trace_rows=100)
    plain, measured = blueprint.worlds([0, 0])
    advance(blueprint, measured, 900 * US, BY_NAME["legacy"])
    engine.settle_row(measured, blueprint.static, YES)
    for row in (plain, measured):
        advance(blueprint, row, 4 * MS, BY_NAME["legacy"])
        world = view(row, blueprint.static)
        exits = world.trace["time_ns"][world.trace["kind"] == layout.TR_PLE].tolist()
        assert exits == [1_500 * US]
    assert same_course(blueprint, plain, measured)
    result = simulate(blueprint, "legacy", warmup_ns=900 * US, duration_ns=3_100 * US)
    assert [vcpu.spin_ns for vcpu in result.vms[0].vcpus] == [0, 3_100 * US]


def test_the_seed_decides():
    for name, scenario in EXAMPLES.items():
        assert run(scenario, "legacy", 7, MS) == run(scenario, "legacy", 7, MS), name
        assert run(scenario, "legacy", 7, MS) != run(scenario, "legacy", 8, MS), name
        assert run(scenario, "legacy", 7, MS) != run(scenario, "none", 7, MS) or name == "old_kernel", name
