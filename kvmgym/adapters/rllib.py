"""RLlib: the observation with its mask as RLlib's action-masking modules expect it. Needs no Ray itself.

{"observations": the observation, "action_mask": float32 [V + 1]}: their models take the logarithm of the mask.

    from ray import tune
    from kvmgym.adapters import rllib
    tune.register_env("directed-yield", rllib.create)
    config.environment("directed-yield", env_config={"scenario": "dedup-small", "duration_ns": 20_000_000})
    config.env_runners(num_envs_per_env_runner=8, gym_env_vectorize_mode="vector_entry_point")  # the native batch
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvmgym.env.single import DirectedYieldEnv
from kvmgym.env.vector import DirectedYieldVectorEnv
from kvmgym.env.wrappers import AnyEnv, DictMask, VectorDictMask

FORM = {"key": "observations", "mask_dtype": "float32"}


def wrap(env: AnyEnv) -> DictMask:
    """The environment with the observation that RLlib expects."""
    return DictMask(env, **FORM)


def create(config: Mapping[str, Any] | None = None) -> DictMask | VectorDictMask:
    """What tune.register_env takes. config: the arguments of DirectedYieldEnv, None or empty for the defaults; with
    "num_envs", which RLlib adds for gym_env_vectorize_mode="vector_entry_point", those of DirectedYieldVectorEnv.

    RLlib keeps the observations of a batch and expects "next_step": copy and autoreset_mode are fixed.
    Errors: TypeError for an unknown or fixed argument, ValueError for a bad value.
    """
    arguments = dict(config or {})
    if "num_envs" in arguments:
        return VectorDictMask(DirectedYieldVectorEnv(**arguments, autoreset_mode="next_step", copy=True), **FORM)
    return wrap(DirectedYieldEnv(**arguments))
