"""How code reaches a world's records: `carve` makes a World of two rows of bytes, `w.vcpu[i].state` reads a field.

In plain Python a World is a NamedTuple of numpy record arrays. Compiled, handing some twenty arrays from function to
function costs seven machine words each and most of the compile time (measured: 160 s and 0.7 M events/s, against 20 s
and more than ten times that). So a compiled World is one pointer to a table of pointers, which `carve` fills at the
head of the state row, and `w.part[i]` is a load and an addition. There are no bounds checks either way of compiling;
the invariants of core/check and the interpreted runs of the tests are what guards the indices.
"""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.imputils import lower_builtin, lower_getattr_generic
from numba.core.typing.templates import AbstractTemplate, AttributeTemplate, infer_getattr, infer_global, signature
from numba.extending import intrinsic, models, register_model
from numba.np.arrayobj import make_array, populate_array

from kvmgym.core.jit import disabled
from kvmgym.core.layout import LINE, STATE_PARTS, STATIC_PARTS, Field, meaning

PARTS = (*STATE_PARTS, *STATIC_PARTS)
# bytes at the head of a state row where compiled code keeps pointers, after the addresses of the rows that they are for
POINTERS = 8 * (2 + len(PARTS))
STATE_HEAD, STATIC_HEAD = POINTERS + 16 * len(STATE_PARTS), 16 * len(STATIC_PARTS)
HOST_AT = -(-STATE_HEAD // LINE) * LINE  # where the first part of a state row begins


class World(NamedTuple):
    """One world: record arrays over its two rows of bytes. Functions of core/ take it as `w`."""

    host: npt.NDArray[Any]  # [1] HOST
    ask: npt.NDArray[Any]  # [1] ASK
    pcpu: npt.NDArray[Any]  # [P] PCPU
    rq: npt.NDArray[Any]  # [P + G*P] RQ
    se: npt.NDArray[Any]  # [V + G*P] SE
    vm: npt.NDArray[Any]  # [G] VM
    vcpu: npt.NDArray[Any]  # [V] VCPU
    task: npt.NDArray[Any]  # [guest tasks or 1] TASK
    lock: npt.NDArray[Any]  # [L] LOCK
    gate: npt.NDArray[Any]  # [queues and barriers] GATE
    pend: npt.NDArray[np.int64]  # [V*W] bit s of row r: r owes sender s an acknowledgement
    serve: npt.NDArray[np.int64]  # [V*W] the same, being served by r's handler
    goal: npt.NDArray[np.int64]  # [V*W] bit r of row s: s has still to send to r
    tree_ns: npt.NDArray[np.int64]  # [N] time of each leaf [ns]
    tree: npt.NDArray[np.int32]  # [N] winners of the inner nodes
    hist: npt.NDArray[np.int32]  # [G*HISTS*HIST_BINS]
    trace: npt.NDArray[Any]  # [trace_cap or 1] TRACE
    par: npt.NDArray[Any]  # [1] PARAM; static from here on
    ent: npt.NDArray[Any]  # [V + G*P] ENTITY
    phase: npt.NDArray[Any]  # PHASE
    dist: npt.NDArray[Any]  # DIST
    quant: npt.NDArray[np.int64]  # quantile tables (rng.draw)
    cum: npt.NDArray[np.int64]  # cumulative chances in 1/2^32, then where each leads
    affin: npt.NDArray[np.int64]  # [V*W'] allowed pCPUs, 32 to a word
    by_leaf: npt.NDArray[np.int32]  # [V] vCPU of each leaf P + i


def view(state: npt.NDArray[np.uint8], static: npt.NDArray[np.uint8]) -> World:
    """Lay a World over a row of state bytes and a row of static bytes; writes go through to the rows."""
    bounds = [*state[POINTERS:STATE_HEAD].view(np.int64).tolist(), *static[:STATIC_HEAD].view(np.int64).tolist()]
    rows = [state] * len(STATE_PARTS) + [static] * len(STATIC_PARTS)
    starts, ends = bounds[::2], bounds[1::2]
    return World(*[row[a:b].view(kind) for row, a, b, (_, kind) in zip(rows, starts, ends, PARTS, strict=True)])


class Vector(types.Type):  # type: ignore[misc]
    """A bare pointer to records or numbers, as compiled code sees one part of a world."""

    compiled_only = True

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"Vector({dtype})")


class WorldType(types.Type):  # type: ignore[misc]
    """A pointer to the pointers of all parts."""

    compiled_only = True  # no Python object becomes one (core/inner.py)

    def __init__(self) -> None:
        super().__init__(name="World")


register_model(Vector)(models.OpaqueModel)
register_model(WorldType)(models.OpaqueModel)
WORLD = WorldType()
VECTORS = {name: Vector(numba.from_dtype(kind)) for name, kind in PARTS}
SLOTS = {name: slot for slot, (name, _) in enumerate(PARTS, start=2)}


@infer_getattr
class _Parts(AttributeTemplate):  # type: ignore[misc]
    key = WorldType

    def generic_resolve(self, _world: Any, name: str) -> Any:  # type: ignore[override]
        return VECTORS.get(name)


@lower_getattr_generic(WorldType)
def _load_part(_context: Any, builder: Any, _world: Any, table: Any, name: str) -> Any:
    slot = cgutils.pointer_add(builder, table, 8 * SLOTS[name], cgutils.voidptr_t.as_pointer())
    return builder.load(slot)


