"""The bytes behind a batch of worlds: rows on cache-line boundaries, and tables that worlds of one scenario share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kvmgym.core.layout import LINE
from kvmgym.params import Scenario
from kvmgym.world.blueprint import Blueprint

Bytes = npt.NDArray[np.uint8]


def zeros(rows: int, width: int) -> Bytes:
    """Zeros, uint8 [rows, width], that begin on a cache line; width is a multiple of LINE."""
    raw = np.zeros(rows * width + LINE, np.uint8)
    first = -raw.ctypes.data % LINE
    return raw[first : first + rows * width].reshape(rows, width)


def widened(old: Bytes, rows: int, width: int) -> Bytes:
    """A copy on a cache line with at least so many rows and bytes a row, the new ones 0."""
    wider = zeros(max(rows, old.shape[0]), max(width, old.shape[1]))
    wider[: old.shape[0], : old.shape[1]] = old
    return wider


def aligned_copy(old: Bytes) -> Bytes:
    """A copy that begins on a cache line."""
    return widened(old, 0, 0)


class StaticRows:
    """The static rows of the scenarios in play: one for all worlds of a scenario, so that a step on any of them meets
    it in the caches. bytes: uint8 [S, bytes]."""

    def __init__(self) -> None:
        self.bytes = zeros(0, 0)
        self._rows: dict[Scenario, int] = {}
        self._used: list[tuple[Scenario, int]] = []  # of each row: whose it is or was, by how many worlds
        self._free: list[int] = []

    def take(self, blueprint: Blueprint) -> int:
        """The row of a blueprint's tables, for one more world."""
        scenario, width = blueprint.scenario, blueprint.static.size
        row = self._rows.get(scenario)
        if row is not None:
            self._used[row] = (scenario, self._used[row][1] + 1)
            return row
        if self._free:
            row = self._free.pop()
            self._used[row] = (scenario, 1)
        else:
            row = len(self._used)
            self._used.append((scenario, 1))
        rows = self.bytes.shape[0] if row < self.bytes.shape[0] else max(2 * row, 1)
        if rows > self.bytes.shape[0] or width > self.bytes.shape[1]:
            self.bytes = widened(self.bytes, rows, width)
        self.bytes[row, :width] = blueprint.static
        self._rows[scenario] = row
        return row

    def give_back(self, row: int) -> None:
        """One world less uses row `row`."""
        scenario, users = self._used[row]
        self._used[row] = (scenario, users - 1)
        if users == 1:
            del self._rows[scenario]
            self._free.append(row)

    def copy(self) -> StaticRows:
        """The same rows for the same worlds, in bytes of its own."""
        other = StaticRows()
        other.bytes = aligned_copy(self.bytes)
        other._rows, other._used, other._free = dict(self._rows), list(self._used), list(self._free)
        return other


def writable(kept: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a pickle with copies of the arrays that may not be written: Ray hands those out."""
    frozen = {n: a.copy() for n, a in kept.items() if isinstance(a, np.ndarray) and not a.flags.writeable}
    return {**kept, **frozen}
