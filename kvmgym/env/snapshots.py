"""What a snapshot has to be before anything of it is written: the same arrays, of the same layout, with indices inside.

A step on foreign bytes would read and write outside its rows, so nothing is taken on trust.
"""

from __future__ import annotations

import copy
import hashlib
import zlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from kvmgym.core import layout
from kvmgym.core.memory import STATE_HEAD
from kvmgym.env import reward, stepping
from kvmgym.env.buffers import StaticRows
from kvmgym.params import Scenario
from kvmgym.params.errors import check, fail
from kvmgym.world.blueprint import Blueprint

_PARTS = (*layout.STATE_PARTS, *layout.STATIC_PARTS)
LAYOUT = hashlib.sha256(
    repr([(name, np.dtype(kind).fields or str(kind)) for name, kind in _PARTS] + [stepping.COLUMNS]).encode()
).hexdigest()[:16]
_ARRAYS = ("states", "statics", "masks", "flat", "rows", "rewards")
_KEYS = ("layout", "digest", *_ARRAYS, "scenarios", "generators")


class _Worlds(Protocol):
    number: int
    masks: Any
    flat: Any
    rows: Any
    rewards: Any
    generators: list[np.random.Generator]

    def blueprint(self, scenario: Scenario) -> Blueprint: ...


def digest_of(saved: Mapping[str, Any]) -> int:
    """A checksum of the arrays that a step reads: times and counters in them can be anything, so only this tells a
    damaged snapshot from a whole one."""
    found = 0
    for name in _ARRAYS:
        array = saved[name].bytes if name == "statics" else saved[name]
        found = zlib.crc32(np.ascontiguousarray(array).data, found)
    return found


def check_rows(saved: object, like: Mapping[str, Any]) -> None:
    """Each named array has the shape and dtype of the one given. Errors: ValueError naming it."""
    if not isinstance(saved, dict):
        fail("snapshot", type(saved).__name__, "what `snapshot()` gave")
    for name, array in like.items():
        value = saved.get(name)
        right = isinstance(value, np.ndarray) and value.shape == array.shape and value.dtype == array.dtype
        given = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        check(right, f"snapshot {name}", given, f"{array.dtype} of shape {array.shape}")


def check_generator(saved: Mapping[str, Any], name: str, like: np.random.Generator) -> None:
    """The state of a generator is one that its kind takes. Errors: ValueError."""
    _check_state(f"snapshot {name}", saved.get(name), like)


def _check_state(path: str, state: object, like: np.random.Generator) -> None:
    trial = copy.deepcopy(like.bit_generator)
    try:
        trial.state = state  # type: ignore[assignment]
    except (TypeError, ValueError, KeyError, OverflowError, AttributeError):
        fail(path, state, f"a state of {type(trial).__name__}")


def check_worlds(saved: object, worlds: _Worlds) -> None:
    """What `Worlds.restore` takes. Errors: ValueError naming the part, the value and what is allowed."""
    same = {name: getattr(worlds, name) for name in ("masks", "flat", "rewards")}
    check_rows(saved, same)
    assert isinstance(saved, dict)
    for key in _KEYS:
        check(key in saved, "snapshot", sorted(map(str, saved)), f"with {key}")
    check(saved["layout"] == LAYOUT, "snapshot layout", saved["layout"], f"{LAYOUT}, that of this version")
    scenarios, states, statics = saved["scenarios"], saved["states"], saved["statics"]
    number = worlds.number
    right = isinstance(scenarios, list) and len(scenarios) == number
    check(right and all(one is None or isinstance(one, Scenario) for one in scenarios), "snapshot scenarios",
          scenarios, f"{number} scenarios or None")  # fmt: skip
    check(isinstance(statics, StaticRows), "snapshot statics", type(statics).__name__, "the tables of the scenarios")
    for name, array, length in (("states", states, number), ("statics", statics.bytes, None)):
        right = isinstance(array, np.ndarray) and array.dtype == np.uint8 and array.ndim == 2
        right = right and (length is None or array.shape[0] == length) and array.shape[1] % layout.LINE == 0
        check(right, f"snapshot {name}", getattr(array, "shape", array), f"uint8 [{length or 'S'}, bytes]")
    rows = saved["rows"]
    right = isinstance(rows, np.ndarray) and rows.dtype == np.int64 and rows.ndim == 2 and rows.shape[0] == number
    check(right, "snapshot rows", getattr(rows, "shape", rows), f"int64 [{number}, columns]")
    digest = digest_of(saved)
    check(saved["digest"] == digest, "snapshot digest", saved["digest"], f"{digest}, that of its arrays: it is damaged")
    for row, scenario in enumerate(scenarios):
        if scenario is not None:
            _check_row(row, worlds.blueprint(scenario), states, statics, rows)
    generators = saved["generators"]
    right = isinstance(generators, list) and len(generators) == number
    check(right, "snapshot generators", generators, f"the states of {number} generators")
    for row, state in enumerate(generators):
        _check_state(f"snapshot generators[{row}]", state, worlds.generators[row])


def _check_row(row: int, blueprint: Blueprint, states: Any, statics: StaticRows, rows: Any) -> None:
    """The bytes of row `row` are of its scenario."""
    columns = stepping.COLUMNS + 2 * (reward.SUMS + len(blueprint.vms))
    check(rows.shape[1] >= columns, "snapshot rows", rows.shape, f"of at least {columns} columns")
    numbers, path = rows[row], f"snapshot rows[{row}]"
    static = int(numbers[stepping.STATIC])
    check(0 <= static < statics.bytes.shape[0], f"{path} STATIC", static, f"0 to {statics.bytes.shape[0] - 1}")
    wide = states.shape[1] >= blueprint.state.size and statics.bytes.shape[1] >= blueprint.static.size
    check(wide, f"snapshot states[{row}]", states.shape, f"of at least {blueprint.state.size} bytes a row")
    tables = statics.bytes[static, : blueprint.static.size]
    check(
        bool((tables == blueprint.static).all()), f"snapshot statics[{static}]", "other bytes", "its scenario's tables"
    )
    bounds = slice(STATE_HEAD - 16 * len(layout.STATE_PARTS), STATE_HEAD)
    right = bool((states[row, bounds] == blueprint.state[bounds]).all())
    check(right, f"snapshot states[{row}]", "other bytes", "a world of its scenario")
    at, vms = int(numbers[stepping.AT]), blueprint.vms
    check(0 <= at < layout.GOING_ON, f"{path} AT", at, "AT_TIME, AT_DECISION or AT_DEADLOCK")
    if at == layout.AT_DECISION:
        vm, me = int(numbers[stepping.VM]), int(numbers[stepping.ME])
        check(0 <= vm < len(vms), f"{path} VM", vm, f"0 to {len(vms) - 1}")
        check(0 <= me < vms[vm].vcpus, f"{path} ME", me, f"0 to {vms[vm].vcpus - 1}")
