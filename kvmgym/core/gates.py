"""Queues between pipeline stages, and barriers.

A vCPU whose queue is empty or full halts (its guest has nothing else to run); whoever makes room or adds an item wakes
one, with a reschedule IPI. A barrier's waiters spin in user mode, then halt; the last to arrive releases all.
"""

from __future__ import annotations

import numpy as np

from kvmgym.core import activity, ipi
from kvmgym.core.jit import jit
from kvmgym.core.layout import ACT_HALT, ACT_SPIN_BARRIER, NONE


@jit
def _wait(w, v, gate, k, now):
    gate.waiting += 1
    w.vcpu[v].wait_gate = k
    activity.append_waiter(w, gate, v)


@jit
def _release_first(w, v, gate, now):
    """Release the first waiter; a halted one gets a reschedule IPI from `v`."""
    other = np.int64(gate.head)
    activity.remove_waiter(w, gate, other)
    gate.waiting -= 1
    w.vcpu[other].wait_gate = NONE
    w.vm[w.vcpu[other].vm].nr_waiting -= 1
    halted = w.vcpu[other].act == ACT_HALT
    activity.release(w, other, now)
    if halted:
        ipi.kick(w, v, other, now)


@jit
def put(w, v, k, now):
    """Put an item into queue `k`, or halt while it is full. True when done."""
    gate = w.gate[k]
    if gate.level == gate.capacity:
        _wait(w, v, gate, k, now)
        activity.halt_for_another(w, v, now)
        return False
    gate.passed += 1
    if gate.waiting > 0:  # takers wait only while it is empty: hand the item over
        _release_first(w, v, gate, now)
    else:
        gate.level += 1
    return True


@jit
def get(w, v, k, now):
    """Take an item from queue `k`, or halt while it is empty. True when done."""
    gate = w.gate[k]
    if gate.level == 0:
        _wait(w, v, gate, k, now)
        activity.halt_for_another(w, v, now)
        return False
    if gate.waiting > 0:  # givers wait only while it is full: one item out, one in
        gate.passed += 1
        _release_first(w, v, gate, now)
    else:
        gate.level -= 1
    return True


@jit
def arrive(w, v, k, now):
    """Arrive at barrier `k`. True when `v` was the last and has released the others."""
    gate = w.gate[k]
    gate.level += 1
    if gate.level < gate.capacity:
        _wait(w, v, gate, k, now)
        w.vcpu[v].ring0 = 0
        if gate.spin_ns > 0:
            activity.spin(w, v, ACT_SPIN_BARRIER, gate.spin_ns, now)
        else:
            activity.halt_for_another(w, v, now)
        return False
    gate.level = 0
    gate.passed += 1
    while gate.waiting > 0:
        _release_first(w, v, gate, now)
    return True
