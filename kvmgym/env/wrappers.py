"""Gymnasium wrappers for decisions that last unequal times and for libraries that want the mask in the observation.

Each comes twice: for a single environment, and `Vector...` for a batch in any autoreset mode. They read infos only
(`elapsed_ns`, `action_mask`), and so go around anything that keeps these.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from kvmgym.params.errors import check, number

AnyWrapper = gym.Wrapper[Any, Any, Any, Any]
AnyEnv = gym.Env[Any, Any]
AnyVectorEnv = gym.vector.VectorEnv[Any, Any, Any]
MASK_DTYPES = ("int8", "float32")


class SemiMarkovDiscount(AnyWrapper, RecordConstructorArgs):
    """Discount by simulated time: info["discount"] = gamma ** (elapsed_ns / tau_ns), for the step just taken.

    A learner bootstraps with reward + discount * V(next observation). At a reset it is 1: nothing has passed.

    Arguments:
        tau_ns: the time over which the value of a reward falls to gamma, above 0.
        gamma: 0 to 1. By default 1/e, which makes tau_ns the time constant.
        scale_reward: multiply each reward by the product of the discounts of the episode's steps before it, so that
            the plain sum of an episode's rewards is its discounted return, for learners that know no discount but
            a constant (give them 1). info["reward_scale"] has the factor.
    """

    def __init__(self, env: AnyEnv, tau_ns: float, gamma: float = float(np.exp(-1)), scale_reward: bool = False):
        RecordConstructorArgs.__init__(self, tau_ns=tau_ns, gamma=gamma, scale_reward=scale_reward)
        super().__init__(env)
        self.tau_ns, self.gamma = _tau_and_gamma(tau_ns, gamma)
        self.scale_reward = scale_reward
        self._scale = 1.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._scale = 1.0
        return observation, {**info, "discount": 1.0, "reward_scale": 1.0}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step, with its discount in the info."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        discount, scale = self.gamma ** (info["elapsed_ns"] / self.tau_ns), self._scale
        self._scale *= discount
        if self.scale_reward:
            reward = float(reward) * scale
        return observation, reward, terminated, truncated, {**info, "discount": discount, "reward_scale": scale}


class VectorSemiMarkovDiscount(gym.vector.VectorWrapper, RecordConstructorArgs):  # type: ignore[type-arg]
    """SemiMarkovDiscount for a batch: infos["discount"] and infos["reward_scale"], float64 [E].

    They belong to the rewards of the same step. With "same_step" a finished row's are those of the episode that ended;
    with "next_step" the step that begins a row anew has 1. autoreset_mode: the batch's.
    """

    def __init__(self, env: AnyVectorEnv, tau_ns: float, gamma: float = float(np.exp(-1)), scale_reward: bool = False):
        RecordConstructorArgs.__init__(self, tau_ns=tau_ns, gamma=gamma, scale_reward=scale_reward)
        super().__init__(env)
        self.tau_ns, self.gamma = _tau_and_gamma(tau_ns, gamma)
        self.scale_reward = scale_reward
        self._scale = np.ones(env.num_envs)
        self._begins = np.zeros(env.num_envs, np.bool_)  # rows that the next step begins anew
        self.autoreset_mode = env.metadata.get("autoreset_mode")
        self._next_step = self.autoreset_mode == AutoresetMode.NEXT_STEP

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin episodes, in the rows of options["reset_mask"] if it is given."""
        observations, infos = self.env.reset(seed=seed, options=options)
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, np.bool_))
        self._scale[mask] = 1.0
        self._begins[mask] = False
        return observations, self._with(infos, np.ones(self.num_envs), np.ones(self.num_envs))

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step, with its discounts in the infos."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        elapsed = infos["elapsed_ns"]
        if "final_info" in infos:
            elapsed = np.where(infos["_final_info"], infos["final_info"]["elapsed_ns"], elapsed)
        discounts = np.where(self._begins, 1.0, self.gamma ** (elapsed / self.tau_ns))
        scales = self._scale.copy()
        ended = terminated | truncated
        self._scale = np.where(ended, 1.0, scales * discounts)
        self._begins = ended if self._next_step else self._begins
        if self.scale_reward:
            rewards = rewards * scales
        return observations, rewards, terminated, truncated, self._with(infos, discounts, scales)

    def _with(self, infos: dict[str, Any], discounts: Any, scales: Any) -> dict[str, Any]:
        every = np.ones(self.num_envs, np.bool_)
        ours = {"discount": discounts, "reward_scale": scales, "_discount": every, "_reward_scale": every}
        return {**infos, **ours}


