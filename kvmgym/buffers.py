"""The bytes behind a batch of worlds: rows on cache-line boundaries, and tables that worlds of one scenario share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kvmgym.params import Scenario
from kvmgym.world import Blueprint

LINE = 64  # bytes of a cache line; the records of core.layout are whole lines
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


class StaticRows:
    """The static rows of the scenarios in play: one for all worlds of a scenario, so that a step on any of them meets
    it in the caches. bytes: uint8 [S, bytes]."""

    def __init__(self) -> None:
        self.bytes = zeros(0, 0)
        self._places: dict[Scenario, int] = {}
        self._scenarios: list[Scenario | None] = []
        self._users: list[int] = []
        self._free: list[int] = []

    def take(self, blueprint: Blueprint) -> int:
        """The row of a blueprint's tables, for one more world."""
        place = self._places.get(blueprint.scenario)
        if place is None:
            place = self._free.pop() if self._free else len(self._users)
            if place == len(self._users):
                self._users.append(0)
                self._scenarios.append(None)
            width = blueprint.static.size
            if place >= self.bytes.shape[0] or width > self.bytes.shape[1]:
                self.bytes = widened(self.bytes, 2 * place if place > 0 else 1, width)
            self.bytes[place, :width] = blueprint.static
            self._places[blueprint.scenario], self._scenarios[place] = place, blueprint.scenario
        self._users[place] += 1
        return place

    def give_back(self, place: int) -> None:
        """One world less uses row `place`."""
        self._users[place] -= 1
        scenario = self._scenarios[place]
        if self._users[place] == 0 and scenario is not None:
            del self._places[scenario]
            self._scenarios[place] = None
            self._free.append(place)

    def copy(self) -> StaticRows:
        """The same rows for the same worlds, in bytes of its own."""
        other = StaticRows()
        other.bytes = widened(self.bytes, 0, 0)
        other._places, other._scenarios = dict(self._places), list(self._scenarios)
        other._users, other._free = list(self._users), list(self._free)
        return other
