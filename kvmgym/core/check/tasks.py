"""Invariants of guests that schedule: each task is in exactly one place, and the queues it waits at justify that."""

from __future__ import annotations

from kvmgym.core.check.violations import GATE_LEVEL, GATE_LIST, TASK_PLACE, TIMER, at
from kvmgym.core.jit import jit
from kvmgym.core.layout import INF, NONE, PH_BLOCK, PH_GET, TASK_CURRENT, TASK_RUNNABLE, TASK_WAITS
from kvmgym.core.memory import World


@jit
def run_queue(w: World, v: int) -> int:
    """One vCPU: its tasks are its own; it lists runnable ones, and has none of them waiting while it runs nothing."""
    vcpu = w.vcpu[v]
    if w.vm[vcpu.vm].tasks == 0:
        return 0 if vcpu.task == NONE and vcpu.run_head == NONE else at(TASK_PLACE, v)
    runnable = 0
    current = 0
    for t in range(w.par[0].tasks):
        if w.task[t].home == v:
            runnable += 1 if w.task[t].state == TASK_RUNNABLE else 0
            current += 1 if w.task[t].state == TASK_CURRENT else 0
    if current != (0 if vcpu.task == NONE else 1):
        return at(TASK_PLACE, v)
    if vcpu.task != NONE and (w.task[vcpu.task].home != v or w.task[vcpu.task].state != TASK_CURRENT):
        return at(TASK_PLACE, v)
    last = NONE
    t = vcpu.run_head
    while t != NONE:
        if runnable == 0 or w.task[t].home != v or w.task[t].state != TASK_RUNNABLE:
            return at(TASK_PLACE, v)
        runnable -= 1
        last = t
        t = w.task[t].next
    idle_with_work = vcpu.task == NONE and vcpu.run_head != NONE
    return at(TASK_PLACE, v) if runnable != 0 or vcpu.run_tail != last or idle_with_work else 0


@jit
def timer(w: World, t: int) -> int:
    """One task: a timer runs exactly while it waits in a Block phase."""
    task = w.task[t]
    blocks = task.state == TASK_WAITS and w.phase[task.pc].kind == PH_BLOCK
    return 0 if blocks == (task.wake_ns != INF) else at(TIMER, t)


@jit
def gate(w: World, k: int) -> int:
    """One queue or barrier of tasks: its list holds as many as wait, and its level justifies it."""
    gate = w.gate[k]
    if gate.of_tasks == 0:
        return 0
    waiting = 0
    last = NONE
    t = gate.head
    while t != NONE:
        if (
            waiting == w.par[0].tasks
            or w.task[t].state != TASK_WAITS
            or w.phase[w.task[t].pc].a != w.phase[w.task[gate.head].pc].a
        ):
            return at(GATE_LIST, k)
        waiting += 1
        last = t
        t = w.task[t].next
    if waiting != gate.waiting or gate.tail != last:
        return at(GATE_LIST, k)
    if waiting == 0:
        return 0
    if w.phase[w.task[gate.head].pc].kind == PH_GET:
        return 0 if gate.level == 0 else at(GATE_LEVEL, k)
    return 0 if gate.level == gate.capacity or gate.level == gate.waiting else at(GATE_LEVEL, k)
