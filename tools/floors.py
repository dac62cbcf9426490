"""The lowest versions that pyproject.toml claims, for pip: `python tools/floors.py [EXTRA ...]`.

Prints NAME==VERSION for each NAME>=VERSION of the dependencies and of the extras. Needs only the standard library.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

PROJECT = Path(__file__).parent.parent / "pyproject.toml"


def floors(project: Path = PROJECT, extras: Iterable[str] = ()) -> list[str]:
    """The requirements of a project at their floors. ValueError for a requirement without one, KeyError for an
    unknown extra."""
    table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    wanted = [*table["dependencies"], *(each for extra in extras for each in table["optional-dependencies"][extra])]
    found = []
    for requirement in wanted:
        claimed = re.match(r"([A-Za-z0-9_.-]+(?:\[[^]]*\])?)\s*>=\s*([0-9.]+)", requirement)
        if not claimed:
            raise ValueError(f"{requirement}: must have a lowest version, as numpy>=2.0")
        found.append(f"{claimed[1]}=={claimed[2]}")
    return found


if __name__ == "__main__":
    print(" ".join(floors(extras=sys.argv[1:])))
