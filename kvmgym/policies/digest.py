"""A digest of a policy's function with all that decides what it returns."""

from __future__ import annotations

import hashlib
import types
from collections.abc import Iterator
from typing import Any

import numpy as np


def digest(function: Any) -> str:
    """A digest of a function's bytecode and constants and of all that it uses: defaults, closures, globals, functions,
    also those of other files. The same in each process."""
    found = hashlib.sha256()
    for part in _parts(function, {}):
        found.update(f"{len(part)}:{part};".encode("utf-8", "backslashreplace"))
    return found.hexdigest()


def _parts(value: Any, seen: dict[int, int]) -> Iterator[str]:
    value = getattr(value, "py_func", value)
    if id(value) in seen:
        yield f"again {seen[id(value)]}"
    elif isinstance(value, types.FunctionType):
        seen[id(value)] = len(seen)
        yield from _function(value, seen)
    elif isinstance(value, types.CodeType):
        yield from _code(value, seen)
    elif isinstance(value, np.ndarray):
        yield f"array {value.dtype} {value.shape} {value.tobytes().hex()}"
    elif isinstance(value, (tuple, list)):
        yield type(value).__name__ + str(len(value))
        for item in value:
            yield from _parts(item, seen)
    elif isinstance(value, (frozenset, set)):
        yield f"set {sorted(map(repr, value))}"
    elif isinstance(value, dict):
        yield f"dict {len(value)}"
        for key, item in value.items():
            yield from _parts((key, item), seen)
    elif isinstance(value, types.ModuleType):
        yield f"module {value.__name__}"
    elif isinstance(value, (bool, int, float, complex, str, bytes, type(None), type(...), np.generic)):
        yield f"{type(value).__name__} {value!r}"
    else:
        yield f"{type(value).__module__}.{type(value).__qualname__}"


def _code(code: types.CodeType, seen: dict[int, int]) -> Iterator[str]:
    yield code.co_code.hex()
    yield repr((code.co_names, code.co_varnames, code.co_freevars, code.co_argcount))
    yield from _parts(code.co_consts, seen)


def _function(function: types.FunctionType, seen: dict[int, int]) -> Iterator[str]:
    yield from _code(function.__code__, seen)
    yield from _parts((function.__defaults__, function.__kwdefaults__), seen)
    for cell in function.__closure__ or ():
        yield from _parts(cell.cell_contents, seen)
    for name in sorted(_names(function.__code__)):
        if name in function.__globals__:
            used = function.__globals__[name]
            yield name
            yield from _parts(used, seen)
            if isinstance(used, types.ModuleType):
                yield from _attributes(used, _names(function.__code__), seen)


def _attributes(module: types.ModuleType, names: set[str], seen: dict[int, int]) -> Iterator[str]:
    for name in sorted(names & set(vars(module))):
        yield name
        yield from _parts(vars(module)[name], seen)


def _names(code: types.CodeType) -> set[str]:
    """The names that a code object and those in it look up."""
    inner = [_names(part) for part in code.co_consts if isinstance(part, types.CodeType)]
    return set(code.co_names).union(*inner)
