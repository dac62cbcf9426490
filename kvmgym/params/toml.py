"""Reading and writing scenarios as TOML, from the dataclasses' own fields and types.

Fields whose metadata has "toml" are arrays of tables under that name ([[vm]], [[workload.role]]), those with "table"
are tables ([host.costs]); everything else is a value or an inline table. Fields at their default are not written.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, TypeVar

from kvmgym.params.dist import DIST_KINDS, Dist
from kvmgym.params.errors import nearest, quoted, shorten, shown
from kvmgym.params.kernels import default_of
from kvmgym.params.program import PHASES
from kvmgym.params.workload import Workload

T = TypeVar("T")
_PHASE_KINDS: Mapping[str, type[Any]] = {phase.kind: phase for phase in PHASES}
_WIDTH = 100  # a longer array is written one item a line


def emit(scenario: Any, workloads: tuple[Workload, ...]) -> str:
    """The TOML text of a Scenario; `workloads` are written in full after it, any other by its name only."""
    lines = list(_table(scenario, ""))
    for workload in workloads:
        lines += ["", "[[workload]]", *_table(workload, "workload")]
    return "\n".join(lines) + "\n"


def parse(cls: type[T], text: str, workloads: Mapping[str, Workload], file: str) -> T:
    """The scenario that the TOML text describes; a VM may name a [[workload]] of the text or one of `workloads`.

    Errors: ValueError that starts with the file and names the key.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file}: not TOML: {shorten(str(error), 200)}") from error
    except ValueError:  # Python reads integers of up to 4300 digits
        raise ValueError(f"{file}: not TOML: a number of too many digits") from None
    except RecursionError:
        raise ValueError(f"{file}: not TOML: arrays or tables nested too deep") from None
    try:
        return typing.cast(T, _Reader(file, dict(workloads)).scenario(cls, data))
    except RecursionError:
        raise ValueError(f"{file}: phases nested too deep") from None


# --- writing --------------------------------------------------------------------------------------------------------


def _key(field: dataclasses.Field[Any]) -> str:
    return str(field.metadata.get("toml", field.name))


def _changed(item: Any) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    """The fields of a dataclass that differ from their default, with their values."""
    for field in dataclasses.fields(item):
        value = getattr(item, field.name)
        default = default_of(item, field)
        if default is dataclasses.MISSING or value != default:
            yield field, value


def _table(item: Any, prefix: str) -> Iterator[str]:
    """The lines of a dataclass as a TOML table: short values first, long arrays, then the tables below it."""
    long: list[str] = []
    tables: list[str] = []
    for field, value in _changed(item):
        key = _key(field)
        path = _join(prefix, key)
        if "toml" in field.metadata:
            for entry in value:
                tables += ["", f"[[{path}]]", *_table(entry, path)]
        elif "table" in field.metadata:
            tables += ["", f"[{path}]", *_table(value, path)]
        else:
            line = f"{key} = {_value(value)}"
            if "\n" not in line:
                yield line
            else:
                long.append(line)
    yield from (*long, *tables)


