"""The process in which the cases of a fuzz test run."""

from collections.abc import Iterator

import pytest
from fuzzing import Worker, worker


@pytest.fixture(scope="module")
def cases() -> Iterator[Worker]:
    """One process for the tests of a file."""
    with worker() as made:
        yield made
