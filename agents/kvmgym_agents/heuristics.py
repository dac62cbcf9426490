"""Heuristics on observations: reference points that a learned agent has to beat, with nothing but what it sees.

Each reads fields of kvmgym.env.observation by name and chooses for all rows of a batch at once. Ties go to the lowest
index.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from kvmgym.params.errors import integer
from kvmgym_agents.base import Actions, Agent, Hashes, hashed, masks_of

Seen = Mapping[str, npt.NDArray[np.float32]]  # an observation in the form "dict", a batch of it


class Heuristic(Agent):
    """An agent that scores candidates and takes the best allowed one; "no yield" only when there is none."""

    env_options: ClassVar[Mapping[str, Any]] = MappingProxyType({"observation": "dict"})

    def act(self, observation: Any, info: Mapping[str, Any]) -> Actions:
        """The candidate with the largest score in each row, int64 [E]."""
        mask = masks_of(info)
        scores = np.where(mask[:, :-1], self.scores(observation), -np.inf)
        best = scores.argmax(axis=1)
        chosen: Actions = np.where(np.isneginf(scores.max(axis=1)), mask.shape[1] - 1, best)
        return chosen

    @abstractmethod
    def scores(self, seen: Seen) -> npt.NDArray[Any]:
        """A number for each vCPU, [E, V], from fields [E, V]; -inf for "rather nobody"."""


class NoYield(Agent):
    """Never yields."""

    name = "none"

    def act(self, observation: Any, info: Mapping[str, Any]) -> Actions:
        """The last action in each row."""
        mask = np.asarray(info["action_mask"])
        return np.full(len(mask), mask.shape[1] - 1, np.int64)


class RandomAgent(Agent):
    """Any allowed target, all alike; "no yield" only when there is none. The draw is a hash of the seed and the
    decision (time, VM, spinner, attempt), so that a row's episode depends on its own world only."""

    name = "random"

    def __init__(self, seed: int = 0) -> None:
        self.seed = integer("seed", seed, 0, 2**63 - 1)

    def act(self, observation: Any, info: Mapping[str, Any]) -> Actions:
        """An allowed target in each row, int64 [E]."""
        mask = masks_of(info)
        draws: Hashes = np.full(len(mask), self.seed, np.uint64)
        for key in ("now_ns", "vm", "me", "attempt"):
            values: Hashes = np.asarray(info[key]).astype(np.uint64)
            draws = hashed(draws ^ values)
        numbers: Hashes = np.arange(mask.shape[1]).astype(np.uint64)
        each = hashed(draws[:, None] + numbers) >> np.uint64(1)
        each |= mask.astype(np.uint64) << np.uint64(63)  # allowed ones are above all others
        chosen: Actions = np.where(mask[:, :-1].any(axis=1), each[:, :-1].argmax(axis=1), mask.shape[1] - 1)
        return chosen


class RoundRobin(Heuristic):
    """The next allowed vCPU after the one boosted last."""

    name = "round-robin"

    def scores(self, seen: Seen) -> npt.NDArray[Any]:
        """Minus the number of places after the one boosted last."""
        count = seen["exists"].sum(axis=1, keepdims=True).astype(np.int64)
        last = seen["last_boosted"].argmax(axis=1)[:, None]
        turn: npt.NDArray[Any] = (np.arange(seen["exists"].shape[1]) - last - 1) % np.maximum(count, 1)
        return -turn


class LongestWaiting(Heuristic):
    """The allowed vCPU that has been ready longest, as exactly as an observation tells it (to 1 part in a million; all
    above 1 s alike)."""

    name = "longest-waiting"

    def scores(self, seen: Seen) -> npt.NDArray[Any]:
        """The waiting time."""
        return seen["waiting"]


class Clairvoyant(Heuristic):
    """Privileged: the vCPU that the spinner truly waits for, if it is allowed, else nobody."""

    name = "clairvoyant"
    env_options: ClassVar[Mapping[str, Any]] = MappingProxyType({"observation": "dict", "privileged": True})

    def scores(self, seen: Seen) -> npt.NDArray[Any]:
        """0 for the awaited one."""
        return np.where(seen["awaited"] > 0, 0.0, -np.inf)


HEURISTICS: tuple[Callable[[], Agent], ...] = (RandomAgent, NoYield, RoundRobin, LongestWaiting, Clairvoyant)
