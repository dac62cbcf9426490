"""What a row of results has to hold, so that nothing else gets into a table."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from kvmgym.measure.shown import METRICS

SCHEMA = 2  # of the rows; another number is another meaning of a field. The rows of schema 1 carried none
_MOST = 2**63  # of any number


def _number(value: object) -> bool:
    """Finite, 0 or more."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _MOST


def _whole(value: object) -> bool:
    return isinstance(value, int) and _number(value)


def _numbers(value: object) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(_number, value))


def _share(value: object) -> bool:
    return _number(value) and isinstance(value, (int, float)) and value <= 1 + 1e-6


def _name(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _names(value: object) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(_name, value))


Rule = tuple[Callable[[object], bool], str]
NAME: Rule = (_name, "a name")
WHOLE: Rule = (_whole, "a whole number, 0 or more")
POSITIVE: Rule = (lambda value: _whole(value) and value != 0, "a whole number above 0")
NUMBER: Rule = (_number, "a finite number, 0 or more")
NUMBERS: Rule = (_numbers, "a list of finite numbers, 0 or more")
NAMES: Rule = (_names, "a list of names")
SUM: Rule = (
    lambda value: value is None or _number(value),
    "a finite number, 0 or more, or null for VMs of different programs",
)
SHARE: Rule = (_share, "a number of 0 to 1")
KEY: Rule = (lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{24}", value) is not None, "24 hex digits")

# Every field of kvmgym.measure.compare.row_of, and what the store adds.
FIELDS: Mapping[str, Rule] = MappingProxyType(
    {
        "key": KEY,
        "scenario": NAME,
        "policy": NAME,
        "seed": WHOLE,
        "duration_ns": POSITIVE,
        "warmup_ns": WHOLE,
        "ops_per_s": SUM,
        "vm_names": NAMES,
        "vm_programs": NAMES,
        "vm_ops_per_s": NUMBERS,
        **{metric.name: SHARE if metric.share else NUMBER for metric in METRICS},
        "yields_attempted_per_s": NUMBER,
        "lock_wait_p99_ns": NUMBER,
        "ipi_latency_p99_ns": NUMBER,
        "events": WHOLE,
        "decisions": WHOLE,
    }
)


def fault_of(row: Any) -> str | None:
    """Why something is no row, in words; None for a row. Fields that FIELDS does not know may be there and hold no
    number that is not finite."""
    if not isinstance(row, dict):
        return "no JSON object"
    if row.get("schema") != SCHEMA or isinstance(row["schema"], bool):
        return f"schema is {_short(row.get('schema'))}, not {SCHEMA}"
    for name, (right, allowed) in FIELDS.items():
        if name not in row:
            return f"{name} is missing"
        if not right(row[name]):
            return f"{name} = {_short(row[name])}: must be {allowed}"
    vms = len(row["vm_names"])
    if len(row["vm_programs"]) != vms or len(row["vm_ops_per_s"]) != vms:
        return "vm_names, vm_programs and vm_ops_per_s are not of the same VMs"
    if (row["ops_per_s"] is None) != (len(set(row["vm_programs"])) > 1):
        return f"ops_per_s = {_short(row['ops_per_s'])}: must be null for VMs of different programs, and only there"
    for name in row.keys() - FIELDS.keys():
        if not _finite(row[name]):
            return f"{_short(name)} holds a number that is not finite"
    return None


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, (dict, list)):
        return all(map(_finite, value.values() if isinstance(value, dict) else value))
    return True


def _short(value: object) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number with thousands of digits
        return f"a {type(value).__name__}"
    return text if len(text) <= 40 else f"{text[:37]}..."
