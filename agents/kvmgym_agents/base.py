"""What an agent is: something that answers observations with actions, whole batches at once.

An agent acts through the Gymnasium interface only. The same `act` serves a VectorEnv (arrays with a leading axis of E
rows) and, through `act_one`, the single environment.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from kvmgym.params import Scenario

Actions = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
_STEP = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)  # shift, factor


class Agent(ABC):
    """One way to choose targets.

    name: in tables. env_options: what the environment has to be made with, as {"observation": "dict"}.
    """

    name: str = "agent"
    env_options: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    def prepare(self, scenario: Scenario) -> Scenario:
        """The scenario with what belongs to the agent switched on in it; most agents take it as it is."""
        return scenario

    def bind(self, env: Any) -> None:  # noqa: B027  few agents ask
        """Told the environment (a VectorEnv or an Env) before the first `act` in it; whoever asks it keeps it."""

    @abstractmethod
    def act(self, observation: Any, info: Mapping[str, Any]) -> Actions:
        """An action for each row, int64 [E]: 0 to V - 1 a target, V "no yield".

        observation: of the VectorEnv, in the form that env_options name. info: its infos; "action_mask" is int8
        [E, V + 1]. Rows that have ended allow "no yield" only.
        """

    def act_one(self, observation: Any, info: Mapping[str, Any]) -> int:
        """The action for the observation and info of a single environment."""
        return int(self.act(one_row(observation), {key: one_row(value) for key, value in info.items()})[0])


def one_row(value: Any) -> Any:
    """A value of a single environment as a batch of one row; tables become tables of batches.

    >>> one_row({"a": 3, "b": np.zeros(2)})
    {'a': array([3]), 'b': array([[0., 0.]])}
    """
    if isinstance(value, Mapping):
        return {key: one_row(part) for key, part in value.items()}
    return np.asarray(value)[None]


def masks_of(info: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """The action masks of infos as bool [E, V + 1]; the last column is "no yield"."""
    return np.asarray(info["action_mask"]).astype(np.bool_)


def hashed(values: Hashes) -> Hashes:
    """One step of splitmix64 from each value (Steele, Lea, Flood 2014), for draws that depend on the decision alone."""
    with np.errstate(over="ignore"):  # it wraps on purpose
        found = values + _STEP
        for shift, factor in _ROUNDS:
            found = (found ^ (found >> shift)) * factor
        mixed: Hashes = found ^ (found >> np.uint64(31))
    return mixed
