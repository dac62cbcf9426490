"""Environments whose arrays come out of a pickle read-only, as Ray hands them to its workers, go on all the same."""

import pickle
from typing import Any

import numpy as np
import pytest

from kvmgym import DirectedYieldEnv, DirectedYieldVectorEnv

SHORT = {"duration_ns": 300_000}


def through_a_store(env: Any) -> Any:
    """The environment from a pickle whose arrays lie in memory that may not be written."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(env, protocol=5, buffer_callback=buffers.append)
    assert len(buffers) > 5
    return pickle.loads(data, buffers=[bytes(buffer.raw()) for buffer in buffers])


def test_a_single_environment() -> None:
    env = DirectedYieldEnv("shootdowns-small", **SHORT)
    env.reset(seed=5)
    other = through_a_store(env)
    ended = False
    while not ended:
        seen, reward, _, ended, info = env.step(1)
        theirs = other.step(1)
        assert np.array_equal(seen, theirs[0]) and (reward, ended) == (theirs[1], theirs[3])
        assert info["now_ns"] == theirs[4]["now_ns"]
    assert np.array_equal(env.reset(seed=6)[0], other.reset(seed=6)[0])


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_a_batch(mode: str) -> None:
    env = DirectedYieldVectorEnv(3, "shootdowns-small", autoreset_mode=mode, threads=2, **SHORT)
    env.reset(seed=5)
    env.step([0, 1, 2])
    other = through_a_store(env)
    ends = 0
    for _ in range(60):
        seen, rewards, _, ended, _ = env.step([1, 2, 3])
        theirs = other.step([1, 2, 3])
        assert np.array_equal(seen, theirs[0]) and np.array_equal(rewards, theirs[1])
        assert np.array_equal(ended, theirs[3])
        ends += int(ended.sum())
    assert ends > 0
    assert np.array_equal(env.reset(seed=9)[0], other.reset(seed=9)[0])
    env.close()
    other.close()
