"""The real RLlib: PPO with its action-masking module on the wrapped environment.

Ray asks for a gymnasium of its own, so these run only where `ray[rllib]` and PyTorch are installed (docs/adapters.md).
"""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from kvmgym.adapters import rllib

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*Overriding environment rllib")]  # by RLlib itself
ARGUMENTS = {"scenario": "dedup-small", "duration_ns": 5_000_000}
MODES = ("sync", "vector_entry_point")


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    pytest.importorskip("torch")
    pytest.importorskip("ray.rllib")
    import ray

    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def algorithm(mode: str, **arguments: Any) -> Any:
    from ray import tune
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.core.rl_module.rl_module import RLModuleSpec
    from ray.rllib.examples.rl_modules.classes.action_masking_rlm import ActionMaskingTorchRLModule

    tune.register_env("directed-yield", rllib.create)
    config = (
        PPOConfig()
        .environment("directed-yield", env_config={**ARGUMENTS, **arguments})
        .env_runners(num_env_runners=0, num_envs_per_env_runner=2, gym_env_vectorize_mode=mode)
        .rl_module(rl_module_spec=RLModuleSpec(module_class=ActionMaskingTorchRLModule))
        .training(train_batch_size_per_learner=256, minibatch_size=64, num_epochs=2)
        .debugging(seed=1)
    )
    return config.build_algo()


def trained(mode: str) -> tuple[list[dict[str, Any]], list[Any]]:
    """What two iterations of PPO tell, and all episodes, or parts of them, that they and a sample after them played."""
    played: list[Any] = []
    ppo = algorithm(mode)
    runner = ppo.env_runner
    sample = runner.sample

    def kept(**options: Any) -> Any:
        episodes = sample(**options)
        played.extend(copy.deepcopy(episodes))  # the learner appends to them a step that was never taken
        return episodes

    runner.sample = kept
    try:
        results = [ppo.train() for _ in range(2)]
        assert len(played) > 2
        for explore in (True, False):
            runner.sample(num_episodes=2, explore=explore)
    finally:
        ppo.stop()
    return results, played


def test_ppo_trains_and_chooses_what_is_allowed_in_either_form(ray: Any) -> None:
    runs = {mode: trained(mode) for mode in MODES}
    for results, played in runs.values():
        told = results[-1]["learners"]["default_policy"]
        assert results[-1]["training_iteration"] == 2
        assert all(np.isfinite(float(told[name])) for name in ("total_loss", "entropy", "mean_kl_loss"))
        forbidden = 0
        for episode in played:
            actions, seen = episode.get_actions(), episode.get_observations()
            assert len(seen["action_mask"]) == len(actions) + 1
            assert set(seen) == {"observations", "action_mask"}
            assert seen["observations"].dtype == seen["action_mask"].dtype == np.float32
            assert episode.is_truncated or not episode.is_done
            masks = seen["action_mask"][:-1]
            assert (masks[np.arange(len(actions)), actions] == 1).all()
            forbidden += int((masks == 0).sum())
        assert forbidden > 0  # there was something to mask
    for one, other in zip(*(played for _, played in runs.values()), strict=True):
        np.testing.assert_array_equal(one.get_actions(), other.get_actions())
        np.testing.assert_array_equal(one.get_rewards(), other.get_rewards())


@pytest.mark.parametrize("form", ["dict", "matrix"])
def test_the_default_encoder_takes_flat_observations_only(ray: Any, form: str) -> None:
    with pytest.raises(ValueError, match="No default encoder config"):
        algorithm("sync", observation=form)
