"""Queues between pipeline stages, and barriers.

A vCPU whose queue is empty or full halts (its guest has nothing else to run); whoever makes room or adds an item wakes
one, with a reschedule IPI. A barrier's waiters spin in user mode, then halt; the last to arrive releases all.
"""

from __future__ import annotations

from kvmgym.core.guest import activity, ipi, tasks
from kvmgym.core.jit import jit
from kvmgym.core.layout import ACT_HALT, ACT_SPIN_BARRIER, NO, NONE
from kvmgym.core.memory import World
from kvmgym.core.records import Gate, int64


@jit
def _wait(w: World, v: int, gate: Gate, k: int, spin_ns: int, now: int) -> None:
    """Wait at a gate: spin for a while, then halt; a guest that schedules runs another task instead."""
    gate.waiting += 1
    if gate.of_tasks:
        tasks.wait_at(w, v, gate, now)
        return
    w.vcpu[v].wait_gate = k
    activity.append_waiter(w, gate, v)
    if spin_ns > 0:
        activity.spin(w, v, ACT_SPIN_BARRIER, spin_ns, now)
    else:
        activity.halt_for_another(w, v, now)


@jit
def _release_first_task(w: World, v: int, gate: Gate, now: int) -> None:
    """Release the first waiting task; its vCPU, if halted, gets a reschedule IPI from `v`."""
    t = tasks.take_first(w, gate)
    other = int64(w.task[t].home)
    halted = tasks.is_idle(w, other)
    gate.waiting -= 1
    tasks.wake(w, t, now)
    if halted:
        ipi.kick(w, v, other, now)


@jit
def _release_first(w: World, v: int, gate: Gate, now: int) -> None:
    """Release the first waiter; a halted one gets a reschedule IPI from `v`."""
    if gate.of_tasks:
        _release_first_task(w, v, gate, now)
        return
    other = int64(gate.head)
    activity.remove_waiter(w, gate, other)
    gate.waiting -= 1
    w.vcpu[other].wait_gate = NONE
    w.vm[w.vcpu[other].vm].nr_waiting -= 1
    halted = w.vcpu[other].act == ACT_HALT
    activity.release(w, other, now)
    if halted:
        ipi.kick(w, v, other, now)


@jit
def put(w: World, v: int, k: int, now: int) -> bool:
    """Put an item into queue `k`, or halt while it is full. True when done."""
    gate = w.gate[k]
    if gate.level == gate.capacity:
        _wait(w, v, gate, k, NO, now)
        return False
    gate.passed += 1
    if gate.waiting > 0:  # takers wait only while it is empty: hand the item over
        _release_first(w, v, gate, now)
    else:
        gate.level += 1
    return True


@jit
def get(w: World, v: int, k: int, now: int) -> bool:
    """Take an item from queue `k`, or halt while it is empty. True when done."""
    gate = w.gate[k]
    if gate.level == 0:
        _wait(w, v, gate, k, NO, now)
        return False
    if gate.waiting > 0:  # givers wait only while it is full: one item out, one in
        gate.passed += 1
        _release_first(w, v, gate, now)
    else:
        gate.level -= 1
    return True


@jit
def arrive(w: World, v: int, k: int, now: int) -> bool:
    """Arrive at barrier `k`. True when `v` was the last and has released the others."""
    gate = w.gate[k]
    gate.level += 1
    if gate.level < gate.capacity:
        w.vcpu[v].ring0 = 0
        _wait(w, v, gate, k, int64(gate.spin_ns), now)
        return False
    gate.level = 0
    gate.passed += 1
    while gate.waiting > 0:
        _release_first(w, v, gate, now)
    return True