def _element(context: Any, builder: Any, vector: Any, index_type: Any, pointer: Any, index: Any) -> Any:
    index = context.cast(builder, index, index_type, types.intp)
    size = context.get_abi_sizeof(context.get_data_type(vector.dtype))
    offset = builder.mul(index, context.get_constant(types.intp, size))
    return cgutils.pointer_add(builder, pointer, offset, context.get_data_type(vector.dtype).as_pointer())


@infer_global(operator.getitem)
class _GetItem(AbstractTemplate):  # type: ignore[misc]
    def generic(self, args: Any, _kws: Any) -> Any:
        if isinstance(args[0], Vector) and isinstance(args[1], types.Integer):
            return signature(args[0].dtype, *args)
        return None


@lower_builtin(operator.getitem, Vector, types.Integer)
def _get(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    vector = sig.args[0]
    address = _element(context, builder, vector, sig.args[1], *args)
    return context.unpack_value(builder, vector.dtype, address)


@infer_global(operator.setitem)
class _SetItem(AbstractTemplate):  # type: ignore[misc]
    def generic(self, args: Any, _kws: Any) -> Any:
        if isinstance(args[0], Vector) and isinstance(args[1], types.Integer):
            return signature(types.none, args[0], args[1], args[0].dtype)
        return None


@lower_builtin(operator.setitem, Vector, types.Integer, types.Any)
def _set(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    vector = sig.args[0]
    address = _element(context, builder, vector, sig.args[1], args[0], args[1])
    context.pack_value(builder, vector.dtype, args[2], address)
    return context.get_dummy_value()


@intrinsic
def _carve_compiled(typing_context: Any, state: Any, static: Any) -> Any:
    """Return the address of the pointer table at the head of the state row as a World, filled anew if it was made for
    rows at other addresses. A copied row brings its table and its bounds along, so that the addresses tell."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        rows = [
            builder.bitcast(make_array(kind)(context, builder, row).data, cgutils.voidptr_t)
            for kind, row in zip(sig.args, args, strict=True)
        ]
        word, table = cgutils.intp_t, rows[0]
        heads = [(0, POINTERS + 16 * i) for i in range(len(STATE_PARTS))]
        heads += [(1, 16 * i) for i in range(len(STATIC_PARTS))]
        slots = [
            cgutils.pointer_add(builder, table, 8 * slot, cgutils.voidptr_t.as_pointer())
            for slot in range(2 + len(heads))
        ]
        moved = [builder.icmp_unsigned("!=", builder.load(slots[row]), rows[row]) for row in (0, 1)]
        with cgutils.if_unlikely(builder, builder.or_(*moved)):
            for row in (0, 1):
                builder.store(rows[row], slots[row])
            for slot, (row, head) in zip(slots[2:], heads, strict=True):
                offset = builder.load(cgutils.pointer_add(builder, rows[row], head, word.as_pointer()))
                builder.store(cgutils.pointer_add(builder, rows[row], offset), slot)
        return table

    return WORLD(state, static), generate


@intrinsic
def _span_compiled(typing_context: Any, vector: Any, first: Any, n: Any) -> Any:
    """An array over n records of a part from `first` on."""
    array_type = types.Array(vector.dtype, 1, "C")

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = _element(context, builder, vector, sig.args[1], args[0], args[1])
        n = context.cast(builder, args[2], sig.args[2], types.intp)
        size = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(vector.dtype)))
        array = make_array(array_type)(context, builder)
        populate_array(array, data=address, shape=[n], strides=[size], itemsize=size, meminfo=None)
        return array._getvalue()

    return array_type(vector, first, n), generate


@intrinsic
def _fetch_compiled(typing_context: Any, vector: Any, index: Any, shift: Any) -> Any:
    """Ask the processor for the cache line `shift` bytes after the start of a record."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = builder.bitcast(_element(context, builder, vector, sig.args[1], args[0], args[1]), cgutils.voidptr_t)
        address = cgutils.pointer_add(builder, address, context.cast(builder, args[2], sig.args[2], types.intp))
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, cgutils.int32_t, cgutils.int32_t, cgutils.int32_t])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(function, [address, *(cgutils.int32_t(number) for number in (0, 2, 1))])
        return context.get_dummy_value()

    return types.none(vector, index, shift), generate


def clearing(fields: list[Field]) -> Any:
    """A function that sets the counters of the measured window in a record of this table to 0."""
    names = [field[0] for field in fields if meaning(field)[2]]

    def clear_plain(record: Any) -> None:
        for name in names:
            record[name] = 0

    @intrinsic
    def clear_compiled(typing_context: Any, record: Any) -> Any:
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            for name in names:
                kind = context.get_data_type(record.typeof(name))
                address = cgutils.get_record_member(builder, args[0], record.offset(name), kind)
                builder.store(kind(0), address)
            return context.get_dummy_value()

        return types.none(record), generate

    return clear_plain if disabled() else clear_compiled


def _fetch_plain(part: Any, index: int, shift: int) -> None:
    """Caches are nothing that plain Python can ask for."""


def _span_plain(part: Any, first: int, n: int) -> Any:
    return part[first : first + n]


carve: Any = view if disabled() else _carve_compiled
span: Any = _span_plain if disabled() else _span_compiled
fetch: Any = _fetch_plain if disabled() else _fetch_compiled
