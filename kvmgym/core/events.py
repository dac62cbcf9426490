"""The event law: the earliest time goes first, the lower leaf wins a tie.

Every source has one leaf with its next time: leaf p is pCPU p, leaf P + i the timer of the vCPU with label i. A
tournament tree keeps the winner. Setting a time replays only the matches on the way up whose outcome can change, so the
cost grows with the logarithm of the host's size at worst. A scan is quicker below some 40 sources and a heap equal in
the worst case; the tree needs no moving of entries and is one mechanism for all sizes (docs/performance.md).
"""

from __future__ import annotations

from kvmgym.core.jit import jit
from kvmgym.core.layout import INF
from kvmgym.core.memory import World
from kvmgym.core.records import int64


@jit
def set_time(w: World, leaf: int, time_ns: int) -> None:
    """Move `leaf` to `time_ns` (INF: never) and replay its matches."""
    times, tree = w.tree_ns, w.tree
    times[leaf] = time_ns
    left = leaf & ~1
    winner = left if times[left] <= times[left + 1] else left + 1
    node = (w.par[0].leaves + leaf) >> 1
    while True:
        if tree[node] == winner and winner != leaf:
            return
        tree[node] = winner
        if node == 1:
            return
        other = tree[node ^ 1]
        if node & 1:
            winner = other if times[other] <= times[winner] else winner
        else:
            winner = winner if times[winner] <= times[other] else other
        node >>= 1


@jit
def first(w: World) -> int:
    """The leaf whose time comes first."""
    return int64(w.tree[1])


@jit
def rebuild(w: World) -> None:
    """Set every leaf to INF and play all matches."""
    n = w.par[0].leaves
    for leaf in range(n):
        w.tree_ns[leaf] = INF
    for node in range(n - 1, 0, -1):
        w.tree[node] = 2 * node - n if 2 * node >= n else w.tree[2 * node]
