"""The reward: hand-made values, sums that are exact, and better policies that score higher."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from episodes import MS, US, any_allowed, episode, first_allowed, holder_preempted, woken, world
from hypothesis import given
from strategies import many, scenarios, seeds

from kvmgym import DirectedYieldEnv, simulate
from kvmgym.core import engine, layout
from kvmgym.core.memory import view
from kvmgym.env.reward import TERMS, UNIT_NS, weights
from kvmgym.measure import metrics
from kvmgym.policies import BY_NAME as POLICIES
from kvmgym.scenarios import BY_NAME as SCENARIOS

ALL = {"progress": 1.0, "spin": 0.5, "overhead": 0.25, "fairness": 2.0, "headline": 8.0}
SERIES = [f"{workload}-{vms}vm" for workload in ("dbench", "dedup", "vips") for vms in (2, 3, 4)]


def last(env, pick=first_allowed, seed=0):
    """The reward and the terms of the last step of an episode."""
    _, reward, _, info = episode(env, seed, pick)[-1]
    return reward, info["reward_terms"]


# --- hand-made values -------------------------------------------------------------------------------------------------


def test_lost_time_of_a_spin_and_of_idleness():
    """From the exit at 30 µs to 100 µs on 3 pCPUs: a1 spins until 50 µs. pCPU 2 is without a vCPU until
    31 µs: a wakeup of 29 µs takes 2 to be heard. The unit is 100 µs of 3 pCPUs."""
    reward, terms = last(DirectedYieldEnv(woken(1), duration_ns=100 * US), lambda mask: 3)
    assert reward == pytest.approx(-21 / 300, abs=1e-12)
    assert terms == {"progress": reward, "spin": 0, "overhead": 0, "fairness": 0, "headline": 0}
    reward, terms = last(DirectedYieldEnv(woken(1), duration_ns=100 * US, reward={"spin": 2}), lambda mask: 3)
    assert reward == terms["spin"] == pytest.approx(-2 * 20 / 300, abs=1e-12) and terms["progress"] == 0


@pytest.mark.parametrize("weight, target", [(1.0, 0), (3.0, 0), (1.0, 2)])
def test_fairness_is_the_growth_of_the_distance_from_the_shares(weight, target):
    """b0 and a0 have run 2 ms each at 4102 µs. Yielded to, a0 runs from there on: b0's stretch of 102 µs is counted, so
    the VMs are 51 µs off their halves each. Not yielded to, b0 stays and nothing is counted yet."""
    env = DirectedYieldEnv(holder_preempted(), duration_ns=4_103 * US, reward={"fairness": weight})
    reward, terms = last(env, lambda mask: target)
    expected = -weight * 51 / 200 if target == 0 else 0
    assert reward == terms["fairness"] == pytest.approx(expected, abs=1e-12)


def test_the_default_is_progress_alone():
    assert weights(None).tolist() == [1, 0, 0, 0, 0] == [term.weight for term in TERMS]
    assert weights(ALL).tolist() == list(ALL.values()) and weights({"overhead": -1}).tolist() == [0, 0, -1, 0, 0]


# --- sums -------------------------------------------------------------------------------------------------------------


def settled(env):
    """Lost time of the world now, read as a simulation's metrics: spin, host work, idleness [ns]."""
    blueprint, row = env.worlds.blueprints[0], env.worlds.states[0].copy()
    engine.settle_row(row, blueprint.static, layout.NO)
    result = metrics.read(blueprint, view(row, blueprint.static), "", 0)
    vms = (*result.vms, *result.tasks)
    spin = sum(vm.total("spin_ns") for vm in vms)
    return spin, sum(p.overhead_ns for p in result.pcpus), sum(p.idle_ns for p in result.pcpus)


def walk(env, pick=first_allowed):
    """The steps from here to the end of the episode."""
    while not env._ended:
        yield env.step(pick(env.action_masks()))


def open_stretches(env):
    """Spin that has not been counted yet, and host work that was counted ahead [ns]."""
    w = world(env)
    now = int(w.host[0]["now_ns"])
    with_spin = [max(0, int(now - v["spin_from_ns"])) for v in w.vcpu if plain_spins(v)]
    ahead = [max(0, int(v["overhead_until_ns"]) - now) for v in w.vcpu if v["state"] == layout.RUNNING]
    return sum(with_spin), sum(ahead)


def plain_spins(vcpu):
    """The vCPU spins on its pCPU now."""
    spins = layout.ACT_SEND < vcpu["act"] < layout.ACT_HALT
    return spins and vcpu["state"] == layout.RUNNING and not vcpu["in_irq"]


@many(15)
@given(scenarios(most_pcpus=4, most_vms=2), seeds)
def test_terms_sum_to_the_reward_and_rewards_to_the_lost_time(scenario, seed):
    """Exactly, once the stretches under way at the first and the last moment are put in their place."""
    env = DirectedYieldEnv(scenario, reward=ALL, duration_ns=1_000 * US, show_all=True)
    try:
        env.reset(seed=seed)
    except ValueError:
        return
    unit = len(world(env).pcpu) * UNIT_NS
    before, begun = settled(env), open_stretches(env)
    sums = dict.fromkeys(ALL, 0.0)
    for _, reward, _, _, info in walk(env, any_allowed(seed)):
        assert sum(info["reward_terms"].values()) == reward
        for name, value in info["reward_terms"].items():
            sums[name] += value
    after, ended = settled(env), open_stretches(env)
    spin, work, idle = (b - a for a, b in zip(before, after, strict=True))
    counted = spin + begun[0] - ended[0], work - begun[1] + ended[1]
    assert -sums["spin"] / ALL["spin"] * unit == pytest.approx(counted[0], abs=1)
    assert -sums["overhead"] / ALL["overhead"] * unit == pytest.approx(counted[1], abs=1)
    assert -sums["progress"] * unit == pytest.approx(sum(counted) + idle, abs=1)


