"""Agents: they act in kvmgym's environments through the Gymnasium interface.

`load` reads a trained one from its folder; kvmgym finds its kind by an entry point (kvmgym.measure.agents).
"""

from __future__ import annotations

from kvmgym.measure.agents import learned, load
from kvmgym.measure.evaluate import evaluate
from kvmgym_agents.base import Agent
from kvmgym_agents.heuristics import HEURISTICS
from kvmgym_agents.kernel import KernelAgent

__all__ = ["HEURISTICS", "Agent", "KernelAgent", "evaluate", "learned", "load"]
