"""TorchRL: what its GymWrapper asks of a batch, here without TorchRL, and a rollout where it is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from kvmgym.env.vector import DirectedYieldVectorEnv
from kvmgym.env.wrappers import VectorDictMask, VectorSemiMarkovDiscount

MODES = {"next_step": AutoresetMode.NEXT_STEP, "same_step": AutoresetMode.SAME_STEP, "disabled": AutoresetMode.DISABLED}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wrap", [VectorDictMask, lambda env: VectorSemiMarkovDiscount(env, 1e6)])
def test_wrappers_of_a_batch_say_its_autoreset_mode(wrap: Any, mode: str) -> None:
    env = wrap(DirectedYieldVectorEnv(2, "dedup-small", autoreset_mode=mode))
    assert env.autoreset_mode is MODES[mode] is env.metadata["autoreset_mode"]
    assert VectorDictMask(env, "outer").autoreset_mode is MODES[mode]


def test_a_disabled_batch_begins_the_rows_anew_that_a_mask_names() -> None:
    """What TorchRL does after an end: reset(options={"reset_mask": ...}), and the other rows go on."""
    env = VectorDictMask(DirectedYieldVectorEnv(3, "dedup-small", autoreset_mode="disabled", duration_ns=2_000_000))
    observation, _ = env.reset(seed=1)
    ended = np.zeros(3, np.bool_)
    while not ended.any():
        observation, _, _, ended, _ = env.step(observation["action_mask"].argmax(axis=1))
    fresh, info = env.reset(options={"reset_mask": ended})
    assert np.array_equal(fresh["observation"][~ended], observation["observation"][~ended])
    assert np.array_equal(fresh["action_mask"], info["action_mask"])
    assert not np.array_equal(fresh["observation"][ended], observation["observation"][ended])


def test_torchrl_rolls_out_a_disabled_batch() -> None:
    pytest.importorskip("torchrl")
    import torch
    from torchrl.envs.libs.gym import GymWrapper

    batch = DirectedYieldVectorEnv(3, "dedup-small", duration_ns=2_000_000, autoreset_mode="disabled")
    env = GymWrapper(VectorDictMask(batch), categorical_action_encoding=True)

    def uniform(tensordict: Any) -> Any:
        tensordict["action"] = torch.multinomial(tensordict["action_mask"].float(), 1).squeeze(-1)
        return tensordict

    torch.manual_seed(0)
    found = env.rollout(200, uniform, break_when_any_done=False)
    assert found.shape == (3, 200) and int(found["next", "done"].sum()) > 3
    allowed = found["action_mask"].gather(-1, found["action"].unsqueeze(-1))
    assert bool(allowed.bool().all()) and float(found["next", "reward"].sum()) < 0
