"""Bounds: what could be reached with more knowledge than a host has. They read the guest, so they are no proposals.

What the spinner truly waits for is found by the engine (ask.waits_for; core/shown.py says how): the holder of its lock,
a preempted waiter ahead of it in a FIFO queue, a receiver that has not acknowledged its IPI. All three act on the host
as it is; they differ in what they do when that vCPU runs already, or has just been tried. None is best everywhere, so a
table shows the best of them on each scenario. Left out: a bound over whole runs: each looks at one wait only.
"""

from __future__ import annotations

from kvmgym.core.jit import jit
from kvmgym.core.layout import NO, NONE, YES
from kvmgym.core.records import Ask, Vcpus, Vm
from kvmgym.policies.heuristics import longest_ready


@jit
def clairvoyant(vm: Vm, vcpus: Vcpus, me: int, ask: Ask) -> int:
    """Privileged: the vCPU that the spinner truly waits for, if it is ready and has not failed in this exit; else
    nobody."""
    index = ask.waits_for
    if index == NONE or index == me or ask.tries == 0:
        return NONE
    if vcpus[index].ready == 0 or vcpus[index].tried_serial == ask.serial:
        return NONE
    return index


@jit
def clairvoyant_waiting(vm: Vm, vcpus: Vcpus, me: int, ask: Ask) -> int:
    """Privileged: as clairvoyant; where that names nobody, the vCPU that has been ready longest."""
    awaited = clairvoyant(vm, vcpus, me, ask)
    return awaited if awaited != NONE else longest_ready(vcpus, me, ask, YES)


@jit
def clairvoyant_working(vm: Vm, vcpus: Vcpus, me: int, ask: Ask) -> int:
    """Privileged: as clairvoyant; where that names nobody, the vCPU that has been ready longest of those that do not
    spin."""
    awaited = clairvoyant(vm, vcpus, me, ask)
    return awaited if awaited != NONE else longest_ready(vcpus, me, ask, NO)
