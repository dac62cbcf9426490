"""Checks that name the field, the value and what is allowed.

Every class of kvmgym.params calls these from ``__post_init__``; the CLI reuses ``check`` and ``nearest``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import Any, NoReturn

import numpy as np

MAX_NS = 10**15  # eleven days: sums of many such times stay far inside int64


def fail(path: str, value: object, allowed: str) -> NoReturn:
    """Raise ``ValueError("Host.pcpus = 0: must be 1 to 512")``.

    path: the field, as "Host.pcpus"; value: what was given; allowed: the rest of the sentence "must be ...".
    """
    raise ValueError(f"{path} = {value!r}: must be {allowed}")


def check(condition: bool, path: str, value: object, allowed: str) -> None:
    """``fail`` unless the condition holds."""
    if not condition:
        fail(path, value, allowed)


def nearest(name: str, allowed: Iterable[str]) -> str:
    """The end of an "unknown name" message: ``did you mean "dedup"? allowed: dedup, vips``.

    Without a name close enough only the allowed ones are listed, in the order given.

    >>> nearest("dedupp", ("dedup", "vips"))
    'did you mean "dedup"? allowed: dedup, vips'
    """
    names = list(allowed)
    listed = f"allowed: {', '.join(names)}" if names else "there are none"
    close = get_close_matches(name, names, n=1)
    return f'did you mean "{close[0]}"? {listed}' if close else listed


def lookup(path: str, what: str, name: str, allowed: Collection[str]) -> None:
    """Raise ValueError ``<path>: unknown lock "mmm": did you mean "mm"? allowed: mm`` unless the name is allowed.

    An empty path leaves the first part out.
    """
    if name not in allowed:
        where = f"{path}: " if path else ""
        raise ValueError(f'{where}unknown {what} "{name}": {nearest(name, allowed)}')


def integer(path: str, value: object, low: int, high: int) -> int:
    """The value as an int in [low, high] (NumPy integers are taken too), or ValueError."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and low <= value <= high:
        return int(value)
    fail(path, value, f"{low} to {high}")


def number(path: str, value: object, low: float, high: float, above: bool = False) -> float:
    """The value as a float in [low, high], or in (low, high] with above=True, or ValueError."""
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        found = float(value)
        if low <= found <= high and not (above and found == low):
            return found
    fail(path, value, f"above {low:g} and at most {high:g}" if above else f"{low:g} to {high:g}")


def set_field(owner: object, name: str, value: object) -> None:
    """Store a normalised value in a frozen dataclass; for __post_init__ only."""
    object.__setattr__(owner, name, value)


def path_of(owner: object, name: str) -> str:
    """The path of a field for messages, as "Host.pcpus"."""
    return f"{type(owner).__name__}.{name}"


def integers(owner: object, low: int, high: int, *names: str) -> None:
    """Check and normalise integer fields of a dataclass."""
    for name in names:
        set_field(owner, name, integer(path_of(owner, name), getattr(owner, name), low, high))


def numbers(owner: object, low: float, high: float, *names: str) -> None:
    """Check and normalise float fields of a dataclass."""
    for name in names:
        set_field(owner, name, number(path_of(owner, name), getattr(owner, name), low, high))


def flags(owner: object, *names: str) -> None:
    """Check that fields of a dataclass are True or False."""
    for name in names:
        value = getattr(owner, name)
        check(isinstance(value, (bool, np.bool_)), path_of(owner, name), value, "true or false")
        set_field(owner, name, bool(value))


def choice(owner: object, name: str, allowed: Collection[str]) -> None:
    """Check that a text field of a dataclass is one of the allowed words."""
    value = getattr(owner, name)
    right = isinstance(value, str) and value in allowed
    check(right, path_of(owner, name), value, f"one of {', '.join(allowed)}")


def integer_choice(owner: object, name: str, allowed: Collection[int]) -> None:
    """Check that a field of a dataclass is one of the allowed integers."""
    value = getattr(owner, name)
    right = isinstance(value, (int, np.integer)) and int(value) in allowed
    check(right, path_of(owner, name), value, f"one of {', '.join(map(str, allowed))}")
    set_field(owner, name, int(value))


def names(owner: object, *fields: str) -> None:
    """Check fields that name something: 1 to 64 printable characters without spaces at the ends."""
    for name in fields:
        value = getattr(owner, name)
        right = isinstance(value, str) and value.isprintable() and value == value.strip() and 1 <= len(value) <= 64
        check(right, path_of(owner, name), value, "a name of 1 to 64 printable characters")


def texts(owner: object, *fields: str) -> None:
    """Check free text fields: any string that UTF-8 can hold."""
    for name in fields:
        value = getattr(owner, name)
        right = isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)
        check(right, path_of(owner, name), value, "text")


def instances(owner: object, name: str, types: Any, what: str) -> None:
    """Check that a field holds an instance of one of the types."""
    value = getattr(owner, name)
    check(isinstance(value, types), path_of(owner, name), value, what)


def sequence(owner: object, name: str, types: Any, what: str) -> None:
    """Turn a list or tuple field into a tuple whose every item is an instance of one of the types."""
    value = getattr(owner, name)
    path = path_of(owner, name)
    check(isinstance(value, (list, tuple)), path, value, f"a sequence, each item {what}")
    for place, item in enumerate(value):
        check(isinstance(item, types), f"{path}[{place}]", item, what)
    set_field(owner, name, tuple(value))


def cpu_tuple(owner: object, name: str) -> None:
    """Turn a field of pCPU numbers into a tuple of ints of 0 to 511, at least one."""
    value = getattr(owner, name)
    path = path_of(owner, name)
    check(isinstance(value, (list, tuple)) and len(value) > 0, path, value, "at least one pCPU number")
    set_field(owner, name, tuple(integer(f"{path}[{place}]", item, 0, 511) for place, item in enumerate(value)))


def unique(path: str, what: str, found: Iterable[str]) -> None:
    """Raise ValueError when a name occurs twice."""
    seen: set[str] = set()
    for name in found:
        check(name not in seen, path, name, f"a {what} name used once")
        seen.add(name)
