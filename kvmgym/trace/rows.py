"""Rows of a world's trace, with names for numbers: the vCPU, the kind, and what the argument is.

Left out: what happened after the trace was full (host.trace_len counts those rows too).
"""

from __future__ import annotations

from dataclasses import dataclass

from kvmgym.core.layout import TRACE_KINDS
from kvmgym.core.memory import World
from kvmgym.world.blueprint import Blueprint


@dataclass(frozen=True)
class Row:
    """One row. who: the vCPU as "vm/index", a host task by its name. kind: of layout.TRACE_KINDS. what: the argument as
    text, a vCPU or lock by its name, "" for none; number: as a number (of yield_to, the target). result: of yield_to,
    1, 0 or -1, else None."""

    time_ns: int
    who: str
    kind: str
    what: str
    number: int
    result: int | None = None


def vcpu_names(blueprint: Blueprint) -> list[str]:
    """Each vCPU of the world as "vm/index", a host task by its name."""
    guests = [f"{vm.name}/{i}" for vm in blueprint.scenario.vms for i in range(vm.vcpus)]
    return [*guests, *(task.name for task in blueprint.scenario.host_tasks)]


def lock_names(blueprint: Blueprint) -> list[str]:
    """Each lock of the world by the name of its group."""
    return [spec.name for vm in blueprint.vms for spec in vm.workload.locks for _ in range(spec.count)]


def decode(blueprint: Blueprint, world: World) -> list[Row]:
    """The rows that the trace holds, in order of time."""
    vcpus, locks = vcpu_names(blueprint), lock_names(blueprint)
    count = min(int(world.host[0]["trace_len"]), blueprint.trace_rows)
    columns = (world.trace[name][:count].tolist() for name in ("time_ns", "kind", "vcpu", "arg"))
    return [_row(vcpus, locks, *numbers) for numbers in zip(*columns, strict=True)]


def _row(vcpus: list[str], locks: list[str], time_ns: int, code: int, vcpu: int, arg: int) -> Row:
    kind, argument = TRACE_KINDS[code]
    match argument:
        case "pcpu":
            return Row(time_ns, vcpus[vcpu], kind, f"p{arg}", arg)
        case "vcpu":
            return Row(time_ns, vcpus[vcpu], kind, vcpus[arg], arg)
        case "lock":
            return Row(time_ns, vcpus[vcpu], kind, locks[arg], arg)
        case "yield":
            return Row(time_ns, vcpus[vcpu], kind, vcpus[arg >> 2], arg >> 2, (arg & 3) - 1)
        case "":
            return Row(time_ns, vcpus[vcpu], kind, "", arg)
    return Row(time_ns, vcpus[vcpu], kind, str(arg), arg)
