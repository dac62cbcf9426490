"""Reference points: never yield, or yield to anybody."""

from __future__ import annotations

from kvmgym.core.jit import jit
from kvmgym.core.layout import NONE
from kvmgym.core.records import Ask, Vcpus, Vm


@jit
def none(vm: Vm, vcpus: Vcpus, me: int, ask: Ask) -> int:
    """Never yield: a spinning vCPU re-enters its guest after each exit."""
    return NONE


@jit
def random(vm: Vm, vcpus: Vcpus, me: int, ask: Ask) -> int:
    """Any ready vCPU that has not failed in this exit, all alike. The draw is a hash of the exit's number and time."""
    ready = 0
    for index in range(vcpus.size):
        if index != me and vcpus[index].ready and vcpus[index].tried_serial != ask.serial:
            ready += 1
    if ready == 0 or ask.tries == 0:
        return NONE
    draw = ((ask.serial & 0x3FFFFFFF) * 0x9E3779B1) ^ ((ask.now_ns & 0x3FFFFFFF) * 0x85EBCA77) ^ (me * 0xC2B2AE3D)
    draw ^= draw >> 15
    draw = (draw * 0x2C1B3C6D) & 0xFFFFFFFF
    draw = ((draw ^ (draw >> 12)) * ready) >> 32
    for index in range(vcpus.size):
        if index != me and vcpus[index].ready and vcpus[index].tried_serial != ask.serial:
            if draw == 0:
                return index
            draw -= 1
    return NONE
