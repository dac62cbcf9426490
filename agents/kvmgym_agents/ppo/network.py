"""The network: one score for each candidate vCPU, with the same weights for all, and one for "no yield".

Reads the "matrix" observation, float32 [B, V, G + F]: the globals, then the fields of a vCPU, in every row; a row whose
field `exists` is 0 is padding. Every layer works on one row or on a mean or maximum over the rows that exist, so V may
differ from call to call, and permuting the vCPUs permutes their scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from kvmgym.env.observation import GLOBALS, VCPU_FIELDS
from kvmgym.env.spaces import vcpu_fields
from kvmgym.params.errors import integers

EXISTS = len(GLOBALS) + [field.name for field in VCPU_FIELDS].index("exists")


@dataclass(frozen=True)
class NetworkSettings:
    """The sizes. inputs: numbers of a row of the observation; hidden: width of every layer."""

    inputs: int = len(GLOBALS) + len(VCPU_FIELDS)
    hidden: int = 64

    def __post_init__(self) -> None:
        integers(self, EXISTS + 1, 4096, "inputs")
        integers(self, 1, 4096, "hidden")


def field_names(privileged: bool = False) -> tuple[str, ...]:
    """What the numbers of a row are, globals first: the network knows them by their place alone.

    >>> field_names()[0], field_names()[EXISTS]
    ('global.window', 'vcpu.exists')
    """
    rows = vcpu_fields(privileged)
    return (*(f"global.{field.name}" for field in GLOBALS), *(f"vcpu.{field.name}" for field in rows))


class CandidateNetwork(nn.Module):
    """Scores [B, V + 1] (the last is "no yield") and values [B] from observations [B, V, inputs]."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        wide = settings.hidden
        self.embed = nn.Sequential(nn.Linear(settings.inputs, wide), nn.Tanh(), nn.Linear(wide, wide), nn.Tanh())
        self.context = nn.Sequential(nn.Linear(2 * wide, wide), nn.Tanh())
        self.score = nn.Sequential(nn.Linear(2 * wide, wide), nn.Tanh(), nn.Linear(wide, 1))
        self.no_yield = nn.Linear(wide, 1)
        self.value = nn.Sequential(nn.Linear(wide, wide), nn.Tanh(), nn.Linear(wide, 1))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight, 2**0.5)
                nn.init.zeros_(module.bias)
        for last, gain in ((self.score[-1], 0.01), (self.no_yield, 0.01), (self.value[-1], 1.0)):
            nn.init.orthogonal_(last.weight, gain)

    def forward(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and values. An observation without a vCPU (the end of an episode) has the value 0."""
        exists = observations[..., EXISTS : EXISTS + 1]
        rows = self.embed(observations) * exists
        number = exists.sum(dim=1)
        mean = rows.sum(dim=1) / number.clamp(min=1)
        highest = (rows - 2 * (1 - exists)).amax(dim=1)  # tanh is within -1 and 1
        context = self.context(torch.cat([mean, highest], dim=-1))
        everyones = context.unsqueeze(1).expand(-1, rows.shape[1], -1)
        scores = self.score(torch.cat([rows, everyones], dim=-1)).squeeze(-1)
        values = self.value(context).squeeze(-1) * (number.squeeze(-1) > 0)
        return torch.cat([scores, self.no_yield(context)], dim=1), values
