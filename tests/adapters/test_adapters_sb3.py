"""The adapter to Stable-Baselines3: the batch as its VecEnv."""

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from episodes import lowest
from gymnasium.utils.env_checker import data_equivalence

import kvmgym
from kvmgym.adapters import rllib
from kvmgym.env.wrappers import DictMask
from kvmgym.scenarios import BY_NAME

DURATION_NS = 3_000_000
ROWS = 3


@pytest.fixture
def sb3() -> Any:
    pytest.importorskip("stable_baselines3")
    import torch

    torch.set_num_threads(1)  # small networks: more threads only wait for each other
    from kvmgym.adapters import sb3

    return sb3


def test_sb3_steps_are_those_of_the_batch(sb3: Any) -> None:
    env = sb3.NativeVecEnv(ROWS, duration_ns=DURATION_NS)
    batch = kvmgym.DirectedYieldVectorEnv(ROWS, duration_ns=DURATION_NS, autoreset_mode="same_step")
    assert env.seed(11) == [11, 12, 13]
    seen, (expected, infos) = env.reset(), batch.reset(seed=11)
    returns, lengths, ends = np.zeros(ROWS), np.zeros(ROWS, int), 0
    for _ in range(60):
        np.testing.assert_array_equal(seen, expected)
        masks = np.stack(env.env_method("action_masks"))
        np.testing.assert_array_equal(masks, infos["action_mask"].astype(bool))
        np.testing.assert_array_equal(masks, env.masks())
        actions = lowest(masks)
        expected, gains, _, truncated, infos = batch.step(actions)
        seen, rewards, dones, told = env.step(actions)
        returns, lengths = returns + gains, lengths + 1
        np.testing.assert_array_equal(rewards, gains.astype(np.float32))
        np.testing.assert_array_equal(dones, truncated)
        assert rewards.dtype == np.float32 and dones.dtype == np.bool_
        for row in range(ROWS):
            if not dones[row]:
                assert told[row] == {} and env.elapsed_ns[row] == infos["elapsed_ns"][row]
                continue
            ends += 1
            np.testing.assert_array_equal(told[row]["terminal_observation"], infos["final_obs"][row])
            assert told[row]["TimeLimit.truncated"] is True
            episode = told[row]["episode"]
            assert episode["r"] == pytest.approx(returns[row], rel=1e-12) and episode["l"] == lengths[row]
            assert episode["t"] >= 0
            assert env.elapsed_ns[row] == infos["final_info"]["elapsed_ns"][row]
            returns[row], lengths[row] = 0, 0
    assert ends >= 2
    assert len({id(info) for info in told}) == ROWS  # a caller may write to them


def test_sb3_full_infos_are_those_of_single_environments(sb3: Any) -> None:
    env = sb3.NativeVecEnv(ROWS, duration_ns=DURATION_NS, full_infos=True)
    singles = [kvmgym.DirectedYieldEnv(duration_ns=DURATION_NS) for _ in range(ROWS)]
    env.seed(5)
    env.reset()
    expected = [single.reset(seed=5 + row)[1] for row, single in enumerate(singles)]
    assert data_equivalence(env.reset_infos, expected)
    ends = 0
    for _ in range(40):
        actions = lowest(env.masks())
        _, _, dones, told = env.step(actions)
        for row, single in enumerate(singles):
            _, _, _, over, info = single.step(int(actions[row]))
            assert over == dones[row]
            assert {key: told[row][key] for key in info}.keys() == info.keys()
            assert data_equivalence({key: told[row][key] for key in info}, info)
            if over:
                ends += 1
                assert data_equivalence(env.reset_infos[row], single.reset()[1])
    assert ends >= 2


def test_sb3_seeds_and_options_are_used_once_and_row_by_row(sb3: Any) -> None:
    env = sb3.NativeVecEnv(ROWS, duration_ns=DURATION_NS)
    env.seed(3)
    first = env.reset()
    assert not np.array_equal(env.reset(), first)
    env.seed(3)
    np.testing.assert_array_equal(env.reset(), first)
    env.seed(3)
    env.set_options([{}, {"scenario": BY_NAME["dbench-small"]}, {}])
    mixed = env.reset()
    assert [env.batch.worlds.blueprints[row].scenario.name for row in range(ROWS)] == [
        "dedup-small", "dbench-small", "dedup-small",
    ]  # fmt: skip
    np.testing.assert_array_equal(mixed[[0, 2]], first[[0, 2]])
    assert not np.array_equal(mixed[1], first[1])
    after = env.reset()
    assert env.batch.worlds.blueprints[1].scenario.name == "dedup-small"
    assert not np.array_equal(after[0], first[0])
    env.set_options({"world_seed": 9})
    same_world = env.reset()
    np.testing.assert_array_equal(same_world[0], same_world[1])