def _value(value: Any, indent: str = "") -> str:
    """One TOML value; arrays that are long or hold several phases have one item a line, below `indent`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) < 2**53):
        return f"{int(value):_}"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return _array(value, indent)
    if isinstance(value, Workload):
        return _value(value.name)
    pairs = _pairs(value)
    return "{ " + ", ".join(f"{key} = {_value(entry, indent)}" for key, entry in pairs) + " }" if pairs else "{}"


def _array(items: tuple[Any, ...], indent: str) -> str:
    if len(items) == 1:
        return f"[{_value(items[0], indent)}]"
    if not any(dataclasses.is_dataclass(item) for item in items):
        flat = "[" + ", ".join(_value(item) for item in items) + "]"
        if len(flat) <= _WIDTH:
            return flat
    deeper = indent + "  "
    return "[\n" + "".join(f"{deeper}{_value(item, deeper)},\n" for item in items) + indent + "]"


def _pairs(item: Any) -> list[tuple[str, Any]]:
    """Keys and values of an inline table; phases and distributions say their kind."""
    if isinstance(item, Dist):
        plain = item.kind == "lognormal" and not any(item.numbers[2:])
        named = list(item.parameters.items())[: 2 if plain else None]
        return [("kind", item.kind), *named] + ([("unit_ns", item.unit_ns)] if item.unit_ns > 1 else [])
    kind = [("kind", item.kind)] if isinstance(item, PHASES) else []
    return kind + [(_key(field), value) for field, value in _changed(item)]


# --- reading --------------------------------------------------------------------------------------------------------


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


class _Reader:
    """Builds dataclasses from parsed TOML; knows the file, for messages, and the workloads by name."""

    def __init__(self, file: str, workloads: dict[str, Workload]) -> None:
        self.file = file
        self.workloads = workloads

    def fail(self, fault: str) -> NoReturn:
        raise ValueError(f"{self.file}: {fault}")

    def scenario(self, cls: type[Any], data: dict[str, Any]) -> Any:
        """The top level: [[workload]] first, so that the VMs can name them; they hide given ones of that name."""
        own: set[str] = set()
        for place, item in enumerate(self.array(data.get("workload", []), "workload")):
            workload = self.table(Workload, item, f"workload[{place}]")
            if workload.name in own:
                self.fail(f'workload[{place}].name: "{workload.name}" is used twice')
            own.add(workload.name)
            self.workloads[workload.name] = workload
        return self.table(cls, data, "", skip="workload")

    def table(self, cls: type[Any], data: Any, path: str, skip: str = "") -> Any:
        """A dataclass from a TOML table; the key `skip` is allowed and left alone."""
        if not isinstance(data, dict):
            self.fail(f"{path} = {shown(data)}: must be a table")
        fields = {_key(field): field for field in dataclasses.fields(cls)}
        self.known_keys(data, (*fields, skip) if skip else tuple(fields), path)
        for key, field in fields.items():
            if field.default is dataclasses.MISSING and key not in data:
                self.fail(f"{_join(path, key)}: this key is missing")
        hints = typing.get_type_hints(cls)
        present = [(key, field.name) for key, field in fields.items() if key in data]
        given = {name: self.value(hints[name], data[key], _join(path, key)) for key, name in present}
        return self.build(lambda: cls(**given), path)

    def known_keys(self, data: Mapping[str, Any], allowed: tuple[str, ...], path: str) -> None:
        for key in data:
            if key not in allowed:
                self.fail(f"unknown key {quoted(_join(path, key))}: {nearest(key, allowed)}")

    def build(self, make: Callable[[], Any], path: str) -> Any:
        """Call a constructor; its ValueError gets the file and the key path in front."""
        try:
            return make()
        except ValueError as error:
            raise ValueError(f"{self.file}: {path + ': ' if path else ''}{error}") from error

    def array(self, value: Any, path: str) -> list[Any]:
        if not isinstance(value, list):
            self.fail(f"{path} = {shown(value)}: must be an array")
        return value

    def value(self, hint: Any, value: Any, path: str) -> Any:
        """A value of the hinted type: tuple, phase, distribution, workload, other dataclass or scalar."""
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        kind = options[0]
        if kind in PHASES:
            return self.tagged(_PHASE_KINDS, value, path, lambda name, rest: self.table(_PHASE_KINDS[name], rest, path))
        if typing.get_origin(kind) is tuple:
            inner = typing.get_args(kind)[0]
            items = self.array(value, path)
            return tuple(self.value(inner, item, f"{path}[{place}]") for place, item in enumerate(items))
        if kind is Dist:
            return self.tagged(DIST_KINDS, value, path, lambda name, rest: self.dist(name, rest, path))
        if kind is Workload:
            return self.named(value, path)
        make = self.table if dataclasses.is_dataclass(kind) else self.scalar
        return make(kind, value, path)

    def scalar(self, kind: Any, value: Any, path: str) -> Any:
        right = isinstance(value, (int, float) if kind is float else kind)
        if not right or (isinstance(value, bool) and kind is not bool):
            words = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
            self.fail(f"{path} = {shown(value)}: must be {words[kind]}")
        return value

    def tagged(
        self, kinds: Mapping[str, Any], value: Any, path: str, make: Callable[[str, dict[str, Any]], Any]
    ) -> Any:
        """A table whose key "kind" says what to make of the rest."""
        if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
            self.fail(f'{path} = {shown(value)}: must be a table with a "kind" of {", ".join(kinds)}')
        kind = value["kind"]
        if kind not in kinds:
            self.fail(f"{path}: unknown kind {quoted(kind)}: {nearest(kind, kinds)}")
        return make(kind, {key: item for key, item in value.items() if key != "kind"})

    def dist(self, kind: str, data: dict[str, Any], path: str) -> Dist:
        keys = DIST_KINDS[kind]
        self.known_keys(data, (*keys, "unit_ns"), path)
        for key in keys:
            if key not in data and not key.startswith("tail_"):
                self.fail(f"{_join(path, key)}: this key is missing")
        numbers = tuple(self.scalar(float, data.get(key, 0.0), _join(path, key)) for key in keys)
        unit_ns = self.scalar(int, data.get("unit_ns", 1), _join(path, "unit_ns"))
        return typing.cast(Dist, self.build(lambda: Dist(kind, numbers, unit_ns), path))

    def named(self, value: Any, path: str) -> Workload:
        """A workload by its name."""
        name = self.scalar(str, value, path)
        if name not in self.workloads:
            self.fail(f"{path}: unknown workload {quoted(name)}: {nearest(name, self.workloads)}")
        return self.workloads[name]
