"""What every test shares: deterministic property tests and plots without a display."""

import os

import pytest
from hypothesis import settings

os.environ.setdefault("MPLBACKEND", "Agg")

# `ci` is the default, so that a test run is the same everywhere; HYPOTHESIS_PROFILE=explore looks for new examples.
# No deadline: the first example of a test may compile.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("explore", derandomize=False, deadline=None, max_examples=1_000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Long runs of the fuzz tests: `pytest tests/fuzz --fuzz-seconds 600`, for each test, with new cases each time."""
    parser.addoption("--fuzz-seconds", type=float, default=0.0, metavar="N", help="fuzz each test for N seconds")


@pytest.fixture(autouse=True)
def _width_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some packages set the variable when they are imported, and tables follow it."""
    monkeypatch.delenv("COLUMNS", raising=False)
