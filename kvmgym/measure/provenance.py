"""What made a result: the package's sources, the versions below it, the machine."""

from __future__ import annotations

import hashlib
import importlib
import os
import platform
import shlex
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import kvmgym
from kvmgym.params import Scenario

PACKAGE = Path(__file__).parent.parent
# What shows results or comes after them and cannot change one. A policy's run asks no environment either.
_ASIDE = ("__main__.py", "bench/", "cli/", "validate/")
_ENVIRONMENTS = ("adapters/", "env/")
_DECIDING = ("numpy", "numba")  # packages whose version is part of every key
_NAMED = (*_DECIDING, "gymnasium")


def sources_digest(folder: Path, aside: Iterable[str] = ()) -> str:
    """A digest of all Python sources below a folder, names and contents, without those whose path starts with one of
    `aside`."""
    found, left_out = hashlib.sha256(), tuple(aside)
    for source in sorted(folder.rglob("*.py")):
        name = source.relative_to(folder).as_posix()
        if not name.startswith(left_out):
            content = source.read_bytes()
            found.update(f"{name}\0{len(content)}\0".encode() + content)
    return found.hexdigest()


@lru_cache(maxsize=1)
def policies_digest() -> str:
    """A digest of what decides the result of a policy's run besides the run itself: sources, versions, Python."""
    return _with_versions(sources_digest(PACKAGE, (*_ASIDE, *_ENVIRONMENTS)), _DECIDING)


@lru_cache(maxsize=1)
def agents_digest() -> str:
    """The same for an agent's run, which the environment decides too."""
    return _with_versions(sources_digest(PACKAGE, _ASIDE), _NAMED)


def _with_versions(digest: str, packages: Sequence[str]) -> str:
    parts = (digest, *versions(packages).items(), platform.python_version())
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def versions(packages: Sequence[str] = _NAMED) -> dict[str, str]:
    """The versions of packages as they are imported."""
    return {package: str(importlib.import_module(package).__version__) for package in packages}


def machine() -> dict[str, Any]:
    """The machine: its CPU in words, the number of logical CPUs, operating system and Python."""
    system = f"{platform.system()} {platform.release()}"
    return {"cpu": _cpu(), "cpus": os.cpu_count(), "system": system, "python": platform.python_version()}


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def made_by(arguments: Sequence[str], scenarios: Iterable[Scenario]) -> dict[str, Any]:
    """What a file of results says of its making. arguments: of the command line, without its name; scenarios: those
    that were run, as TOML with their workloads in full."""
    return {
        "kvmgym": kvmgym.__version__,
        "sources": sources_digest(PACKAGE),
        "command": shlex.join(["kvmgym", *arguments]),
        "machine": machine(),
        "versions": versions(),
        "scenarios": {scenario.name: scenario.to_toml() for scenario in scenarios},
    }