class DictMask(AnyWrapper, RecordConstructorArgs):
    """The mask in the observation: {key: observation, "action_mask": [A]}, A actions.

    Arguments:
        key: "observation" as in PettingZoo; RLlib has "observations". None: a Dict observation keeps its own keys and
            gains the mask beside them (Stable-Baselines3 takes no Dict in a Dict).
        mask_dtype: "int8" (a MultiBinary space) or "float32" (a Box from 0 to 1).

    Errors: ValueError for key None and an observation that is no Dict, or for a Dict that has such a key already.
    """

    def __init__(self, env: AnyEnv, key: str | None = "observation", mask_dtype: str = "int8"):
        RecordConstructorArgs.__init__(self, key=key, mask_dtype=mask_dtype)
        super().__init__(env)
        self.key, self.mask_dtype = key, mask_dtype
        self.observation_space = _masked_space(env.observation_space, env.action_space, key, mask_dtype)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._masked(observation, info), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._masked(observation, info), reward, terminated, truncated, info

    def _masked(self, observation: Any, info: dict[str, Any]) -> dict[str, Any]:
        return masked(observation, info["action_mask"], self.key, self.mask_dtype)


class VectorDictMask(gym.vector.VectorWrapper, RecordConstructorArgs):  # type: ignore[type-arg]
    """DictMask for a batch: masks [E, A]; with "same_step" those in infos["final_obs"] are the last ones.

    autoreset_mode: the batch's, which libraries ask wrappers for.
    """

    def __init__(self, env: AnyVectorEnv, key: str | None = "observation", mask_dtype: str = "int8"):
        RecordConstructorArgs.__init__(self, key=key, mask_dtype=mask_dtype)
        super().__init__(env)
        self.key, self.mask_dtype = key, mask_dtype
        self.autoreset_mode = env.metadata.get("autoreset_mode")
        single = _masked_space(env.single_observation_space, env.single_action_space, key, mask_dtype)
        self.single_observation_space = single
        self.observation_space = batch_space(single, env.num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin episodes."""
        observations, infos = self.env.reset(seed=seed, options=options)
        return masked(observations, infos["action_mask"], self.key, self.mask_dtype), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        if "final_obs" in infos:
            last = np.full(self.num_envs, None, dtype=object)
            for row in np.flatnonzero(infos["_final_obs"]):
                mask = infos["final_info"]["action_mask"][row]
                last[row] = masked(infos["final_obs"][row], mask, self.key, self.mask_dtype)
            infos = {**infos, "final_obs": last}
        observations = masked(observations, infos["action_mask"], self.key, self.mask_dtype)
        return observations, rewards, terminated, truncated, infos


def masked(observation: Any, mask: npt.NDArray[Any], key: str | None, mask_dtype: str) -> dict[str, Any]:
    """An observation, or a batch of them, with a copy of its mask.

    >>> masked({"globals": 1, "ready": 2}, np.array([0, 1]), None, "int8")
    {'globals': 1, 'ready': 2, 'action_mask': array([0, 1], dtype=int8)}
    """
    parts = observation if key is None else {key: observation}
    return {**parts, "action_mask": mask.astype(mask_dtype)}


def _masked_space(inner: gym.Space[Any], actions: gym.Space[Any], key: str | None, mask_dtype: str) -> gym.spaces.Dict:
    check(mask_dtype in MASK_DTYPES, "mask_dtype", mask_dtype, f"one of {', '.join(MASK_DTYPES)}")
    check(isinstance(actions, gym.spaces.Discrete), "action space", actions, "Discrete")
    number = int(actions.n)  # type: ignore[attr-defined]
    if key is None:
        check(isinstance(inner, gym.spaces.Dict), "key", key, "a name for an observation that is no Dict")
        parts = dict(inner.spaces)  # type: ignore[attr-defined]
    else:
        parts = {key: inner}
    check("action_mask" not in parts, "key", key, "another than action_mask, which is taken")
    space: gym.Space[Any] = gym.spaces.MultiBinary(number)
    if mask_dtype == "float32":
        space = gym.spaces.Box(0.0, 1.0, (number,), np.float32)
    return gym.spaces.Dict({**parts, "action_mask": space})


def _tau_and_gamma(tau_ns: float, gamma: float) -> tuple[float, float]:
    return number("tau_ns", tau_ns, 0.0, 1e15, above=True), number("gamma", gamma, 0.0, 1.0)