@pytest.mark.parametrize("name", ["dedup-small", "dbench-small"])
def test_the_sum_of_an_episode_is_the_lost_time_to_a_stretch_a_vcpu(name):
    """A stretch of spin lasts to the next exit or switch at most, one of host work some µs."""
    env = DirectedYieldEnv(name, duration_ns=30 * MS)
    env.reset(seed=2)
    before = sum(settled(env))
    total = sum(reward for _, reward, *_ in walk(env))
    lost = sum(settled(env)) - before
    assert lost > 5 * MS and abs(-total * 4 * UNIT_NS - lost) < 8 * 100 * US


def test_fairness_sums_to_the_distance_at_the_end():
    """Over an episode the terms telescope: half the sum of differences between CPU time and shares."""
    env = DirectedYieldEnv("dedup-small", duration_ns=20 * MS, reward={"fairness": 1.0})
    env.reset(seed=3)
    first = world(env).vm["run_ns"].copy()
    total = sum(reward for _, reward, *_ in episode(env, 3))
    ran = world(env).vm["run_ns"]
    distances = [abs(int(vms[0]) - int(vms[1])) / 2 for vms in (first, ran)]
    assert total == pytest.approx(-(distances[1] - distances[0]) / (4 * UNIT_NS), abs=1e-9) and distances[1] > 0


def test_host_tasks_are_no_vms():
    """A hog in the root queue counts neither as operations nor in fairness between VMs."""
    from examples import EXAMPLES

    tasked = [scenario for scenario in EXAMPLES.values() if scenario.host_tasks]
    single = [replace(scenario, vms=scenario.vms[:1]) for scenario in tasked]
    for scenario in single:
        env = DirectedYieldEnv(scenario, duration_ns=5 * MS, reward={"fairness": 1.0})
        steps = episode(env, 0)
        assert {reward for _, reward, *_ in steps} <= {0.0, -0.0}
    for scenario in (*tasked, *single):
        env = DirectedYieldEnv(scenario, duration_ns=5 * MS, show_all=True)
        info = episode(env, 0)[-1][3]
        ops = sum(int(vm["ops"]) for vm in world(env).vm if not vm["is_task"])
        assert ops > 0 and info["ops"] == (-1 if scenario.mixed else ops)
    assert {scenario.mixed for scenario in (*tasked, *single)} == {False, True}


# --- better policies score higher -------------------------------------------------------------------------------------


def scored(name, policy, seed, duration_ns):
    """The return of a policy of the kernel, the operations it got done, both of one world."""
    env = DirectedYieldEnv(POLICIES[policy].prepare(SCENARIOS[name]), kernel_agent=True, duration_ns=duration_ns)
    _, info = env.reset(options={"world_seed": seed})
    start, total, ended = info["ops"], 0.0, False
    while not ended:
        _, reward, _, ended, info = env.step(env.ask(policy))
        total += reward
    return total, info["ops"] - start


def assert_better(name, better, worse, seeds, duration_ns):
    high = np.mean([scored(name, better, seed, duration_ns) for seed in seeds], axis=0)
    low = np.mean([scored(name, worse, seed, duration_ns) for seed in seeds], axis=0)
    assert high[1] > 1.05 * low[1], f"{better} is no better than {worse} on {name}: {high[1]:g} and {low[1]:g}"
    assert high[0] > low[0], f"returns of {better} and {worse} on {name}: {high[0]:g} and {low[0]:g}"


def test_a_better_policy_scores_higher():
    assert_better("dedup-2vm", "legacy", "none", [1], 100 * MS)


@pytest.mark.slow
@pytest.mark.parametrize("name", SERIES)
def test_a_better_policy_scores_higher_on_each_scenario_of_the_series(name):
    assert_better(name, "legacy", "none", [1, 2], 300 * MS)


@pytest.mark.slow
def test_returns_order_policies_as_throughput_does():
    """For each two of four policies on dedup-2vm whose throughput differs by more than the noise of three worlds."""
    names, worlds, duration = ("none", "legacy", "random", "longest-waiting"), (1, 2, 3), 300 * MS
    found = {name: np.array([scored("dedup-2vm", name, seed, duration) for seed in worlds]) for name in names}
    compared = 0
    for left, right in itertools.combinations(names, 2):
        gap = found[left] - found[right]
        mean, error = gap.mean(axis=0), gap.std(axis=0, ddof=1) / np.sqrt(len(worlds))
        if abs(mean[1]) > 3 * error[1] and abs(mean[1]) > 0.03 * found[right][:, 1].mean():
            compared += 1
            assert np.sign(mean[0]) == np.sign(mean[1]), (left, right, found[left], found[right])
    assert compared >= 3
    run = simulate(SCENARIOS["dedup-2vm"], "legacy", seed=1, duration_ns=duration, warmup_ns=0)
    assert sum(vm.ops for vm in run.vms) >= found["legacy"][0, 1]
