"""Random streams and draws: splitmix64's own numbers, tables against distributions, and common random numbers."""

import math
from itertools import pairwise

import numba
import numpy as np
import pytest
from examples import EXAMPLES, MS, US, blocking
from stories import Story

from kvmgym.core import rng
from kvmgym.core.jit import jit
from kvmgym.core.memory import carve, view
from kvmgym.measure.simulate import simulate
from kvmgym.params import (
    Block,
    Branch,
    Choose,
    Compute,
    Dist,
    Host,
    HostTask,
    Lock,
    LockSpec,
    Ops,
    Ple,
    Role,
    Scenario,
    Unlock,
    Vm,
    Workload,
)
from kvmgym.world.blueprint import Blueprint
from kvmgym.world.programs import quantile_table

# Vigna's splitmix64.c from seed 1234567, as many libraries quote it
SPLITMIX64 = (6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821)

SAMPLE = 10_000 if numba.config.DISABLE_JIT else 4_000_000

DISTS = {
    "exponential": Dist.exponential(20 * US),
    "short exponential": Dist.exponential(600),
    "uniform": Dist.uniform(100, 90 * US),
    "dbench hold": Dist.lognormal(800, 1.2, 0.01, 20 * US, 50 * US),
    "narrow lognormal": Dist.lognormal(50 * US, 0.5),
    "exim hold": Dist.lognormal(1 * US, 1.2),
    "long exponential": Dist.exponential(3 * MS),
    "scaled": Dist.exponential(20 * US).scaled(1000),
}


@jit
def fill_draws(state, static, v, dist, out):
    """Draws of vCPU `v`'s stream from distribution `dist`."""
    w = carve(state, static)
    owner = w.vcpu[v]
    for i in range(out.size):
        out[i] = rng.draw(w, owner, dist)


@jit
def count_choices(state, static, v, first, counts, n):
    """How often each row of a choice comes up in n draws."""
    w = carve(state, static)
    owner = w.vcpu[v]
    for _ in range(n):
        counts[rng.choose(w, owner, first, counts.size) - first] += 1


@jit
def fill_words(state, static, v, bound, out):
    """32-bit words of vCPU `v`'s stream, or whole numbers below `bound` when it is above 0."""
    owner = carve(state, static).vcpu[v]
    for i in range(out.size):
        out[i] = rng.next32(owner) if bound == 0 else rng.below(owner, bound)


def world_of(program, seed=0, vcpus=1, **tables):
    """A blueprint and a booted row of one VM."""
    workload = Workload("w", "", (Role("main", program),), **tables)
    blueprint = Blueprint(Scenario("s", Host(pcpus=1), (Vm("a", vcpus, workload),)))
    return blueprint, blueprint.worlds([seed])[0]


def draws(dist, n, seed=0):
    """n draws in ns from a distribution as the engine makes them."""
    blueprint, row = world_of((Compute(dist),), seed)
    out = np.zeros(n, np.int64)
    with np.errstate(over="ignore"):
        fill_draws(row, blueprint.static, 0, 0, out)
    return out


def words(n, seed=0, v=0, bound=0):
    """n words of the stream of vCPU `v` of a VM of 8."""
    blueprint, row = world_of((Compute(Dist.constant(1000)),), seed, 8)
    out = np.zeros(n, np.int64)
    with np.errstate(over="ignore"):
        fill_words(row, blueprint.static, v, bound, out)
    return out


# --- the generator ----------------------------------------------------------------------------------------------------


def test_splitmix64_gives_the_published_numbers():
    mix = getattr(rng.mix, "py_func", rng.mix)
    state = np.uint64(1234567)
    with np.errstate(over="ignore"):
        for expected in SPLITMIX64:
            state = state + np.uint64(0x9E3779B97F4A7C15)
            assert int(mix(state)) == expected
            assert int(rng.mix(state)) == expected


def test_a_stream_is_splitmix64_from_its_state():
    blueprint, row = world_of((Compute(Dist.constant(1000)),))
    view(row, blueprint.static).vcpu["rng"] = 1234567
    out = np.zeros(5, np.int64)
    with np.errstate(over="ignore"):
        fill_words(row, blueprint.static, 0, 0, out)
    assert out.tolist() == [number >> 32 for number in SPLITMIX64]


