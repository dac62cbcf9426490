"""agents/ppo_single_file.py: what it reads of a step. That it runs is tested in test_ppo.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("torch")

FILE = Path(__file__).resolve().parents[2] / "agents" / "ppo_single_file.py"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("ppo_single_file", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_time_of_a_step_that_ends_an_episode_is_that_of_the_episode(script: Any) -> None:
    """The times of each row's episode add up to its length: an ended row's own time stands in final_info."""
    duration_ns, rows = 3_000_000, 4
    envs = gym.make_vec(
        "kvmgym:kvmgym/DirectedYield-v0", num_envs=rows, scenario="dedup-small", duration_ns=duration_ns,
        autoreset_mode="same_step",
    )  # fmt: skip
    _, info = envs.reset(seed=1)
    begun_ns, passed_ns, sums = info["now_ns"].copy(), np.zeros(rows, np.int64), []
    ends = 0
    for _ in range(400):
        _, _, terminated, truncated, info = envs.step(info["action_mask"].argmax(axis=1))
        passed_ns += script.elapsed_ns_of(info)
        for place in np.flatnonzero(terminated | truncated):
            sums.append(int(begun_ns[place] + passed_ns[place]))
            begun_ns[place], passed_ns[place] = info["now_ns"][place], 0
            ends += int(info["elapsed_ns"][place] != info["final_info"]["elapsed_ns"][place])
    assert len(sums) > rows and sums == [duration_ns] * len(sums)
    assert ends > 0  # the reset's own infos would have been wrong
