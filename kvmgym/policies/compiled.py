"""Policies as machine code: one signature for all, and one file of code for each digest of a function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import numba
from numba import types
from numba.core.caching import NullCache
from numba.core.ccallback import CFunc
from numba.core.errors import NumbaError, UnsupportedBytecodeError

from kvmgym.core.codecache import CodeCache
from kvmgym.core.jit import KEPT, POLICIES_DIR
from kvmgym.core.layout import ASK, VCPU, VM
from kvmgym.policies.digest import PACKAGE, Reached, plain_of, reach

SIGNATURE = types.int64(
    numba.from_dtype(VM), types.Array(numba.from_dtype(VCPU), 1, "C"), types.int64, numba.from_dtype(ASK)
)
_compiled_as: WeakKeyDictionary[Any, str] = WeakKeyDictionary()  # users' dispatchers: their digest when compiled


class Address(types.WrapperAddressProtocol):  # type: ignore[misc]
    """A compiled policy as numba passes it: a first-class function, so that the engine is compiled once for all."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled

    def __wrapper_address__(self) -> int:
        return int(self.compiled.address)

    def signature(self) -> Any:
        """The one signature."""
        return SIGNATURE


def compile_policy(name: str, function: Callable[..., Any]) -> Address:
    """A policy's function compiled to SIGNATURE. Its code is kept by the digest of all that it depends on. ValueError
    when numba cannot compile it."""
    plain, reached = plain_of(function), reach(function)
    compiled: Any = CFunc(plain, (SIGNATURE.args, SIGNATURE.return_type), locals={}, options={})
    file_name = f"{plain.__module__}.{plain.__qualname__}"
    compiled._cache = CodeCache(POLICIES_DIR if KEPT else None, file_name, reached.digest.encode)
    with _as_it_is_now(reached):
        try:
            compiled.compile()
        except (NumbaError, UnsupportedBytecodeError, TypeError) as error:
            raise ValueError(f"policy {name!r}: numba cannot compile it: {_shortened(str(error))}") from error
    return Address(compiled)


@contextmanager
def _as_it_is_now(reached: Reached) -> Iterator[None]:
    """Users' own compiled helpers are compiled from what their sources and globals are now. numba by itself keeps what
    it compiled first, and its files know a function's own source only."""
    caches = []
    for dispatcher in reached.dispatchers:
        if dispatcher.py_func.__module__.split(".")[0] == PACKAGE:
            continue
        now = reach(dispatcher).digest
        caches.append((dispatcher, dispatcher._cache))
        dispatcher._cache = NullCache()
        if _compiled_as.get(dispatcher, now) != now:
            dispatcher.recompile()
        _compiled_as[dispatcher] = now
    try:
        yield
    finally:
        for dispatcher, cache in caches:
            dispatcher._cache = cache


def _shortened(text: str) -> str:
    """The lines of a numba error that say what and where."""
    lines = [line.strip() for line in text.splitlines()]
    place = next((line for line in reversed(lines) if line.startswith("File ")), "")
    told = [line for line in lines if line and not line.startswith(("Failed in", "File ", "During", "<source", "^"))]
    return f"{' '.join(told[:2])[:200]} ({place.strip('. :')})" if place else " ".join(told[:2])[:200]
