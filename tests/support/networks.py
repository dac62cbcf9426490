"""Networks of kvmgym_agents.ppo and observations for them, for tests."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from kvmgym_agents.ppo.network import EXISTS, CandidateNetwork, NetworkSettings, field_names  # noqa: E402


def network(seed: int = 0, hidden: int = 8) -> CandidateNetwork:
    """A network with weights of a size that a trained one could have, not the near-zero heads of the start."""
    torch.manual_seed(seed)
    found = CandidateNetwork(NetworkSettings(hidden=hidden))
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return found


def rows(number: int, vcpus: int, seed: int = 0) -> Any:
    found = torch.rand(number, vcpus, len(field_names()), generator=torch.Generator().manual_seed(seed))
    found[..., EXISTS] = 1
    return found
