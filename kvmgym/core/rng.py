"""Random streams and draws from tables: integers only, so that compiled and interpreted runs agree bit for bit.

Every vCPU and every lock owns a splitmix64 stream (Steele, Lea, Flood 2014). A guest draws in the order of its program,
whatever the host does to it, so two policies meet the same workload (common random numbers).

A distribution is a table of quantiles at two levels: 256 equal steps of probability, the last of which is divided into
256 steps again, so that tails reach 1 in 65,536 before the last stretch. Between two quantiles a draw is linear.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kvmgym.core.jit import jit
from kvmgym.core.memory import World
from kvmgym.core.records import Stream, int64

STEPS = 256  # steps a level; a table has 2 * STEPS + 2 rows
_GOLDEN, _MIX1, _MIX2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S32 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(32)
_MASK24, _HALF24, _WIDE = (1 << 24) - 1, 1 << 23, 1 << 38


@jit
def mix(state: Any) -> Any:
    """Finalise a splitmix64 state: uint64 -> uint64."""
    z = (state ^ (state >> _S30)) * _MIX1
    z = (z ^ (z >> _S27)) * _MIX2
    return z ^ (z >> _S31)


@jit
def next32(owner: Stream) -> int:
    """The next 32 random bits of a record that has a field `rng`, as an int64 in [0, 2^32)."""
    state = owner.rng + _GOLDEN
    owner.rng = state
    return int64(mix(state) >> _S32)


@jit
def below(owner: Stream, n: int) -> int:
    """A whole number in [0, n), n < 2^31."""
    return (next32(owner) * n) >> 32


@jit
def part_of(w: World, owner: Stream, span_ns: int) -> int:
    """A uniform part of a span [ns] in [0, span), in steps of 2^-20 and whole time units."""
    unit = w.par[0].unit_ns
    return ((next32(owner) >> 12) * (span_ns // unit) >> 20) * unit


@jit
def draw(w: World, owner: Stream, dist: int) -> int:
    """A duration [ns] from distribution `dist`; a constant uses no random number."""
    d = w.dist[dist]
    if d.first < 0:
        return d.constant * d.unit_ns
    u = next32(owner)
    row = d.first + (u >> 24)
    rest = u & _MASK24
    if u >> 24 == STEPS - 1:  # the last step has a table of its own
        u = next32(owner)
        row = d.first + STEPS + 1 + (u >> 24)
        rest = u & _MASK24
    low = w.quant[row]
    step = w.quant[row + 1] - low
    if step >= _WIDE:  # the product would not fit: give up the lower bits
        return (low + (step >> 24) * rest) * d.unit_ns
    return (low + ((step * rest + _HALF24) >> 24)) * d.unit_ns


@jit
def choose(w: World, owner: Stream, first: int, n: int) -> int:
    """The row in [first, first + n) of `cum` that one random number falls on."""
    u = next32(owner)
    row = first
    last = first + n - 1
    while row < last and u >= w.cum[row]:
        row += 1
    return row
