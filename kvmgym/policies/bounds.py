"""Bounds: what could be reached with more knowledge than a host has. They read the guest, so they are no proposals.

What the spinner truly waits for is found by the engine (ask.waits_for; core/shown.py says how): the holder of its lock,
a preempted waiter ahead of it in a FIFO queue, a receiver that has not acknowledged its IPI. Left out: a bound over
whole runs. `clairvoyant` looks at one wait only, and spins on where others give their pCPU away, so it can be beaten;
`clairvoyant_bound` gives it away too, and is meant for a host that honours every hint.
"""

from __future__ import annotations

from kvmgym.core.jit import jit
from kvmgym.core.layout import NONE
from kvmgym.core.records import Ask, Vcpus, Vm
from kvmgym.policies.kernel import may_try

SETTLE_NS = 20_000


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
def clairvoyant_bound(vm: Vm, vcpus: Vcpus, me: int, ask: Ask) -> int:
    """Privileged: as clairvoyant; where that knows nobody, or named it just now, the vCPU that waits longest of those
    that do not spin. Naming one again while it is still being switched to would only start the switch anew, and two VMs
    that do it in step can keep each other from running for good; so the time that must pass is drawn (a hash of the
    exit's number and time)."""
    if ask.tries == 0:
        return NONE
    draw = ((ask.serial & 0x3FFFFFFF) * 0x9E3779B1) ^ ((ask.now_ns & 0x3FFFFFFF) * 0x85EBCA77)
    draw = (draw ^ (draw >> 15)) & 7
    awaited = clairvoyant(vm, vcpus, me, ask)
    if awaited != NONE and ask.now_ns - vcpus[awaited].boosted_ns > SETTLE_NS * (1 + draw):
        return awaited
    best = NONE
    for index in range(vcpus.size):
        if index != ask.waits_for and may_try(vcpus[index], me, index, ask) and vcpus[index].in_spin_loop == 0:
            if best == NONE or vcpus[index].ready_since_ns < vcpus[best].ready_since_ns:
                best = index
    return best
