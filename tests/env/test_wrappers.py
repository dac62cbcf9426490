"""The Gymnasium wrappers: exact discounts, masks in the observation, singles and batches alike."""

import math
import warnings
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import kvmgym
from kvmgym.env.observation import VCPU_FIELDS
from kvmgym.env.wrappers import DictMask, SemiMarkovDiscount, VectorDictMask, VectorSemiMarkovDiscount

ID = "kvmgym:kvmgym/DirectedYield-v0"
DURATION_NS = 3_000_000
TAU_NS = 1e6
ROWS = 3


def make(**options: Any) -> gym.Env:
    return gym.make(ID, duration_ns=DURATION_NS, **options)


def make_vec(mode: str, **options: Any) -> gym.vector.VectorEnv:
    return kvmgym.DirectedYieldVectorEnv(ROWS, duration_ns=DURATION_NS, autoreset_mode=mode, **options)


def first_allowed(masks: Any) -> Any:
    """The first action that is allowed: deterministic, so that runs can be compared."""
    return np.argmax(masks, axis=-1)


def episode(env: gym.Env, seed: int | None) -> list[tuple[float, dict[str, Any]]]:
    """The rewards and infos of an episode's steps."""
    _, info = env.reset(seed=seed)
    steps, ended = [], False
    while not ended:
        _, reward, _, ended, info = env.step(int(first_allowed(info["action_mask"])))
        steps.append((float(reward), info))
    return steps


# --- discounts --------------------------------------------------------------------------------------------------------


def test_the_discount_is_gamma_to_the_time_passed_and_an_episode_multiplies_to_its_length() -> None:
    env = SemiMarkovDiscount(make(), TAU_NS, gamma=0.9)
    _, info = env.reset(seed=1)
    assert info["discount"] == info["reward_scale"] == 1.0
    began = info["now_ns"]
    steps = episode(env, 1)
    assert len(steps) > 3
    for _, info in steps:
        assert info["discount"] == 0.9 ** (info["elapsed_ns"] / TAU_NS)
    product = math.prod(info["discount"] for _, info in steps)
    assert product == pytest.approx(0.9 ** ((DURATION_NS - began) / TAU_NS), rel=1e-12)


def test_by_default_tau_is_the_time_constant() -> None:
    for _, info in episode(SemiMarkovDiscount(make(), TAU_NS), 1):
        assert info["discount"] == pytest.approx(math.exp(-info["elapsed_ns"] / TAU_NS), rel=1e-12)


def test_scaled_rewards_sum_to_the_discounted_return() -> None:
    plain = episode(SemiMarkovDiscount(make(), TAU_NS), 5)
    expected, weight = 0.0, 1.0
    for reward, info in plain:
        expected += weight * reward
        weight *= info["discount"]
    env = SemiMarkovDiscount(make(), TAU_NS, scale_reward=True)
    scaled = [episode(env, 5), episode(env, 5)]  # the product begins anew with the episode
    for steps in scaled:
        assert sum(reward for reward, _ in steps) == pytest.approx(expected, rel=1e-12)
    assert expected != pytest.approx(sum(reward for reward, _ in plain), rel=1e-3)


def test_without_scaling_rewards_stay_as_they_are() -> None:
    plain = [reward for reward, _ in episode(make(), 5)]
    assert [reward for reward, _ in episode(SemiMarkovDiscount(make(), TAU_NS), 5)] == plain


@pytest.mark.parametrize("tau_ns, gamma", [(0, 0.9), (-1, 0.9), ("1", 0.9), (1e6, 1.1), (1e6, -0.1), (1e6, None)])
def test_bad_discounts_are_refused(tau_ns: Any, gamma: Any) -> None:
    with pytest.raises(ValueError, match="tau_ns" if gamma == 0.9 else "gamma"):
        SemiMarkovDiscount(make(), tau_ns, gamma)
    with pytest.raises(ValueError, match="tau_ns" if gamma == 0.9 else "gamma"):
        VectorSemiMarkovDiscount(make_vec("same_step"), tau_ns, gamma)


@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
def test_a_batch_discounts_as_its_singles_do_over_ends(mode: str) -> None:
    batch = VectorSemiMarkovDiscount(make_vec(mode), TAU_NS, gamma=0.8, scale_reward=True)
    singles = [SemiMarkovDiscount(make(), TAU_NS, gamma=0.8, scale_reward=True) for _ in range(ROWS)]
    _, infos = batch.reset(seed=7)
    told = [env.reset(seed=7 + row)[1] for row, env in enumerate(singles)]
    np.testing.assert_array_equal(infos["discount"], np.ones(ROWS))
    begins = np.zeros(ROWS, np.bool_)
    ends = 0
    for _ in range(60):
        actions = first_allowed(infos["action_mask"])
        _, rewards, _, truncated, infos = batch.step(actions)
        for row, env in enumerate(singles):
            if begins[row]:  # "next_step": this step began the row anew
                told[row] = env.reset()[1]
                reward, over = 0.0, False
            else:
                _, reward, _, over, told[row] = env.step(int(actions[row]))
            assert rewards[row] == pytest.approx(reward, rel=1e-12)
            assert infos["discount"][row] == pytest.approx(told[row]["discount"], rel=1e-12)
            assert infos["reward_scale"][row] == pytest.approx(told[row]["reward_scale"], rel=1e-12)
            assert truncated[row] == over
            ends += over
            if over and mode == "same_step":
                told[row] = env.reset()[1]
        begins = truncated if mode == "next_step" else begins
        if mode == "disabled" and truncated.any():
            _, infos = batch.reset(options={"reset_mask": truncated})
            for row in np.flatnonzero(truncated):
                told[row] = singles[row].reset()[1]
    assert ends >= 2
    assert infos["_discount"].all() and infos["_reward_scale"].all()


