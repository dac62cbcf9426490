"""Unit tests of the engine's verbs: they call core/ on numpy records, which only plain Python can do.

`tests/core/test_interpreted.py` runs this folder under NUMBA_DISABLE_JIT=1; compiled, everything here is skipped.
"""

from collections.abc import Iterator
from pathlib import Path

import numba
import numpy as np
import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if numba.config.DISABLE_JIT:
        return
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="needs NUMBA_DISABLE_JIT=1; test_interpreted.py runs it so"))


@pytest.fixture(autouse=True)
def wrapping_streams() -> Iterator[None]:
    """Random streams wrap on purpose."""
    with np.errstate(over="ignore"):
        yield