def test_streams_of_vcpus_and_seeds_differ_and_do_not_overlap():
    streams = [words(2_000, seed, v) for seed in range(4) for v in range(8)]
    assert len({tuple(stream[:4]) for stream in streams}) == len(streams)
    correlations = np.corrcoef(np.array(streams))
    assert np.abs(correlations - np.eye(len(streams))).max() < 5 / math.sqrt(2_000)


@pytest.mark.parametrize("bound", [1, 2, 7, 1000, 2**31 - 1])
def test_below_is_uniform_on_its_range(bound):
    out = words(SAMPLE // 10, bound=bound)
    assert out.min() >= 0 and out.max() < bound
    spread = 5 * bound / math.sqrt(12 * len(out))
    assert abs(out.mean() - (bound - 1) / 2) <= spread
    if bound == 7:
        assert chi_square(np.bincount(out), np.full(7, 1 / 7)) < 22.5  # 99.9 % point at 6 degrees of freedom


# --- distributions ----------------------------------------------------------------------------------------------------


def table_mean(dist):
    """The mean of rng.draw, exactly: 255 coarse steps, and the last divided into 256."""
    steps, table = rng.STEPS, quantile_table(dist).astype(float) * dist.unit_ns
    coarse, fine = table[: steps + 1], table[steps + 1 :]
    middles = (coarse[:-1] + coarse[1:])[:-1] / 2, (fine[:-1] + fine[1:]) / 2
    return (middles[0].sum() + middles[1].mean()) / steps


@pytest.mark.parametrize("name", DISTS)
def test_the_mean_of_a_table_is_the_distributions(name):
    assert table_mean(DISTS[name]) == pytest.approx(DISTS[name].mean_ns, rel=1e-3)


@pytest.mark.parametrize("name", DISTS)
def test_draws_follow_the_table_and_the_distribution(name):
    """The mean within 0.1 % and 5 standard errors of it, and quantiles within 5 standard errors and 1 %."""
    dist, n = DISTS[name], SAMPLE
    out = np.sort(draws(dist, n))
    error = out.std() / math.sqrt(n)
    assert abs(out.mean() - dist.mean_ns) < 1e-3 * dist.mean_ns + 5 * error
    assert out.min() >= 0 and (np.diff(out) >= 0).all() and (out % dist.unit_ns == 0).all()
    for u in (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999):
        slack = 5 * math.sqrt(u * (1 - u) / n)
        low, high = (dist.unit_ns * float(dist.quantiles(np.array([u + side]))[0]) for side in (-slack, slack))
        # below the first of the 256 steps a draw is linear from 0: exact for a uniform, short of a lognormal's tail
        allowed = 0.01 * high + dist.unit_ns + (math.inf if u < 1 / rng.STEPS and dist.kind == "lognormal" else 0)
        assert low - allowed <= out[int(u * n)] <= high + allowed, u


def test_constants_use_no_random_number():
    blueprint, row = world_of((Compute(Dist.constant(1234)),))
    before = int(view(row, blueprint.static).vcpu[0].rng)
    out = np.zeros(10, np.int64)
    fill_draws(row, blueprint.static, 0, 0, out)
    assert out.tolist() == [1234] * 10 and int(view(row, blueprint.static).vcpu[0].rng) == before


def test_scaled_draws_are_the_same_draws_times_the_factor():
    dist = Dist.lognormal(800, 1.2, 0.01, 20 * US, 50 * US)
    assert np.array_equal(draws(dist.scaled(1000), 10_000), 1000 * draws(dist, 10_000))


# --- choices ----------------------------------------------------------------------------------------------------------


def chi_square(counts, shares):
    """Pearson's statistic; degrees of freedom: one less than the classes."""
    expected = counts.sum() * np.asarray(shares)
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("weights", [(1, 1), (1, 2, 3), (1000, 1), (5, 0, 5), (1,) * 20, (60000, 600, 500, 300)])
def test_branches_come_up_by_weight(weights):
    branches = tuple(Branch(weight, (Compute(Dist.constant(1000)),)) for weight in weights)
    blueprint, row = world_of((Choose(branches),))
    kept = np.array([weight for weight in weights if weight > 0]) / sum(weights)
    counts = np.zeros(len(kept), np.int64)
    with np.errstate(over="ignore"):
        count_choices(row, blueprint.static, 0, 0, counts, SAMPLE)
    limit = {1: 10.8, 2: 13.8, 3: 16.3, 19: 43.8}[len(kept) - 1]  # 99.9 % points of chi square
    assert counts.sum() == SAMPLE and chi_square(counts, kept) < limit


@pytest.mark.parametrize("zipf", [0.0, 1.0, 2.5])
def test_locks_of_a_group_are_chosen_by_zipf(zipf):
    program = (Lock("l"), Compute(Dist.constant(100)), Unlock("l"))
    blueprint, row = world_of(program, locks=(LockSpec("l", 8, zipf=zipf),))
    shares = 1.0 / np.arange(1, 9) ** zipf
    counts = np.zeros(8, np.int64)
    with np.errstate(over="ignore"):
        count_choices(row, blueprint.static, 0, 0, counts, SAMPLE)
    assert chi_square(counts, shares / shares.sum()) < 24.3  # 99.9 % point at 7 degrees of freedom


# --- common random numbers --------------------------------------------------------------------------------------------

VARIED = (
    Compute(Dist.exponential(4 * US), kernel_share=0.5),
    Choose(tuple(Branch(weight, (Ops(weight),)) for weight in (1, 2, 3, 4))),
    Lock("l"),
    Compute(Dist.lognormal(2 * US, 1.0), kernel_share=1.0),
    Unlock("l"),
    Choose((Branch(1, (Block(Dist.exponential(30 * US)),)), Branch(4))),
    Ops(9),
)


def stories(policy, host, *tasks, kind="tas", seed=3):
    """For each vCPU of a VM the operations that it did, in order; they show what it drew."""
    workload = Workload("w", "", (Role("main", VARIED),), (LockSpec("l", 2, kind),))
    story = Story(Scenario("s", host, (Vm("a", 4, workload),), tasks), policy, seed).until(2_000)
    world = story.world
    rows = world.trace[: int(world.host[0]["trace_len"])]
    rows = rows[rows["kind"] == 12]
    return [rows["arg"][rows["vcpu"] == v].tolist() for v in range(4)]


def same_start(one, other):
    """The shorter of two lists begins the longer, and is not empty."""
    n = min(len(one), len(other))
    return n > 20 and one[:n] == other[:n]


def test_every_policy_host_and_lock_kind_meets_the_same_draws():
    quick = Host(2, ple=Ple(window_ns=1_000), slice_ns=100 * US)
    hog = HostTask("hog", Dist.exponential(50 * US), Dist.exponential(50 * US))
    runs = [
        stories("none", quick),
        stories("relaxed", quick),
        stories("random", Host(1, hz=250)),
        stories("legacy", Host(4), hog),
        stories("legacy", quick, kind="fifo"),
    ]
    for one, other in pairwise(runs):
        assert all(map(same_start, one, other))
    assert any(one != other for one, other in pairwise(runs)), "they got equally far: the test shows nothing"
    assert not any(map(same_start, runs[0], stories("none", quick, seed=4)))


def test_a_vm_meets_the_same_draws_whatever_runs_beside_it():
    """Alone its vCPUs do exactly what they do beside a VM on other pCPUs, because streams go by label."""
    host = Host(4, balance=False)
    vm = Vm("a", 2, blocking("mine"), pin=(0, 1), stream=5)
    beside = Vm("b", 2, blocking("theirs"), pin=(2, 3), stream=1)
    times = {"seed": 9, "duration_ns": 20 * MS, "warmup_ns": 0}
    alone = simulate(Scenario("one", host, (vm,)), "legacy", **times)
    both = simulate(Scenario("two", host, (beside, vm)), "legacy", **times)
    assert both.vms[1] == alone.vms[0] and alone.vms[0].ops > 500


def test_examples_draw_from_as_many_streams_as_they_have_vcpus_and_locks():
    for name, scenario in EXAMPLES.items():
        blueprint = Blueprint(scenario)
        world = view(blueprint.worlds([0])[0], blueprint.static)
        locks = world.lock["rng"][: world.par[0].locks]
        assert len({*world.vcpu["rng"].tolist(), *locks.tolist()}) == blueprint.vcpus + len(locks), name
