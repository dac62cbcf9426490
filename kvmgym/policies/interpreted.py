"""Functions as plain Python again: copies in which every function compiled by numba is the Python function that it came
from, at any depth. numpy then checks what compiled code does not."""

from __future__ import annotations

from collections.abc import Callable
from types import CellType, FunctionType, ModuleType
from typing import Any

from kvmgym.policies.digest import code_of, globals_read, in_library, plain_of


def interpreted(function: Callable[..., Any]) -> Any:
    """A copy of a plain or njit function that calls nothing compiled. The code objects are the function's own."""
    return _Copies().of(function)


class _Module:
    """A module whose functions are copies."""

    def __init__(self, module: ModuleType, copies: _Copies) -> None:
        self._module, self._copies = module, copies

    def __getattr__(self, name: str) -> Any:
        return self._copies.of(getattr(self._module, name))


class _Copies:
    def __init__(self) -> None:
        self.made: dict[int, Any] = {}

    def of(self, value: Any) -> Any:
        """A value as a copied function sees it."""
        if isinstance(value, ModuleType):
            return value if in_library(value.__name__) else _Module(value, self)
        plain = plain_of(value)
        if not isinstance(plain, FunctionType) or in_library(plain.__module__):
            return value
        if id(plain) not in self.made:
            self._copy(plain)
        return self.made[id(plain)]

    def _copy(self, plain: FunctionType) -> None:
        names = {chain[0] for code in code_of(plain) for chain in globals_read(code)}
        scope = dict(plain.__globals__)
        cells = tuple(CellType() for _ in plain.__closure__ or ())
        copy = FunctionType(plain.__code__, scope, plain.__name__, plain.__defaults__, cells or None)
        copy.__kwdefaults__ = plain.__kwdefaults__
        self.made[id(plain)] = copy  # before what it calls, which may be itself
        for name in names & scope.keys():
            scope[name] = self.of(scope[name])
        for cell, given in zip(cells, plain.__closure__ or ()):
            try:
                cell.cell_contents = self.of(given.cell_contents)
            except ValueError:  # not filled yet
                continue