def test_sb3_attributes_and_methods(sb3: Any) -> None:
    from stable_baselines3.common.monitor import Monitor

    env = sb3.NativeVecEnv(ROWS, duration_ns=DURATION_NS, render_mode="ansi")
    env.seed(0)
    env.reset()
    assert env.has_attr("action_masks") and not env.has_attr("nonsense")
    assert env.get_attr("action_space", [0, 2]) == [gym.spaces.Discrete(5)] * 2
    assert env.get_attr("observation_space", 1) == [env.observation_space]
    assert [text.split()[0] for text in env.env_method("render")] == ["dedup-small"] * ROWS
    assert env.get_images() == [None] * ROWS
    drawn = sb3.NativeVecEnv(4, duration_ns=DURATION_NS, render_mode="rgb_array")
    drawn.reset()
    height, width, _ = drawn.get_images()[0].shape
    assert drawn.render().shape == (2 * height, 2 * width, 3)  # SB3 puts them in a square
    np.testing.assert_array_equal(env.env_method("action_masks", indices=[2])[0], env.masks()[2])
    env.set_attr("debug", True)
    assert env.batch.debug is True
    with pytest.raises(ValueError, match="share"):
        env.set_attr("debug", False, indices=[1])
    with pytest.raises(AttributeError, match="nonsense"):
        env.env_method("nonsense")
    assert env.env_is_wrapped(Monitor) == [True] * ROWS
    assert env.env_is_wrapped(gym.wrappers.TimeLimit) == [False] * ROWS
    with pytest.raises(TypeError, match="autoreset_mode"):
        sb3.NativeVecEnv(1, autoreset_mode="next_step")
    with pytest.raises(TypeError, match="copy"):
        sb3.NativeVecEnv(1, copy=False)
    with pytest.raises(ValueError, match="dedupp"):
        sb3.NativeVecEnv(1, "dedupp")


@pytest.mark.parametrize("form, policy", [("flat", "MlpPolicy"), ("dict", "MultiInputPolicy")])
def test_maskable_ppo_learns_on_it_and_never_takes_a_masked_action(sb3: Any, form: str, policy: str) -> None:
    contrib = pytest.importorskip("sb3_contrib")
    taken = []

    class Watched(sb3.NativeVecEnv):
        def step_async(self, actions: Any) -> None:
            taken.append(self.masks()[np.arange(ROWS), actions])
            super().step_async(actions)

    env = Watched(ROWS, duration_ns=DURATION_NS, observation=form)
    model = contrib.MaskablePPO(policy, env, n_steps=32, batch_size=32, n_epochs=1, seed=0, device="cpu")
    before = [weights.clone() for weights in model.policy.parameters()]
    model.learn(4 * 32 * ROWS)
    assert len(taken) >= 4 * 32 and np.all(taken)
    assert any(not bool((a == b).all()) for a, b in zip(before, model.policy.parameters(), strict=True))
    episodes = list(model.ep_info_buffer)
    assert len(episodes) >= 3 and sum(episode["l"] for episode in episodes) <= 4 * 32 * ROWS
    assert all(episode["r"] < 0 for episode in episodes)


def test_sb3_wrappers_and_evaluation_work_on_it_without_a_monitor(sb3: Any) -> None:
    contrib = pytest.importorskip("sb3_contrib")
    from sb3_contrib.common.maskable.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import VecNormalize

    env = sb3.NativeVecEnv(ROWS, duration_ns=DURATION_NS)
    model = contrib.MaskablePPO("MlpPolicy", env, n_steps=8, batch_size=8, seed=0, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        returns, lengths = evaluate_policy(model, env, n_eval_episodes=4, return_episode_rewards=True)
    assert len(returns) == 4 and max(returns) < 0 and min(lengths) > 0
    wrapped = VecNormalize(env, norm_obs=False, norm_reward=True)
    wrapped.seed(0)
    wrapped.reset()
    ends = 0
    for _ in range(60):
        _, _, dones, infos = wrapped.step(lowest(np.stack(wrapped.env_method("action_masks"))))
        for row in np.flatnonzero(dones):
            ends += 1
            assert infos[row]["terminal_observation"].shape == env.observation_space.shape
    assert ends >= 2


CHECKED: tuple[dict[str, Any], ...] = (
    {},
    {"privileged": True},
    {"observation": "dict"},
    {"observation": "dict", "privileged": True, "max_vcpus": 9},
    {"show_all": True},
    {"kernel_agent": True},
    {"render_mode": "ansi"},
    {"render_mode": "rgb_array"},
    {"reward": {"spin": 1, "fairness": 0.5}},
    {"max_vcpus": 9},
    {"controlled": [1], "others": "strict"},
    {"scenario": ["dbench-small", "dedup-small"]},
    {"scenario": "dedup-noisy-7vm"},
)


@pytest.mark.parametrize("options", CHECKED, ids=str)
def test_sb3s_checker_passes_without_warnings(options: dict[str, Any]) -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make("kvmgym:kvmgym/DirectedYield-v0", duration_ns=DURATION_NS, **options)
        checker.check_env(env)
        masked = DictMask(env, key=None) if options.get("observation") == "dict" else rllib.wrap(env)
        checker.check_env(masked)


def test_sb3s_checker_only_notes_that_a_matrix_has_two_dimensions() -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with pytest.warns(UserWarning, match="unconventional shape") as noted:
        checker.check_env(gym.make("kvmgym:kvmgym/DirectedYield-v0", duration_ns=DURATION_NS, observation="matrix"))
    assert len(noted) == 1
