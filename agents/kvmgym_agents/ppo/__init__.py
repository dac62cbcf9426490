"""A masked PPO agent whose network scores every candidate with the same weights: any number of vCPUs.

network.py: the network (torch only). policy.py: the same network for sb3-contrib's MaskablePPO, and its rollout buffer.
storage.py: files without code in them. agent.py: the trained agent. train.py: the command; loop.py: what it runs.
`kvmgym_agents.ppo.load(folder)` is what `kvmgym_agents.load` calls.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """torch is imported with the first use, so that `python -m kvmgym_agents.ppo.train` can say what is missing."""
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kvmgym_agents.ppo.agent import load

    return load
