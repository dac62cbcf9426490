"""What the sweep leaves: rounded numbers, JSON that can be read and compared, and which code it came from."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kvmgym
from kvmgym.files import to_json, write_atomically
from kvmgym.measure.gains import Cell
from kvmgym.measure.provenance import policies_digest


def short(value: float) -> float:
    """To 6 digits, so that the committed JSON stays small."""
    return float(f"{value:.6g}")


def percent(cell: Cell) -> dict[str, float]:
    """A cell for JSON: gains (of all VMs with its interval, of the worst VM) and waste in per cent, rates a second.

    ValueError when a VM stands still, or the VMs run different programs.
    """
    worst = cell.host.worst
    if cell.gain is None or cell.ops_per_s is None or worst is None or worst.gain is None:
        raise ValueError(f"{cell.scenario}, {cell.policy}: {cell.host.why or 'VMs of different programs'}")
    return {
        "gain": short(100 * cell.gain.mean),
        "half_width": short(100 * cell.gain.half_width),
        "low": short(100 * cell.gain.low),
        "high": short(100 * cell.gain.high),
        "worst_vm": short(100 * worst.gain.mean),
        "wasted": short(100 * cell.wasted_share),
        "ops_per_s": short(cell.ops_per_s.mean),
        "yields_ok_per_s": short(cell.yields_ok_per_s),
        "fairness": short(cell.fairness),
    }


def version() -> dict[str, str]:
    """Which code the numbers belong to: package, commit, whether the package differs from it, digest of its sources."""

    def git(*words: str) -> str | None:
        command = ["git", "--no-optional-locks", "-C", str(Path(kvmgym.__file__).parent), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    commit, changes = git("rev-parse", "--short", "HEAD"), git("status", "--porcelain", "--", ".")
    edited = "" if not changes else " with changes"
    return {"kvmgym": kvmgym.__version__, "commit": f"{commit or 'unknown'}{edited}", "engine": policies_digest()[:16]}


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """JSON with a line for each small list or object, so that differences are readable."""
    write_atomically(path, compact(data) + "\n")


def compact(data: Any, indent: int = 0) -> str:
    """JSON with everything that fits on one line on one line."""
    flat = to_json(data)
    if len(flat) + indent <= 116 or not isinstance(data, (dict, list)) or not data:
        return flat
    pad = " " * (indent + 1)
    if isinstance(data, dict):
        items = [f"{to_json(key)}: {compact(value, indent + 1)}" for key, value in data.items()]
        return "{\n" + ",\n".join(pad + item for item in items) + "\n" + " " * indent + "}"
    items = [compact(value, indent + 1) for value in data]
    return "[\n" + ",\n".join(pad + item for item in items) + "\n" + " " * indent + "]"
