"""Snapshots that were changed: restored and gone on from, or refused, with the environment as it was."""

import odd
import pytest
from fuzzing import Worker, fuzz
from hypothesis import strategies as st

numbers = st.sampled_from((-1, 0, 1, 7, 63, 255, 2**31, 2**62, -(2**63))) | st.integers(-(2**63), 2**63 - 1)
changes = st.one_of(
    st.tuples(st.integers(0, 20), st.just("drop"), st.none()),
    st.tuples(st.integers(0, 20) | st.just("no_such_key"), st.just("set"), odd.values),
    st.tuples(st.integers(0, 20), st.just("cast"), st.sampled_from(("float32", "int8", "uint64", "bytes", "bool",
    "U4"))),
    st.tuples(st.integers(0, 20), st.just("shape"), st.integers(0, 3)),
    st.tuples(st.integers(0, 20), st.just("foreign"), st.sampled_from(("dedup-small", "shootdowns-small"))),
)  # fmt: skip
other_bytes = st.one_of(
    st.tuples(st.sampled_from(("rows", "masks", "flat", "rewards", "ended", "steps", "statics")), st.just("bytes"),
              st.tuples(st.integers(0, 4000), numbers)),
    st.tuples(st.just("states"), st.just("bytes"), st.tuples(st.integers(0, 30_000), numbers)),
)  # fmt: skip


def test_changed_snapshots(cases: Worker, pytestconfig: pytest.Config) -> None:
    snapshots = st.tuples(st.sampled_from(("single", "vector")), st.lists(changes, max_size=2))
    fuzz(cases, "snapshot", snapshots, pytestconfig, 60, also=[("single", []), ("vector", [])])


def test_snapshots_with_other_bytes(cases: Worker, pytestconfig: pytest.Config) -> None:
    snapshots = st.tuples(st.sampled_from(("single", "vector")), st.lists(other_bytes, min_size=1, max_size=2))
    fuzz(cases, "snapshot", snapshots, pytestconfig, 60)
