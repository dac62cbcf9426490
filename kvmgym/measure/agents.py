"""Trained agents: which kinds are installed, and how one is read from its folder.

A package adds a kind of its own with an entry point of the group "kvmgym.agents". The entry point's name is the kind,
as a folder's settings.json has it under "kind"; what it names is a module or an object as `Kind` describes. Nothing
here runs code from a folder.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rich.console import Console

from kvmgym.files import from_json
from kvmgym.measure.compare import Learned
from kvmgym.measure.evaluate import Acts, evaluate
from kvmgym.params.errors import lookup

GROUP = "kvmgym.agents"
SETTINGS = "settings.json"  # in the folder of every trained agent: a JSON object with its "kind"
MOST_BYTES = 16 * 2**20  # of these settings


class Trained(Acts, Protocol):
    """An agent that was read from a folder, whose name it takes."""

    name: str


class Kind(Protocol):
    """What an entry point of the group names.

    needs: what pip installs for it, as "kvmgym[train]". What decides what an agent does, beside the sources of the
    kind's own package: files, of the agent's folder; packages, as pip names them, by their versions. It may import what
    is large in `load` only.
    """

    @property
    def needs(self) -> str: ...

    @property
    def files(self) -> Sequence[str]: ...

    @property
    def packages(self) -> Sequence[str]: ...

    def load(self, folder: Path) -> Trained:
        """The agent in a folder. Errors: ValueError for files that are missing or damaged."""
        ...


KIND_PARTS = ("needs", "files", "packages", "load")


@runtime_checkable
class Trainable(Protocol):
    """A kind that `kvmgym train` can train."""

    def add_arguments(self, group: argparse._ArgumentGroup) -> None:
        """Add its own options to those of the command; --kind, --out and --json are there."""

    def train(self, options: argparse.Namespace, console: Console) -> dict[str, Any]:
        """Train in the folder options.out; returns what --json writes. Errors: ValueError for a mistake in the options,
        before anything is written."""
        ...


def kinds() -> Mapping[str, EntryPoint]:
    """The installed kinds by name, in the order of their names."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    return dict(sorted(found.items()))


def kind(name: str, where: str = "") -> Kind:
    """The kind of this name. where: what a message begins with. Errors: ValueError for a kind that is not installed or
    cannot be imported."""
    installed = kinds()
    lookup(where, "kind of agent", name, installed)
    point = installed[name]
    package = point.dist.name if point.dist else point.module
    try:
        found: Kind = point.load()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{where or GROUP}: the agents of {package} cannot be imported: {error}") from None
    lacking = [part for part in KIND_PARTS if not hasattr(found, part)]
    if lacking:
        raise ValueError(
            f"{where or GROUP}: {point.value} of {package} is no kind of agent: it lacks {', '.join(lacking)}"
        )
    return found


def kind_of(folder: Path) -> str:
    """The name of the kind of the agent in a folder. Errors: ValueError when there is none, or its settings are damaged
    or of a kind that is not installed."""
    file = folder / SETTINGS
    if not file.is_file():
        raise ValueError(f"{folder}: no trained agent there (no {SETTINGS})")
    if file.stat().st_size > MOST_BYTES:
        raise ValueError(f"{file}: larger than {MOST_BYTES} bytes: no settings of an agent")
    try:
        settings = from_json(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: damaged: {error}") from None
    if not isinstance(settings, dict) or not isinstance(settings.get("kind"), str):
        raise ValueError(f'{file}: must be an object with a "kind"')
    name: str = settings["kind"]
    lookup(str(file), "kind of agent", name, kinds())
    return name


def load(path: str | Path) -> Trained:
    """The trained agent in a folder; its name is the folder's.

    Errors: ValueError when the folder holds no agent, its settings are damaged or of an unknown kind, its weights do
    not match, or something that its kind needs is not installed.
    """
    folder = Path(path)
    name = kind_of(folder)
    chosen = kind(name, str(folder))
    try:
        agent = chosen.load(folder)
    except ModuleNotFoundError as error:
        raise missing(error, name, str(folder)) from None
    agent.name = folder.resolve().name
    return agent


def missing(error: ModuleNotFoundError, name: str, where: str) -> Exception:
    """What to raise when a kind lacks a module: a ValueError that says what to install, or the error itself when the
    module belongs to kvmgym or to the kind's own package."""
    point = kinds()[name]
    if (error.name or "").partition(".")[0] in ("kvmgym", point.module.partition(".")[0]):
        return error
    wanted = kind(name, where).needs
    return ValueError(f"{where}: needs {error.name}, which is not installed: pip install '{wanted}'")


def learned(path: str | Path) -> Learned:
    """The trained agent in a folder, ready for a comparison beside policies. Errors: as `load`."""
    folder = Path(path)
    agent = load(folder)
    sees = bool(agent.env_options.get("privileged", False))
    return Learned(agent.name, digest_of(folder), partial(evaluate, agent), privileged=sees)


def digest_of(folder: Path) -> str:
    """A hash of what decides an agent's actions: the sources of the package that acts, and the packages and the files
    of the folder that its kind names."""
    name = kind_of(folder)
    chosen = kind(name, str(folder))
    found = hashlib.sha256(name.encode())
    for package in chosen.packages:
        found.update(f"{package} {version(package)};".encode())
    for source in _sources(kinds()[name].module):
        found.update(source.read_bytes())
    for file in chosen.files:
        content = (folder / file).read_bytes() if (folder / file).is_file() else b""
        found.update(f"{file}:{len(content)};".encode() + content)
    return found.hexdigest()


def _sources(module: str) -> list[Path]:
    """The Python files of the package that a module belongs to."""
    spec = importlib.util.find_spec(module.partition(".")[0])
    assert spec is not None  # it has been imported
    folders = spec.submodule_search_locations
    if folders is None:
        return [Path(str(spec.origin))]
    return sorted(source for folder in folders for source in Path(folder).rglob("*.py"))
