"""Switches of a configuration: fields that take one of the words of kvmgym.codes, and their numbers for the engine."""

from __future__ import annotations

from dataclasses import field, fields
from typing import Any

from kvmgym.codes import Words
from kvmgym.params.errors import choice


def switch(words: Words, default: str | None) -> Any:
    """A dataclass field that is one of the words; None, where that is the default, leaves it open."""
    return field(default=default, metadata={"words": words})


def check_switches(owner: Any) -> None:
    """Check every switch of a dataclass; for __post_init__."""
    for item in fields(owner):
        if "words" in item.metadata and (getattr(owner, item.name) is not None or item.default is not None):
            choice(owner, item.name, item.metadata["words"])


def engine_numbers(owner: Any, ahead: str = "") -> dict[str, int]:
    """Whole numbers, flags and switches of a dataclass as the engine reads them, by the field's name with `ahead` put
    before it. Fields that are None or of another kind are left out."""
    found = {}
    for item in fields(owner):
        value = getattr(owner, item.name)
        if "words" in item.metadata and value is not None:
            found[ahead + item.name] = int(item.metadata["words"].numbers[value])
        elif isinstance(value, int):
            found[ahead + item.name] = int(value)
    return found
