"""Packages that offer kinds of trained agents, as pip would have installed them, for tests."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

COUNTED = """
from kvmgym_agents.heuristics import LongestWaiting

needs = "counted-agents"
files = ("settings.json", "weights.safetensors")
packages = ("made-up",)
calls = []  # the number of worlds of each evaluation


class Counted(LongestWaiting):
    def bind(self, env):
        calls.append(env.num_envs)


def load(folder):
    return Counted()
"""

BARE = """
needs = "kvmgym[train]"
files = ("settings.json",)
packages = ()


def load(folder):
    import no_such_torch


def add_arguments(group):
    group.add_argument("--laps", type=int, default=1, help="how often")


def train(options, console):
    if options.laps < 1:
        raise ValueError(f"--laps {options.laps}: must be 1 or more")
    import no_such_torch
"""


def install(site: Path, monkeypatch: pytest.MonkeyPatch, modules: Mapping[str, str], points: Mapping[str, str]) -> None:
    """Put modules (sources by name) on the path, and entry points (module by kind) of a package "made-up"."""
    folder = site / "made_up-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up\nVersion: 1.0\n")
    lines = [f"{kind} = {module}" for kind, module in points.items()]
    (folder / "entry_points.txt").write_text("\n".join(["[kvmgym.agents]", *lines, ""]))
    for name, source in modules.items():
        monkeypatch.delitem(sys.modules, name, raising=False)
        (site / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(site))
