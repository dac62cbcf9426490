"""A digest of all that decides what a function does: its bytecode and constants, defaults and closure, the globals that
it reads, and the functions that it calls, wherever they are.

Nothing goes in that differs between processes or by where a file lies: no addresses, no file names, no line numbers.
"""

from __future__ import annotations

import builtins
import dis
import hashlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

PACKAGE = __name__.split(".")[0]
_LIBRARIES = frozenset({*sys.stdlib_module_names, "numpy", "numba", "llvmlite"}) - {"__main__"}  # told by their version
_NUMBERS = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis))
_MISSING = object()
_GLOBAL, _FIELD = ("LOAD_GLOBAL", "LOAD_NAME"), ("LOAD_ATTR", "LOAD_METHOD")


@dataclass
class Reached:
    """What a function depends on. names: fields that are read, of any record, here and in what it calls; dispatchers:
    functions compiled by numba among it; functions: all plain functions."""

    digest: str = ""
    names: set[str] = field(default_factory=set)
    dispatchers: list[Any] = field(default_factory=list)
    functions: list[FunctionType] = field(default_factory=list)


def digest(function: Callable[..., Any]) -> str:
    """The digest of a plain or njit function, 32 hexadecimal digits; the same in every process.

    >>> digest(lambda vm, vcpus, me, ask: 1) == digest(lambda vm, vcpus, me, ask: 2)
    False
    """
    return reach(function).digest


def reach(function: Callable[..., Any]) -> Reached:
    """The digest, and what was met on the way."""
    walk = _Walk()
    walk.value(function)
    walk.reached.digest = walk.total.hexdigest()[:32]
    return walk.reached


def plain_of(function: Any) -> Any:
    """The Python function of an njit function; a plain one as it is."""
    return getattr(function, "py_func", function)


def code_of(function: FunctionType) -> Iterator[CodeType]:
    """The code of a function and of all functions, lambdas and comprehensions within it."""
    waiting = [function.__code__]
    while waiting:
        code = waiting.pop()
        yield code
        waiting += [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def globals_read(code: CodeType) -> Iterator[tuple[str, ...]]:
    """The globals that code reads, each with the chain of attributes that follows: ("layout", "READY")."""
    chain: list[str] = []
    for step in dis.get_instructions(code):
        if step.opname in _FIELD and chain:
            chain.append(str(step.argval))
            continue
        if chain:
            yield tuple(chain)
        chain = [str(step.argval)] if step.opname in _GLOBAL else []
    if chain:
        yield tuple(chain)


class _Walk:
    def __init__(self) -> None:
        self.total = hashlib.sha256()
        self.reached = Reached()
        self.met: dict[int, tuple[int, Any]] = {}  # the number of each object by its id; the object keeps its id taken

    def put(self, kind: str, *parts: object) -> None:
        for part in (kind, *parts):
            data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
            self.total.update(len(data).to_bytes(8, "little") + data)

    def value(self, value: Any) -> None:
        if type(value) in _NUMBERS:
            self.put(type(value).__name__, repr(value))
        elif isinstance(value, np.generic) and value.dtype.names is None:
            self.put("number", value.dtype.str, value.tobytes())
        elif isinstance(value, CodeType):
            self.code(value)
        elif isinstance(value, (set, frozenset)):
            self.put(type(value).__name__, *sorted(_digest_of(item) for item in value))
        elif id(value) in self.met:
            self.put("met", self.met[id(value)][0])
        else:
            self.met[id(value)] = len(self.met), value
            self.compound(value)

    def compound(self, value: Any) -> None:
        if isinstance(value, np.dtype):
            self.put("dtype", repr(value))
        elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
            self.put("array", repr(value.dtype), value.shape, value.tobytes())
        elif isinstance(value, (tuple, list, np.ndarray)):
            self.put("sequence", type(value).__qualname__, len(value))
            self.all_of(value)
        elif isinstance(value, dict):
            self.put("dict", len(value))
            self.all_of(part for pair in value.items() for part in pair)
        elif isinstance(value, ModuleType):
            self.put("module", value.__name__)
        elif isinstance(value, (type, BuiltinFunctionType)):
            self.put("named", getattr(value, "__module__", ""), value.__qualname__)
        elif isinstance(value, MethodType):
            self.put("method")
            self.all_of((value.__func__, value.__self__))
        elif isinstance(value, partial):
            self.put("partial")
            self.all_of((value.func, value.args, value.keywords))
        elif isinstance(plain_of(value), FunctionType):
            self.function(value)
        else:
            self.thing(value)

    def all_of(self, values: Any) -> None:
        for value in values:
            self.value(value)

    def thing(self, value: Any) -> None:
        """Any other object: its class and what it holds."""
        kind = type(value)
        held = dict(getattr(value, "__dict__", {}))
        for base in kind.__mro__:
            slots = base.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                held.setdefault(name, getattr(value, name, None))
        self.put("object", kind.__module__, kind.__qualname__, getattr(value, "__name__", ""))
        if not in_library(kind.__module__):
            self.value(held)

    def function(self, function: Any) -> None:
        plain = plain_of(function)
        if plain is not function:
            self.reached.dispatchers.append(function)
        if in_library(plain.__module__):
            version = getattr(sys.modules.get(plain.__module__.split(".")[0]), "__version__", sys.version)
            self.put("library", plain.__module__, plain.__qualname__, version)
            return
        self.reached.functions.append(plain)
        self.put("function")
        self.value(plain.__code__)
        self.all_of((plain.__defaults__, plain.__kwdefaults__))
        for cell in plain.__closure__ or ():
            self.value(_contents(cell))
        chains = {chain for code in code_of(plain) for chain in globals_read(code)}
        for chain in sorted(chains):
            self.chain(plain, chain)

    def chain(self, plain: FunctionType, chain: tuple[str, ...]) -> None:
        """A global and what is read of it; attributes of modules are followed, of other things they are fields."""
        self.put("global", *chain)
        value = plain.__globals__.get(chain[0], getattr(builtins, chain[0], _MISSING))
        for name in chain[1:]:
            if not isinstance(value, ModuleType):
                break
            value = getattr(value, name, _MISSING)
        if value is _MISSING:
            self.put("missing")
        elif chain[0] not in plain.__globals__ and not isinstance(value, ModuleType):
            self.put("builtin", chain[0])
        else:
            self.value(value)

    def code(self, code: CodeType) -> None:
        self.put("code", code.co_code, code.co_names, code.co_freevars, code.co_cellvars, code.co_flags)
        self.put("arguments", code.co_argcount, code.co_kwonlyargcount, code.co_posonlyargcount)
        self.put("exceptions", getattr(code, "co_exceptiontable", b""))
        self.all_of(code.co_consts)
        for step in dis.get_instructions(code):
            if step.opname in _FIELD:
                self.reached.names.add(str(step.argval))
        self.reached.names.update(text for text in code.co_consts if isinstance(text, str))  # vcpus["lag_ns"]


def _digest_of(value: Any) -> str:
    walk = _Walk()
    walk.value(value)
    return walk.total.hexdigest()


def in_library(module: str | None) -> bool:
    """True for modules of the standard library, numpy and numba, whose sources are not followed."""
    return (module or "").split(".")[0] in _LIBRARIES


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return _MISSING
