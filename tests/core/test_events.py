"""The event law: the earliest time first, the lower leaf among equals. The tree against a heap and against a scan."""

import heapq

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import many

from kvmgym.core import events
from kvmgym.core.jit import jit
from kvmgym.core.layout import INF
from kvmgym.core.memory import carve, view
from kvmgym.params import Compute, Dist, Host, Role, Scenario, Vm, Workload
from kvmgym.world.blueprint import Blueprint

WORK = Workload("work", "", (Role("main", (Compute(Dist.constant(1000)),)),))


@jit
def play(state, static, leaves, times, winners):
    """Rebuild the tree, then set each time and note the winner after it."""
    w = carve(state, static)
    events.rebuild(w)
    for i in range(leaves.size):
        events.set_time(w, leaves[i], times[i])
        winners[i] = events.first(w)


def winners_of(sources, leaves, times):
    """The first leaf after each of a sequence of changes, and the world."""
    blueprint = Blueprint(Scenario("tree", Host(pcpus=1), (Vm("a", sources - 1, WORK),)))
    row, winners = blueprint.state.copy(), np.full(len(leaves), -1, np.int64)
    play(row, blueprint.static, np.array(leaves, np.int64), np.array(times, np.int64), winners)
    return winners.tolist(), view(row, blueprint.static)


@st.composite
def changes(draw):
    """A number of sources, and (leaf, time) changes; few distinct times, so that ties abound."""
    sources = draw(st.integers(2, 70))
    times = st.one_of(st.integers(0, 8), st.integers(0, 2**40), st.just(int(INF)))
    return sources, draw(st.lists(st.tuples(st.integers(0, sources - 1), times), min_size=1, max_size=200))


@many(200)
@given(changes())
def test_the_winner_is_the_least_time_and_then_the_least_leaf(given_changes):
    sources, sequence = given_changes
    winners, world = winners_of(sources, *zip(*sequence, strict=True))
    known = dict.fromkeys(range(len(world.tree_ns)), int(INF))
    for (leaf, time_ns), winner in zip(sequence, winners, strict=True):
        known[leaf] = time_ns
        assert winner == min(known, key=lambda place: (known[place], place))
    assert world.tree_ns.tolist() == list(known.values())


@pytest.mark.parametrize("sources", [2, 3, 16, 17, 64, 300])
def test_drains_in_the_order_of_a_heap(sources):
    """Fill, then take the first and set it to a later time or to never, as the engine does; a heap does the same."""
    draw = np.random.default_rng(sources)
    heap = [(int(time_ns), leaf) for leaf, time_ns in enumerate(draw.integers(0, 50, sources))]
    leaves, times = [leaf for _, leaf in heap], [time_ns for time_ns, _ in heap]
    heapq.heapify(heap)
    expected = []
    for _ in range(2_000):
        time_ns, leaf = heap[0]
        expected.append(leaf)
        later = time_ns + int(draw.integers(0, 20))
        if leaf % 2 and draw.random() < 0.02:  # some sources stop, never all
            later = int(INF)
        heapq.heapreplace(heap, (later, leaf))
        leaves.append(leaf)
        times.append(later)
    winners, _ = winners_of(sources, leaves, times)
    assert winners[sources - 1 : -1] == expected


def test_ties_go_to_the_lower_leaf():
    winners, _ = winners_of(8, [5, 2, 7, 2, 5], [10, 10, 10, 11, 11])
    assert winners == [5, 2, 2, 5, 7]
