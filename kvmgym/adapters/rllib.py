"""RLlib: the observation with its mask as RLlib's action-masking modules expect it. Needs no Ray itself.

{"observations": the observation, "action_mask": float32 [V + 1]}: their models take the logarithm of the mask.

    from ray import tune
    from kvmgym.adapters import rllib
    tune.register_env("directed-yield", rllib.create)
    config.environment("directed-yield", env_config={"scenario": "dedup-small", "duration_ns": 20_000_000})
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvmgym.env import DirectedYieldEnv
from kvmgym.wrappers import AnyEnv, DictMask


def wrap(env: AnyEnv) -> DictMask:
    """The environment with the observation that RLlib expects."""
    return DictMask(env, key="observations", mask_dtype="float32")


def create(config: Mapping[str, Any] | None = None) -> DictMask:
    """What tune.register_env takes. config: the arguments of DirectedYieldEnv, None or empty for the defaults.

    Errors: TypeError for an unknown argument, ValueError for a bad value.
    """
    return wrap(DirectedYieldEnv(**dict(config or {})))