# --- masks in the observation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("key, dtype", [("observation", "int8"), ("observations", "float32"), ("x", "int8")])
def test_the_mask_stands_beside_the_observation(key: str, dtype: str) -> None:
    inner, env = make(), DictMask(make(), key, dtype)
    expected, info = inner.reset(seed=3)
    seen, _ = env.reset(seed=3)
    for _ in range(10):
        assert set(seen) == {key, "action_mask"} and env.observation_space.contains(seen)
        np.testing.assert_array_equal(seen[key], expected)
        np.testing.assert_array_equal(seen["action_mask"], info["action_mask"])
        assert seen["action_mask"].dtype == np.dtype(dtype)
        np.testing.assert_array_equal(seen["action_mask"].astype(bool), env.get_wrapper_attr("action_masks")())
        action = int(first_allowed(info["action_mask"]))
        expected, _, _, ended, info = inner.step(action)
        seen, *_ = env.step(action)
        if ended:
            break


def test_a_dict_observation_can_keep_its_keys() -> None:
    env = DictMask(make(observation="dict"), key=None)
    seen, info = env.reset(seed=3)
    assert set(seen) == {"globals", "action_mask", *(field.name for field in VCPU_FIELDS)}
    assert env.observation_space.contains(seen)
    seen["action_mask"][:] = 7
    assert set(np.unique(info["action_mask"])) == {0, 1}  # a copy


def test_impossible_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="key = None"):
        DictMask(make(), key=None)
    with pytest.raises(ValueError, match="action_mask"):
        DictMask(make(), key="action_mask")
    with pytest.raises(ValueError, match="mask_dtype"):
        DictMask(make(), mask_dtype="bool")


@pytest.mark.parametrize("form", ["flat", "dict", "matrix"])
def test_a_batch_has_the_masks_of_its_rows_and_the_last_ones_where_a_row_ended(form: str) -> None:
    inner = make_vec("same_step", observation=form)
    env = VectorDictMask(make_vec("same_step", observation=form))
    expected, told = inner.reset(seed=2)
    seen, _ = env.reset(seed=2)
    ends = 0
    for _ in range(60):
        assert env.observation_space.contains(seen)
        np.testing.assert_array_equal(seen["action_mask"], told["action_mask"])
        assert gym.utils.env_checker.data_equivalence(seen["observation"], expected)
        actions = first_allowed(told["action_mask"])
        expected, _, _, truncated, told = inner.step(actions)
        seen, _, _, _, infos = env.step(actions)
        for row in np.flatnonzero(truncated):
            ends += 1
            last = infos["final_obs"][row]
            assert env.single_observation_space.contains(last)
            assert last["action_mask"].tolist() == [0] * (last["action_mask"].size - 1) + [1]
    assert ends >= 2


# --- both -------------------------------------------------------------------------------------------------------------

WRAPPED = {
    "discount": lambda: SemiMarkovDiscount(make(), TAU_NS),
    "scaled": lambda: SemiMarkovDiscount(make(), TAU_NS, scale_reward=True),
    "mask": lambda: DictMask(make()),
    "rllib": lambda: DictMask(make(), "observations", "float32"),
    "both": lambda: DictMask(SemiMarkovDiscount(make(observation="dict"), TAU_NS), None),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_gymnasiums_checker_passes_without_warnings(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # It says that what is wrapped may behave differently: here that is what is checked.
        warnings.filterwarnings("ignore", message=".*is different from the unwrapped version")
        check_env(WRAPPED[name](), skip_render_check=True)


@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapped_environment_is_made_anew_from_its_spec(name: str) -> None:
    env = WRAPPED[name]()
    assert env.spec is not None
    spec = gym.envs.registration.EnvSpec.from_json(env.spec.to_json())
    again = gym.make(spec)
    first, second = env.reset(seed=4), again.reset(seed=4)
    assert gym.utils.env_checker.data_equivalence(first, second)
    assert again.observation_space == env.observation_space


def test_discounts_need_nothing_but_elapsed_ns() -> None:
    inner = SimpleNamespace(
        reset=lambda seed=None, options=None: (0, {}), step=lambda action: (0, 2.0, False, False, {"elapsed_ns": 2e6})
    )
    env = SemiMarkovDiscount.__new__(SemiMarkovDiscount)
    env.env, env.tau_ns, env.gamma, env.scale_reward = inner, 1e6, 0.5, True  # type: ignore[assignment]
    env.reset()
    assert [env.step(0)[1] for _ in range(3)] == [2.0, 0.5, 0.125]
