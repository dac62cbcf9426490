"""Going on from a snapshot, a fork, a deep copy or a pickle gives the same bits as going on."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
from episodes import MS, any_allowed, same, woken, world

from kvmgym import DirectedYieldEnv, DirectedYieldVectorEnv
from kvmgym.policies import custom
from kvmgym.policies.simple import none
from kvmgym.scenarios import BY_NAME as SCENARIOS

SHORT = 2 * MS


def any_small(generator):
    """A domain-randomising sampler: another host of 4 pCPUs, or the hand-made one, each episode."""
    names = ("dedup-small", "dbench-small", "hotlock-small")
    drawn = int(generator.integers(4))
    return woken(4) if drawn == 3 else SCENARIOS[names[drawn]]


OPTIONS = {
    "plain": {},
    "dict": {"observation": "dict", "privileged": True},
    "matrix": {"observation": "matrix"},
    "sampler": {"scenario": any_small, "max_vcpus": 6},
    "others": {"controlled": [1], "others": "linear", "duration_ns": 10 * MS},
    "own function": {"controlled": [0], "others": custom(none)},
    "several": {"scenario": ["dedup-small", "hotlock-small"], "reward": {"fairness": 1.0}},
}


def back(env):
    """The environment itself after a detour: a snapshot, other steps, resets and seeds, and back."""
    saved = env.snapshot()
    env.reset(seed=99)
    for _ in range(7):
        masks = env.action_masks()
        env.step(masks.shape[-1] - 1 if masks.ndim == 1 else np.full(len(masks), masks.shape[1] - 1))
        env.reset()
    env.restore(saved)
    return env


def elsewhere(env):
    """Another environment of the same arguments that takes a snapshot over."""
    other = env.fork()
    other.reset(seed=5)
    other.restore(env.snapshot())
    return other


WAYS = {
    "snapshot": back,
    "snapshot elsewhere": elsewhere,
    "snapshot of a pickle": lambda env: (env.restore(pickle.loads(pickle.dumps(env.snapshot()))), env)[1],
    "fork": lambda env: env.fork(),
    "deepcopy": copy.deepcopy,
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
}


def single_steps(env, number, seed):
    """Steps of a single environment; ended episodes are followed by new ones of its random stream."""
    pick, found = any_allowed(seed), []
    for _ in range(number):
        found.append(env.step(pick(env.action_masks())))
        if found[-1][3]:
            found.append(env.reset())
    return found


def batch_steps(batch, number, seed):
    """Steps of a batch, which resets by itself."""
    pick = any_allowed(seed)
    return [batch.step([pick(mask) for mask in batch.action_masks()]) for _ in range(number)]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_single_environment_goes_on_with_the_same_bits(options, way):
    env = DirectedYieldEnv(**{"duration_ns": SHORT, **options})
    env.reset(seed=1)
    single_steps(env, 20, 2)
    wanted = single_steps(copy.deepcopy(env), 150, 3)
    assert sum(len(step) == 2 for step in wanted) > 1, "some episodes begin on the way"
    assert same(single_steps(way(env), 150, 3), wanted)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_a_batch_goes_on_with_the_same_bits(mode, way):
    batch = DirectedYieldVectorEnv(3, any_small, max_vcpus=6, duration_ns=SHORT, autoreset_mode=mode, threads=2)
    batch.reset(seed=1)
    batch_steps(batch, 20, 2)
    wanted = batch_steps(batch.fork(), 100, 3)
    assert sum(int(step[3].sum()) for step in wanted) > 3
    assert same(batch_steps(way(batch), 100, 3), wanted)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda env: env.fork()])
def test_copies_go_their_own_way(way):
    """What a copy does leaves the original alone, and the other way round."""
    env = DirectedYieldEnv("dedup-small", duration_ns=SHORT)
    env.reset(seed=1)
    left, right = way(env), way(env)
    before = env.worlds.states.copy(), env.worlds.rows.copy(), env.worlds.generators[0].bit_generator.state
    here = single_steps(left, 60, 3)
    there = single_steps(right, 60, 4)
    after = env.worlds.states, env.worlds.rows, env.worlds.generators[0].bit_generator.state
    assert same(before, after) and not same(here, there)
    assert same(single_steps(env, 60, 3), here)


def test_a_snapshot_is_no_view():
    env = DirectedYieldEnv("dedup-small", duration_ns=SHORT)
    env.reset(seed=1)
    saved = env.snapshot()
    kept = pickle.dumps(saved)
    single_steps(env, 40, 3)
    assert pickle.dumps(saved) == kept
    env.restore(saved)
    single_steps(env, 40, 3)
    assert pickle.dumps(saved) == kept


def test_an_ended_episode_and_one_that_never_began_are_copied_too():
    fresh = DirectedYieldEnv("dedup-small", duration_ns=SHORT)
    assert same(fresh.fork().reset(seed=3), fresh.reset(seed=3))
    while not fresh.step(4)[3]:
        pass
    ended = fresh.fork()
    with pytest.raises(Exception, match="call reset"):
        ended.step(4)
    assert same(ended.reset(), fresh.reset())


def test_the_random_state_of_gymnasium_is_in_the_snapshot():
    env = DirectedYieldEnv()
    env.reset(seed=1)
    saved = env.snapshot()
    drawn = env.np_random.random(4).tolist()
    env.restore(saved)
    assert env.np_random.random(4).tolist() == drawn
    batch = DirectedYieldVectorEnv(2)
    batch.reset(seed=1)
    saved = batch.snapshot()
    drawn = [batch.sample_actions().tolist() for _ in range(20)]
    batch.restore(saved)
    assert [batch.sample_actions().tolist() for _ in range(20)] == drawn


def test_a_pickle_goes_on_in_another_process():
    env = DirectedYieldEnv("dedup-small", controlled=[0], others="relaxed")
    env.reset(seed=1)
    env.step(4)
    code = """
import pickle, sys
env = pickle.load(sys.stdin.buffer)
print([(info["now_ns"], info["ops"], reward) for _, reward, _, _, info in (env.step(4) for _ in range(5))])
"""
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(env), capture_output=True, check=True)
    here = [(info["now_ns"], info["ops"], reward) for _, reward, _, _, info in (env.step(4) for _ in range(5))]
    assert done.stdout.decode().strip() == str(here)


def test_a_snapshot_of_another_shape_is_an_error():
    small, large = DirectedYieldEnv("dedup-small"), DirectedYieldEnv("dedup-2vm")
    small.reset(seed=0)
    large.reset(seed=0)
    with pytest.raises(ValueError, match=r"snapshot masks = 'bool \(1, 5\)': must be bool of shape \(1, 17\)"):
        large.restore(small.snapshot())
    assert int(world(large).par[0]["vcpus"]) == 32
