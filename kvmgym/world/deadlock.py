"""A guest that can never go on: who waits for whom."""

from __future__ import annotations

from typing import Any

from kvmgym.core import layout
from kvmgym.core.memory import World
from kvmgym.world.blueprint import Blueprint


class DeadlockError(RuntimeError):
    """A guest can never go on; the message says who waits for whom."""


def explain_deadlock(blueprint: Blueprint, world: World) -> str:
    """Who waits for whom in the VM that cannot go on."""
    g = int(world.host[0]["deadlock_vm"])
    vm, record = blueprint.vms[g], world.vm[g]
    first = int(record["first"])
    lines = [_waits_for(vm, world, v, first, record) for v in range(first, first + vm.vcpus)]
    when = f"{int(world.host[0]['now_ns']) / 1000:g} us"
    return f"deadlock in VM {vm.name!r} at {when}: nobody can go on\n" + "\n".join(line for line in lines if line)


def _waits_for(vm: Any, world: World, v: int, first: int, record: Any) -> str:
    vcpu = world.vcpu[v]
    who = f"  vCPU {v - first}"
    if vcpu["wait_lock"] >= 0:
        names = [spec.name for spec in vm.workload.locks for _ in range(spec.count)]
        owner = int(world.lock[vcpu["wait_lock"]]["owner"])
        held = "nobody" if owner < 0 else f"vCPU {owner - first}"
        return f"{who} waits for lock {names[vcpu['wait_lock'] - record['locks']]!r}, held by {held}"
    if vcpu["wait_gate"] >= 0:
        names = [spec.name for spec in (*vm.workload.queues, *vm.workload.barriers)]
        return f"{who} waits at {names[vcpu['wait_gate'] - record['gates']]!r}"
    if vcpu["act"] == layout.ACT_SPIN_ACK:
        return f"{who} waits for {int(vcpu['acks_left'])} acknowledgements of its IPI"
    return ""
