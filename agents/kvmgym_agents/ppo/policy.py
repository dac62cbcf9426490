"""The network as sb3-contrib's MaskablePPO wants it, and a rollout buffer that discounts by simulated time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from sb3_contrib.common.maskable.distributions import MaskableDistribution
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy

from kvmgym.env.reward import UNIT_NS
from kvmgym_agents.ppo.network import CandidateNetwork, NetworkSettings

MEMORY = 0.02  # how fast the mean reward follows, a rollout


class CandidatePolicy(MaskableActorCriticPolicy):  # type: ignore[misc]
    """Action probabilities and values from a CandidateNetwork; policy_kwargs: network, its settings.

    For observations of the form "matrix". The action head is the network's scores, not a layer over V.
    """

    def __init__(self, *args: Any, network: NetworkSettings, **kwargs: Any) -> None:
        self._settings = network
        super().__init__(*args, net_arch=[], **kwargs)

    def _build(self, lr_schedule: Callable[[float], float]) -> None:
        self.network = CandidateNetwork(self._settings)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    def _read(self, obs: torch.Tensor, action_masks: Any) -> tuple[MaskableDistribution, torch.Tensor]:
        scores, values = self.network(obs.float())
        distribution = self.action_dist.proba_distribution(action_logits=scores)
        if action_masks is not None:
            distribution.apply_masking(action_masks)
        return distribution, values

    def forward(
        self, obs: torch.Tensor, deterministic: bool = False, action_masks: Any = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Actions [B], values [B, 1] and log probabilities [B]."""
        distribution, values = self._read(obs, action_masks)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, values.unsqueeze(-1), distribution.log_prob(actions)

    def evaluate_actions(
        self, obs: torch.Tensor, actions: torch.Tensor, action_masks: Any = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Values [B, 1], log probabilities of the actions [B] and entropies [B]."""
        distribution, values = self._read(obs, action_masks)
        return values.unsqueeze(-1), distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: torch.Tensor, action_masks: Any = None) -> MaskableDistribution:
        """The action probabilities."""
        return self._read(obs, action_masks)[0]

    def predict_values(self, obs: torch.Tensor) -> torch.Tensor:
        """Values [B, 1]."""
        return self.network(obs.float())[1].unsqueeze(-1)


class TimedBuffer(MaskableRolloutBuffer):  # type: ignore[misc]
    """A rollout buffer for decisions that last unequal times.

    A reward that lies dt later counts exp(-dt / tau_ns), not gamma for each decision: with a fixed gamma an agent would
    be paid for stretching or shortening the time to the next decision. Rewards are centred: each is compared with what
    is usual in the time that it took, the running mean of reward / time, so that values stay near 0.

    elapsed_ns: called after each step of the environment, the time that passed in each row, int64 [E].
    """

    def __init__(
        self, *args: Any, elapsed_ns: Callable[[], npt.NDArray[np.int64]], tau_ns: float, **kwargs: Any
    ) -> None:
        self._elapsed_ns, self._tau_ns = elapsed_ns, tau_ns
        self.usual = 0.0  # reward a UNIT_NS of simulated time, running mean
        self.rollouts = 0
        super().__init__(*args, **kwargs)

    def reset(self) -> None:
        """Begin a rollout."""
        super().reset()
        self.elapsed = np.zeros((self.buffer_size, self.n_envs))

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Keep a step, with the time that it took."""
        self.elapsed[self.pos] = self._elapsed_ns()
        super().add(*args, **kwargs)

    def compute_returns_and_advantage(self, last_values: torch.Tensor, dones: npt.NDArray[np.bool_]) -> None:
        """GAE(lambda) with a discount for each step of its own."""
        time = self.elapsed / UNIT_NS
        self.rollouts += 1
        share = max(MEMORY, 1 / self.rollouts)
        self.usual += share * (float(self.rewards.sum() / max(time.sum(), 1e-9)) - self.usual)
        centred = self.rewards - self.usual * time
        discounts = np.exp(-self.elapsed / self._tau_ns)
        after = np.concatenate([self.values[1:], last_values.cpu().numpy().reshape(1, -1)])
        goes_on = 1.0 - np.concatenate([self.episode_starts[1:], dones.astype(np.float32).reshape(1, -1)])
        deltas = centred + discounts * after * goes_on - self.values
        advantage = np.zeros(self.n_envs)
        for step in reversed(range(self.buffer_size)):
            advantage = deltas[step] + discounts[step] * self.gae_lambda * goes_on[step] * advantage
            self.advantages[step] = advantage
        self.returns = self.advantages + self.values
