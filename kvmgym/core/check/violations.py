"""What the checks of core/ can find, as codes and in words."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from kvmgym.core.jit import jit
from kvmgym.core.records import int64

_PLACE = int64(1000)  # a violation is code + _PLACE * index of what it concerns

(TIME_BACK, TREE, LEAF, PCPU_LEAF, PCPU_EVENT, PCPU_TICK, PCPU_CURR, PCPU_IDLE, PCPU_COUNTS, PCPU_TIME, IDLE_LIST,
 RESCHED_LIST, RQ_LIST, RQ_COUNTS, RQ_CURR, RQ_BUDDY, RQ_ELIGIBLE, RQ_OVERFLOW, SE_DEADLINE, SE_LISTED, SE_GROUP,
 SE_STATE, SE_PLACE, RUNNING_FLAGS, READY_FLAGS, BLOCKED_FLAGS, SPIN_LOOP, PLE_WINDOW, LOST_WAKEUP, ACTIVITY, TIMER,
 PENDING, HANDLER, TIME_LEFT, VCPU_TIME, SPIN_TIME, HOLDS, LHP, LOCK_OWNER, LOCK_LIST, LOCK_FREE, LOCK_PASSED,
 GATE_LIST, GATE_LEVEL, ACKS, GOALS, SERVING, VM_COUNTS, VM_LOAD, OVERHEAD_SUM, READY_SUM, TASK_PLACE, POLLING,
 RQ_SUMS, RQ_MIN) = (int64(code) for code in range(1, 56))  # fmt: skip

VIOLATIONS: Mapping[np.int64, str] = MappingProxyType(
    {
        TIME_BACK: "time went back, or the next event lies in the past",
        TREE: "a node of the event tree does not hold the winner of the two below it",
        LEAF: "a leaf of the event tree has a time that its source does not know",
        PCPU_LEAF: "the pCPU's leaf is not the earlier of its vCPU's next change and its tick",
        PCPU_EVENT: "the pCPU's next change is not the one that its vCPU's activity brings",
        PCPU_TICK: "the pCPU's next tick is off its grid, or more than a period away",
        PCPU_CURR: "the vCPU on the pCPU neither runs there nor is about to leave it",
        PCPU_IDLE: "nobody runs on the pCPU, and it is not idle, waking up or about to pick; or it is idle with work",
        PCPU_COUNTS: "nr_running or nr_ready of the pCPU is not the number of its queued or ready vCPUs",
        PCPU_TIME: "the pCPU's busy, idle and overhead times do not add up",
        IDLE_LIST: "the list of idle pCPUs is broken, or the number of those without a vCPU wrong",
        RESCHED_LIST: "the list of pCPUs that must reschedule is broken",
        RQ_LIST: "the run queue's list is broken, or holds an entity that is not on it",
        RQ_COUNTS: "nr or nr_runnable of the run queue is not what its list holds",
        RQ_CURR: "the run queue's current entity is not the one that runs",
        RQ_BUDDY: "a buddy of the run queue is not queued there, is delayed, or is one that its scheduler has not",
        RQ_ELIGIBLE: "no entity of the run queue is eligible",
        RQ_OVERFLOW: "vruntimes of the run queue are too far apart for 64 bits",
        RQ_SUMS: "load or moment of the run queue is not the sum over its entities",
        RQ_MIN: "min_vruntime of the run queue fell, or somebody queued is further behind it than a sleeper's credit",
        SE_DEADLINE: "the queued entity's deadline is relative, or has passed",
        SE_LISTED: "some entity is on a queue whose list does not hold it",
        SE_GROUP: "the group is queued without vCPUs and not delayed, or the reverse; or its weight is out of range",
        SE_STATE: "the vCPU's state disagrees with its being queued or delayed",
        SE_PLACE: "the vCPU is on another queue than its pCPU's, or on a pCPU that it may not use",
        RUNNING_FLAGS: "the vCPU runs on no pCPU, or while marked ready, preempted, blocking or woken",
        READY_FLAGS: "the vCPU is ready without the mark, or marked blocking, or both woken and preempted",
        BLOCKED_FLAGS: "the vCPU is blocked without the mark or without having halted, or marked ready or preempted",
        SPIN_LOOP: "in_spin_loop outside the spin-exit handler, or dy_eligible without it",
        PLE_WINDOW: "the running vCPU's pause-loop window is below its base or above its maximum",
        LOST_WAKEUP: "the vCPU halts or spins, and nothing will release it",
        ACTIVITY: "the vCPU computes or sends while it waits for something",
        TIMER: "the vCPU's timer is set outside a Block phase, or its leaf has another time",
        PENDING: "an interrupt waits that should have been taken, or its arrival time says otherwise",
        HANDLER: "the vCPU's marks of what its interrupt handler serves disagree",
        TIME_LEFT: "the end of the vCPU's activity or handler lies in the past, or what is left is negative",
        VCPU_TIME: "run, ready and blocked times of the vCPU do not add up to the time passed",
        SPIN_TIME: "the vCPU span and did host work for longer than it ran",
        HOLDS: "the vCPU's holds is not the number of spin locks that it owns, or irq_off is out of range",
        LHP: "the vCPU's lhp_since_ns disagrees with its being off its pCPU with a spin lock",
        LOCK_OWNER: "the lock is owned from another VM",
        LOCK_LIST: "the lock's list of waiters or their number is wrong",
        LOCK_FREE: "the lock is free, and nobody who waits for it will take it",
        LOCK_PASSED: "the lock is free, and a waiter spins on a pCPU without looking",
        GATE_LIST: "the queue's or barrier's list of waiters or their number is wrong",
        GATE_LEVEL: "the queue's or barrier's level does not justify its waiters",
        ACKS: "the vCPU's acks_left is not the number of vCPUs that owe it an acknowledgement or a send",
        GOALS: "the vCPU has somebody to send to and does not send, or the reverse",
        SERVING: "some vCPU owes an acknowledgement that nobody awaits, or serves interrupts outside a handler",
        VM_COUNTS: "nr_runnable or nr_waiting of the VM is not the number of its runnable or waiting vCPUs",
        VM_LOAD: "the VM's load average is negative or above its vCPUs",
        TASK_PLACE: "a guest task is not in exactly one place, or its vCPU has nothing to run although one is runnable",
        POLLING: "the vCPU polls without being halted on its pCPU, or its poll interval is out of range",
        OVERHEAD_SUM: "the overhead of all pCPUs is not that of all vCPUs",
        READY_SUM: "the ready integral of all pCPUs is not the ready time of all vCPUs",
    }
)


@jit
def at(code: int, index: int) -> int:
    """The violation `code` of the thing with this index."""
    return code + _PLACE * index


def code_of(fault: int) -> np.int64:
    """The code of a violation, without the index."""
    return int64(fault % int(_PLACE))


def describe(fault: int) -> str:
    """A violation in words, with the index of the leaf, pCPU, queue, entity, vCPU, VM, lock or gate concerned."""
    return f"{VIOLATIONS[code_of(fault)]} (index {fault // int(_PLACE)})" if fault else "no violation"
