"""Minari: record what an agent does as a dataset for offline learning.

Episodes are recorded in batches on the native environment and handed to Minari whole, so that neither its collector
nor jax is needed. Left out: scenario samplers (an episode's seed would not tell its scenario to a reader).

    from kvmgym.adapters.minari import record
    dataset = record("kvmgym/random-v0", lambda observations, infos: ..., episodes=100, seed=1)
"""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from kvmgym.env.rows import one_source
from kvmgym.env.single import ID
from kvmgym.env.vector import DirectedYieldVectorEnv
from kvmgym.params import Scenario
from kvmgym.params.errors import check, integer

Act = Callable[[Any, Mapping[str, Any]], npt.ArrayLike]
# What is kept of the infos beside the mask; at the first entry of an episode they belong to the reset.
INFOS = ("elapsed_ns", "vm", "me", "attempt", "result", "ops")


def record(
    dataset_id: str,
    agent: Any,
    *,
    episodes: int,
    seed: int = 0,
    scenario: str | Scenario = "dedup-small",
    num_envs: int = 16,
    about: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """Record episodes into a new local Minari dataset (in MINARI_DATASETS_PATH) and return it.

    agent: a function of observations and infos of a batch that returns actions [E]; or an object with such a method
    `act`, and as it likes `env_options`, `prepare(scenario)` and `bind(env)`, which are used.
    seed: episode k is that of the single environment with seed + k. num_envs: episodes at once. about: further
    arguments of minari.create_dataset_from_buffers (author, description ...). options: as for DirectedYieldVectorEnv.
    Observations have T + 1 items, actions and rewards T; infos have the masks and INFOS. The dataset can make its
    environment anew when all arguments are plain data.
    Errors: ImportError when Minari or its storage is not installed, ValueError for an unknown scenario.
    """
    minari = _minari()
    integer("episodes", episodes, 1, 10**7)
    integer("num_envs", num_envs, 1, 10**6)
    given = one_source(scenario)
    check(isinstance(given, Scenario), "scenario", scenario, "a fixed scenario: a name, a .toml file or a Scenario")
    prepared: Any = agent.prepare(given) if hasattr(agent, "prepare") else given
    arguments = {**options, **getattr(agent, "env_options", {})}
    buffers: list[Any] = []
    for start in range(0, episodes, num_envs):
        batch = DirectedYieldVectorEnv(min(num_envs, episodes - start), prepared, **arguments)
        if hasattr(agent, "bind"):
            agent.bind(batch)
        for episode in collect(batch, getattr(agent, "act", agent), seed + start):
            buffers.append(minari.data_collector.EpisodeBuffer(id=len(buffers), **episode))
        batch.close()
    spec = _spec(scenario if prepared == given else prepared, arguments)
    name = getattr(agent, "name", None) or getattr(agent, "__name__", None)
    text = {"algorithm_name": name, **dict(about or {})}
    return minari.create_dataset_from_buffers(
        dataset_id,
        buffers,
        env=spec,
        observation_space=batch.single_observation_space,
        action_space=batch.single_action_space,
        **text,
    )


def collect(batch: DirectedYieldVectorEnv, act: Act, seed: int) -> list[dict[str, Any]]:
    """One episode of each row, from its reset with seed + row to its end, as Minari's EpisodeBuffer takes them: seed,
    observations [T + 1, ...], actions, rewards, terminations and truncations [T], infos {name: [T + 1, ...]}.

    The batch auto-resets in "next_step" mode; what a row does after its end is dropped. Errors: ValueError for another
    mode.
    """
    mode = batch.autoreset_mode
    check(mode == gym.vector.AutoresetMode.NEXT_STEP, "autoreset_mode", mode, "next_step")
    observations, infos = batch.reset(seed=seed)
    seen, kept, done = [_copied(observations)], [_kept(infos)], []
    lengths = np.zeros(batch.num_envs, np.int64)
    while not lengths.all():
        actions = np.array(act(observations, infos), dtype=np.int64)
        observations, rewards, _, truncated, infos = batch.step(actions)
        done.append((actions, np.array(rewards)))
        seen.append(_copied(observations))
        kept.append(_kept(infos))
        lengths[(lengths == 0) & truncated] = len(done)
    return [_episode(seen, kept, done, row, int(lengths[row]), seed) for row in range(batch.num_envs)]


def _episode(seen: list[Any], kept: list[Any], done: list[Any], row: int, length: int, seed: int) -> dict[str, Any]:
    """Row `row` of what was observed and done, with the infos, in the first `length` steps."""
    return {
        "seed": seed + row,
        "observations": _column(seen[: length + 1], row),
        "actions": np.array([actions[row] for actions, _ in done[:length]]),
        "rewards": [float(rewards[row]) for _, rewards in done[:length]],
        "terminations": [False] * length,
        "truncations": [False] * (length - 1) + [True],
        "infos": _column(kept[: length + 1], row),
    }


def _column(steps: list[Any], row: int) -> Any:
    """One row of a list of batches: an array [T, ...], or a table of them."""
    if isinstance(steps[0], dict):
        return {key: np.stack([step[key][row] for step in steps]) for key in steps[0]}
    return np.stack([step[row] for step in steps])


def _kept(infos: Mapping[str, Any]) -> dict[str, Any]:
    return {key: np.array(infos[key]) for key in ("action_mask", *INFOS)}


def _copied(observations: Any) -> Any:
    """A copy, for batches that hand out the arrays that the next step overwrites."""
    if isinstance(observations, dict):
        return {key: value.copy() for key, value in observations.items()}
    return observations.copy()


def _spec(scenario: str | Scenario, arguments: Mapping[str, Any]) -> Any:
    """The environment's spec, or None when an argument is no plain data."""
    spec = copy.deepcopy(gym.spec(ID))
    of_batch = ("threads", "copy", "max_episode_steps")
    spec.kwargs = {"scenario": scenario, **{key: value for key, value in arguments.items() if key not in of_batch}}
    spec.max_episode_steps = arguments.get("max_episode_steps")
    try:
        json.dumps(spec.kwargs, allow_nan=False)
    except (TypeError, ValueError):
        return None
    return spec


def _minari() -> Any:
    """Minari and what it stores with. Errors: ImportError that tells what to install."""
    try:
        importlib.import_module("h5py")
        importlib.import_module("PIL")
        return importlib.import_module("minari")
    except ImportError as error:
        raise ImportError(f"recording needs {error.name}: pip install 'kvmgym[minari]'") from None
