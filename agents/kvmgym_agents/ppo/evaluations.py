"""evaluations.jsonl: a JSON object a line, one an evaluation of a run. A line that was cut off spoils itself only."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Add a line in one write, flushed to the disk; after a line that was cut off it begins a new one. A number that is
    not finite becomes null, which JSON has. OSError."""
    with open(path, "a+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        cut_off = size > 0 and file.read(1) != b"\n"
        file.write(b"\n" * cut_off + json.dumps(_finite(line), allow_nan=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines in their order, and how many are damaged and left out. OSError."""
    found: list[dict[str, Any]] = []
    lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            found.append(row)
    return found, len(lines) - len(found)
