"""The trained agent: reads a run's folder and acts on VMs of any number of vCPUs. Needs torch, but not SB3."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from kvmgym_agents.base import Actions, Agent, hashed
from kvmgym_agents.ppo.network import CandidateNetwork
from kvmgym_agents.ppo.storage import Settings, load_network


class PpoAgent(Agent):
    """Acts by a CandidateNetwork: draws from the probabilities that it was trained with, or takes the highest score.

    sample: draw. The draw is a hash of the decision's time and place, not of a generator that rows share, so that it
    does not depend on what stands beside it in the batch. settings: those of the run, if it comes from one.
    """

    name = "ppo"
    env_options: ClassVar[Mapping[str, Any]] = MappingProxyType({"observation": "matrix"})

    def __init__(self, network: CandidateNetwork, settings: Settings | None = None, sample: bool = True) -> None:
        self.network, self.settings, self.sample = network, settings, sample

    def probabilities(self, observation: Any, mask: Any) -> torch.Tensor:
        """Action probabilities float32 [E, V + 1] for observations [E, V, G + F] and masks [E, V + 1]."""
        rows = torch.as_tensor(np.asarray(observation, np.float32))
        inputs = self.network.settings.inputs
        if rows.ndim != 3 or rows.shape[2] != inputs:
            raise ValueError(f'observation {list(rows.shape)}: must be [E, V, {inputs}], of the form "matrix"')
        allowed = torch.as_tensor(np.asarray(mask, np.bool_))
        if allowed.shape != (rows.shape[0], rows.shape[1] + 1):
            raise ValueError(f"action_mask {list(allowed.shape)}: must be {[rows.shape[0], rows.shape[1] + 1]}")
        with torch.inference_mode():
            scores, _ = self.network(rows)
        return torch.softmax(scores.masked_fill(~allowed, -torch.inf), dim=1)

    def act(self, observation: Any, info: Mapping[str, Any]) -> Actions:
        """An action for each row, int64 [E], from observations [E, V, G + F] and infos: action_mask [E, V + 1], and to
        draw now_ns, vm, me and attempt [E]."""
        chances = self.probabilities(observation, info["action_mask"]).numpy()
        if self.sample:
            chances = chances / exponentials(info, chances.shape[1])  # the largest is drawn from the probabilities
        found: Actions = chances.argmax(axis=1)
        return found


def exponentials(info: Mapping[str, Any], number: int) -> npt.NDArray[np.float64]:
    """Exponential random numbers [E, number], a hash (splitmix64) of each row's decision.

    >>> decision = {name: np.array([5, 5, 6]) for name in ("now_ns", "vm", "me", "attempt")}
    >>> drawn = exponentials(decision, 4)
    >>> bool((drawn[0] == drawn[1]).all()), bool((drawn[0] == drawn[2]).any())
    (True, False)
    """
    state = np.zeros((len(info["now_ns"]), 1), np.uint64)
    for part in (*(np.asarray(info[name])[:, None] for name in ("now_ns", "vm", "me", "attempt")), np.arange(number)):
        state = hashed(state + part.astype(np.uint64))
    uniform = ((state >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    found: npt.NDArray[np.float64] = -np.log(uniform)
    return found


def load(folder: str | Path) -> PpoAgent:
    """The agent of a run's folder. Sets torch to one thread: on a busy machine more make a network this small ten times
    slower. Errors: ValueError for files that are missing, damaged or of another observation."""
    torch.set_num_threads(1)
    return PpoAgent(*load_network(Path(folder)))
