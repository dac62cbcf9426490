"""Agents: they act in kvmgym's environments through the Gymnasium interface.

`load` reads a trained one from its folder. It runs no code from there: settings are JSON, weights are plain numbers.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from kvmgym.files import from_json
from kvmgym.measure.compare import Learned
from kvmgym.measure.evaluate import evaluate
from kvmgym.measure.provenance import sources_digest
from kvmgym.params.errors import lookup
from kvmgym_agents.base import Agent
from kvmgym_agents.heuristics import HEURISTICS
from kvmgym_agents.kernel import KernelAgent

SETTINGS, WEIGHTS = "settings.json", "weights.safetensors"  # in the folder of a trained agent
# What a folder's settings may name as "kind", and who loads it: a module here that has `load(folder) -> Agent`, and
# the extra that it needs.
KINDS: Mapping[str, tuple[str, str]] = MappingProxyType({"maskable-ppo": ("kvmgym_agents.ppo", "train")})


def load(path: str | Path) -> Agent:
    """The trained agent in a folder; its name is the folder's.

    Errors: ValueError when the folder holds no agent, its settings are damaged or of an unknown kind, its weights do
    not match, or the extra that its kind needs is not installed.
    """
    folder = Path(path)
    file = folder / SETTINGS
    if not file.is_file():
        raise ValueError(f"{folder}: no trained agent there (no {SETTINGS})")
    try:
        settings = from_json(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file}: damaged: {error}") from None
    if not isinstance(settings, dict) or not isinstance(settings.get("kind"), str):
        raise ValueError(f'{file}: must be an object with a "kind"')
    lookup(str(file), "kind of agent", settings["kind"], KINDS)
    module, extra = KINDS[settings["kind"]]
    try:
        loader = importlib.import_module(module).load
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("kvmgym_agents", "kvmgym"):
            raise
        raise ValueError(
            f"{folder}: needs {error.name}, which is not installed: pip install 'kvmgym[{extra}]'"
        ) from None
    agent: Agent = loader(folder)
    agent.name = folder.resolve().name
    return agent


def learned(path: str | Path) -> Learned:
    """The trained agent in a folder, ready for a comparison beside policies. Errors: as `kvmgym_agents.load`."""
    agent = load(path)
    sees = bool(agent.env_options.get("privileged", False))
    digest = digest_of(Path(path))
    return Learned(agent.name, digest, lambda *what, **how: evaluate(agent, *what, **how), privileged=sees)


def digest_of(folder: Path) -> str:
    """A hash of what decides an agent's actions: the code that acts, torch under it, its settings and its weights."""
    found = hashlib.sha256()
    found.update(sources_digest(Path(__file__).parent).encode())
    if find_spec("torch"):
        found.update(version("torch").encode())
    for name in (SETTINGS, WEIGHTS):
        content = (folder / name).read_bytes() if (folder / name).is_file() else b""
        found.update(f"{name}:{len(content)};".encode() + content)
    return found.hexdigest()


__all__ = ["HEURISTICS", "KINDS", "Agent", "KernelAgent", "evaluate", "learned", "load"]
