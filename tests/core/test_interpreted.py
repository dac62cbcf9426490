"""Runs tests/core/interpreted, and tests that are worth running both ways, as plain Python in their own process."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numba
import pytest

TESTS = Path(__file__).parents[1]
# Their expectations must hold compiled and plain.
STORIES = tuple(sorted(f"core/{path.name}" for path in TESTS.glob("core/test_stories_*.py")))
BOTH_WAYS = ("policies/test_on_spin.py", "policies/test_twin.py", *STORIES)


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="this run is interpreted already")
@pytest.mark.parametrize("part", ["core/interpreted", *BOTH_WAYS])
def test_as_plain_python(part: str) -> None:
    """The part passes under NUMBA_DISABLE_JIT=1, and nothing in it that needs plain Python was skipped."""
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-p", "no:xdist", str(TESTS / part)],
        cwd=TESTS.parent,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=900,
    )
    report = f"{result.stdout[-20_000:]}\n{result.stderr[-5_000:]}"
    assert result.returncode == 0, report
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed is not None and int(passed[1]) >= 10, report
    assert "needs NUMBA_DISABLE_JIT=1" not in result.stdout, report
