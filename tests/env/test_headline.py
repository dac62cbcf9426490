"""The reward term whose optimum is the gain that comparisons show, on hosts whose VMs run different programs."""

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from episodes import MS, US, episode, holder_preempted, world

from kvmgym import DirectedYieldEnv
from kvmgym.core import layout
from kvmgym.env import stepping
from kvmgym.env.reward import TERMS, UNIT_NS
from kvmgym.env.vector import DirectedYieldVectorEnv
from kvmgym.measure import metrics
from kvmgym.measure.stats import paired_vm_gain
from kvmgym.policies import BY_NAME as POLICIES
from kvmgym.scenarios import BY_NAME as SCENARIOS

NAMES = ("legacy", "none", "random", "relaxed", "longest-waiting", "clairvoyant-working")
PLACE = {term.name: 1 + place for place, term in enumerate(TERMS)}


@pytest.mark.parametrize("target", [0, 2])
def test_the_growth_of_the_mean_logarithm_by_hand(target):
    """At 4102 µs b0 has computed for 2102 µs, a0 and a1 for 6100 together. Until 4103 µs a0 computes if it is yielded
    to, b0 if not."""
    env = DirectedYieldEnv(holder_preempted(), duration_ns=4_103 * US, reward={"headline": 2.0})
    _, reward, _, info = episode(env, 0, lambda mask: target)[-1]
    grown = math.log(62.01 / 62.0) if target == 0 else math.log(22.03 / 22.02)
    assert reward == info["reward_terms"]["headline"] == pytest.approx(2.0 * grown / 2, rel=1e-6)
    assert info["reward_terms"]["progress"] == 0


@pytest.mark.parametrize("name", ["mixed-8p-4vm", "dedup-small"])
def test_it_sums_to_a_function_of_the_end(name):
    """The same as the metrics' useful time, to the moment, whatever the steps were."""
    env = DirectedYieldEnv(name, duration_ns=15 * MS, reward={"headline": 1.0})
    env.reset(seed=3)
    before = mean_log(useful_ns(env.worlds))
    total = sum(reward for _, reward, *_ in episode(env, 3))
    assert total == pytest.approx(mean_log(useful_ns(env.worlds)) - before, abs=1e-9) and total > 0.1


def useful_ns(worlds, row=0):
    """The useful time of each VM so far, as the metrics have it."""
    worlds.settle(row)
    result = metrics.read(worlds.blueprints[row], worlds.world(row), "", 0)
    return [sum(vcpu.useful_ns for vcpu in vm.vcpus) for vm in result.vms]


def mean_log(useful):
    """The mean over the VMs of log(1 + useful time / 100 µs)."""
    return sum(math.log1p(value / UNIT_NS) for value in useful) / len(useful)


def test_host_tasks_count_for_nothing():
    from examples import EXAMPLES

    scenario = next(scenario for scenario in EXAMPLES.values() if scenario.host_tasks)
    env = DirectedYieldEnv(scenario, duration_ns=5 * MS, show_all=True, reward={"headline": 1.0})
    env.reset(seed=0)
    before = mean_log(useful_ns(env.worlds))
    total = sum(reward for _, reward, *_ in episode(env, 0))
    assert world(env).vm["is_task"].any()
    assert total == pytest.approx(mean_log(useful_ns(env.worlds)) - before, abs=1e-9)


# --- its optimum ------------------------------------------------------------------------------------------------------


def scored(name, policy, worlds, duration_ns, host=None):
    """Of a policy in as many worlds: operations [worlds, VMs], and the sums of the terms headline and progress."""
    scenario = replace(SCENARIOS[name], host=host or SCENARIOS[name].host)
    env = DirectedYieldVectorEnv(
        worlds,
        POLICIES[policy].prepare(scenario),
        duration_ns=duration_ns,
        autoreset_mode="disabled",
        kernel_agent=True,
        copy=False,
        reward={"headline": 1.0, "progress": 1.0},
    )
    rows = env.worlds
    for row in range(worlds):
        rows.reset(row, world_seed=row)
    sums = np.zeros((worlds, 2))
    while len(left := np.flatnonzero(rows.rows[:, stepping.AT] == layout.AT_DECISION)):
        rows.step(env.ask(policy), None if len(left) == worlds else left)
        sums[left] += rows.rewards[left][:, [PLACE["headline"], PLACE["progress"]]]
    vms = len(SCENARIOS[name].vms)
    return [rows.world(row).vm["ops"][:vms].tolist() for row in range(worlds)], sums[:, 0], sums[:, 1]


def sign(values):
    """1 or -1 where the 95 % interval of the mean leaves out 0, else 0."""
    mean, error = values.mean(), values.std(ddof=1) / math.sqrt(len(values))
    return int(np.sign(mean)) if abs(mean) > 2.571 * error else 0  # Student's t of 6 values


def test_returns_rank_policies_as_the_headline_does():
    """For each two of six policies: where both intervals are clear they agree, and the return is as the headline, up to
    the few per cent by which an operation's useful time varies."""
    found = {name: scored("mixed-8p-4vm", name, 6, 300 * MS) for name in NAMES}
    clear = 0
    for left, right in combinations(NAMES, 2):
        gain = paired_vm_gain(found[left][0], found[right][0])
        returns = found[left][1] - found[right][1]
        wanted = 1 if gain.low > 0 else -1 if gain.high < 0 else 0
        assert wanted * sign(returns) >= 0, (left, right, gain, returns)
        assert returns.mean() == pytest.approx(math.log1p(gain.mean), abs=0.04), (left, right)
        clear += wanted * sign(returns) == 1
    assert clear >= 5


def test_the_headline_and_not_useful_time_tells_what_a_hog_of_the_host_costs():
    """On a kernel that heeds hints dedup takes the hogs' time: more useful time in all, and less by VM."""
    old = SCENARIOS["dedup-noisy-7vm"].host.on_kernel("6.1")
    legacy, seeing = (scored("dedup-noisy-7vm", name, 6, 400 * MS, old) for name in ("legacy", "clairvoyant"))
    assert paired_vm_gain(seeing[0], legacy[0]).high < 0
    assert sign(seeing[1] - legacy[1]) == -1 and sign(seeing[2] - legacy[2]) == 1
