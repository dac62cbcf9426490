"""evaluations.jsonl: a JSON object a line, one an evaluation of a run. A line that was cut off spoils itself only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvmgym.files import append_line, from_json, to_json


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Add a line; a number that is not finite becomes null. OSError."""
    append_line(path, to_json(line))


def read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines in their order, and how many are damaged and left out. OSError."""
    found: list[dict[str, Any]] = []
    lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    for line in lines:
        try:
            row = from_json(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            found.append(row)
    return found, len(lines) - len(found)
