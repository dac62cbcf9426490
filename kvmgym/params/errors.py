"""Checks that name the field, the value and what is allowed.

Every class of kvmgym.params calls these from ``__post_init__``; the CLI reuses ``check`` and ``nearest``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from reprlib import Repr
from typing import Any, NoReturn

import numpy as np

MAX_NS = 10**15  # eleven days: sums of many such times stay far inside int64
SHOWN = 60  # characters of a value in a message
_DIGITS = 40  # an integer with more is told by their number: Python refuses to print those of more than 4300
_LISTED = 30  # allowed names in a message
_INNER = Repr()  # shortens as it goes along, so that a huge value costs no more than a small one
_INNER.maxlevel = 4
_INNER.maxlist = _INNER.maxtuple = _INNER.maxdict = _INNER.maxset = _INNER.maxfrozenset = 8
_INNER.maxstring = _INNER.maxother = 4 * SHOWN


def shorten(text: str, most: int = SHOWN) -> str:
    """The text on one line, without control characters, its middle cut out beyond `most` characters.

    >>> shorten("a\\nb"), shorten("0123456789", 8)
    ('a\\\\nb', '012...89')
    """
    if len(text) > 4 * most:
        text = text[: 2 * most] + text[-2 * most :]  # escaping makes it longer, never shorter
    plain = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    kept = most - 3
    return plain if len(plain) <= most else f"{plain[: -(-kept // 2)]}...{plain[-(kept // 2) :]}"


def shown(value: object) -> str:
    """A value as messages show it: its repr, on one line, of at most SHOWN characters.

    >>> shown(0), shown("x" * 1000), shown(10**5000)
    ('0', "'xxxxxxxxxxxxxxxxxxxxxxxxxxxx...xxxxxxxxxxxxxxxxxxxxxxxxxxx'", 'an integer of about 5001 digits')
    """
    if isinstance(value, int) and not -(10**_DIGITS) < value < 10**_DIGITS:
        return f"an integer of about {int(value.bit_length() * math.log10(2)) + 1} digits"
    try:
        text = _INNER.repr(value)
    except Exception:  # a user's own class may do anything here; the message has to come out all the same
        text = f"an object of type {type(value).__name__}"
    return shorten(" ".join(text.split()))


def quoted(name: object) -> str:
    """A name as messages show it: in double quotes, on one line, shortened; anything but a text as `shown`."""
    return f'"{shorten(name, SHOWN - 2)}"' if isinstance(name, str) else shown(name)


def fail(path: str, value: object, allowed: str) -> NoReturn:
    """Raise ``ValueError("Host.pcpus = 0: must be 1 to 512")``.

    path: the field, as "Host.pcpus"; value: what was given, shortened by `shown`; allowed: the rest of the sentence
    "must be ...".
    """
    raise ValueError(f"{path} = {shown(value)}: must be {allowed}")


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
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    listed = f"allowed: {', '.join(names[:_LISTED])}{more}" if names else "there are none"
    close = get_close_matches(name, names, n=1) if len(name) <= 4 * SHOWN else []
    return f'did you mean "{close[0]}"? {listed}' if close else listed


def lookup(path: str, what: str, name: object, allowed: Collection[str]) -> None:
    """Raise ValueError ``<path>: unknown lock "mmm": did you mean "mm"? allowed: mm`` unless the name is allowed.

    An empty path leaves the first part out. What is no text is no allowed name.
    """
    if not isinstance(name, str) or name not in allowed:
        where = f"{path}: " if path else ""
        near = nearest(name if isinstance(name, str) else "", allowed)
        raise ValueError(f"{where}unknown {what} {quoted(name)}: {near}")


def integer(path: str, value: object, low: int, high: int) -> int:
    """The value as an int in [low, high] (NumPy integers are taken too), or ValueError."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and low <= value <= high:
        return int(value)
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    fail(path, value, f"{low} to {high}" if whole else f"a whole number from {low} to {high}")


def number(path: str, value: object, low: float, high: float, above: bool = False) -> float:
    """The value as a float in [low, high], or in (low, high] with above=True, or ValueError."""
    right = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    # Compared before it becomes a float: a huge integer cannot.
    if right and low <= value <= high and not (above and value == low):  # type: ignore[operator]
        return float(value)  # type: ignore[arg-type]
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
