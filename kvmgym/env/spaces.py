"""The observation forms and the action space, made from the tables of kvmgym.env.observation.

`flat`: float32 [G + V*F], globals first, then a row for each vCPU. `dict`: "globals" [G] and each field of a vCPU by
its name, [V]. `matrix`: [V, G + F], the globals repeated in front of each vCPU's row, for networks that score every
candidate with the same weights. F counts the privileged fields when they are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from kvmgym.env.observation import GLOBALS, PRIVILEGED, VCPU_FIELDS, F, Field, G

FORMS = ("flat", "dict", "matrix")
Floats = npt.NDArray[np.float32]


def vcpu_fields(privileged: bool) -> tuple[Field, ...]:
    """The fields of a vCPU's row."""
    return (*VCPU_FIELDS, *PRIVILEGED) if privileged else VCPU_FIELDS


@cache
def _names(privileged: bool) -> tuple[str, ...]:
    return tuple(field.name for field in vcpu_fields(privileged))


def _bounds(fields: Sequence[Field]) -> tuple[Floats, Floats]:
    low = np.array([field.low for field in fields], np.float32)
    return low, np.array([field.high for field in fields], np.float32)


def observation_space(form: str, max_vcpus: int, privileged: bool) -> gym.Space[Any]:
    """The space of one observation of VMs of at most `max_vcpus` vCPUs (V)."""
    low_g, high_g = _bounds(GLOBALS)
    low_f, high_f = _bounds(vcpu_fields(privileged))
    low_v, high_v = np.tile(np.minimum(low_f, 0), (max_vcpus, 1)), np.tile(high_f, (max_vcpus, 1))
    if form == "dict":
        names = _names(privileged)
        columns = {name: gym.spaces.Box(low_v[:, f], high_v[:, f]) for f, name in enumerate(names)}
        return gym.spaces.Dict({"globals": gym.spaces.Box(low_g, high_g), **columns})
    if form == "matrix":
        low = np.concatenate([np.tile(low_g, (max_vcpus, 1)), low_v], axis=1)
        return gym.spaces.Box(low, np.concatenate([np.tile(high_g, (max_vcpus, 1)), high_v], axis=1))
    return gym.spaces.Box(np.concatenate([low_g, low_v.ravel()]), np.concatenate([high_g, high_v.ravel()]))


def shaped(form: str, flat: Floats, max_vcpus: int) -> Any:
    """Flat observations float32 [E, G + V*F] (or [G + V*F]) in a form; `flat` and `dict` are views, those
    of `dict` with strides."""
    if form == "flat":
        return flat
    rows = flat[..., G:].reshape(*flat.shape[:-1], max_vcpus, -1)
    if form == "dict":
        names = _names(rows.shape[-1] > F)
        return {"globals": flat[..., :G], **{name: rows[..., f] for f, name in enumerate(names)}}
    ahead = np.broadcast_to(flat[..., None, :G], (*rows.shape[:-1], G))
    return np.concatenate([ahead, rows], axis=-1)


def number_of_flat(max_vcpus: int, privileged: bool) -> int:
    """How many numbers a flat observation has."""
    return G + max_vcpus * len(vcpu_fields(privileged))
