"""The guest's own run queues, for guests with more tasks than vCPUs: which task a vCPU's guest runs.

Simplified: a task stays on its home vCPU (no balancing in the guest); the first runnable one runs next; a woken task
preempts nobody; a task gives way at the end of a phase, with no spin lock held, once it has had a slice. A vCPU without
a runnable task halts. What differs between tasks is swapped between the vCPU's record and the task's: the place in the
program, the random stream and the burst.
"""

from __future__ import annotations

from kvmgym.core import account, events
from kvmgym.core.guest import activity
from kvmgym.core.jit import jit
from kvmgym.core.layout import ACT_COMPUTE, INF, NONE, TASK_CURRENT, TASK_RUNNABLE, TASK_WAITS
from kvmgym.core.memory import World
from kvmgym.core.records import Gate, int64

SLICE_NS = 3_000_000  # of the guest's scheduler


@jit
def start(w: World) -> None:
    """Deal the tasks to their vCPUs at time 0: the first of each runs, the others are runnable."""
    for t in range(w.par[0].tasks):
        task = w.task[t]
        task.wake_ns = INF
        task.next = NONE
        vcpu = w.vcpu[task.home]
        if vcpu.task == NONE:
            vcpu.task = t
            task.state = TASK_CURRENT
        else:
            _append(w, t)


@jit
def _append(w: World, t: int) -> None:
    """Put a task at the end of its vCPU's run queue."""
    task = w.task[t]
    vcpu = w.vcpu[task.home]
    task.state = TASK_RUNNABLE
    task.next = NONE
    if vcpu.run_tail == NONE:
        vcpu.run_head = t
    else:
        w.task[vcpu.run_tail].next = t
    vcpu.run_tail = t


@jit
def _save(w: World, v: int, state: int) -> None:
    """The vCPU's task stops running: keep what is its own."""
    vcpu = w.vcpu[v]
    task = w.task[vcpu.task]
    task.rng = vcpu.rng
    task.burst = vcpu.burst
    task.burst_left_ns = vcpu.burst_left_ns
    task.pc = vcpu.pc
    task.loop_left = vcpu.loop_left
    task.state = state
    vcpu.task = NONE


@jit
def _load_next(w: World, v: int, now: int) -> None:
    """Make the first runnable task the vCPU's own."""
    vcpu = w.vcpu[v]
    t = int64(vcpu.run_head)
    task = w.task[t]
    vcpu.run_head = task.next
    if task.next == NONE:
        vcpu.run_tail = NONE
    task.next = NONE
    task.state = TASK_CURRENT
    vcpu.task = t
    vcpu.task_since_ns = now
    vcpu.rng = task.rng
    vcpu.burst = task.burst
    vcpu.burst_left_ns = task.burst_left_ns
    vcpu.pc = task.pc
    vcpu.loop_left = task.loop_left
    w.vm[vcpu.vm].guest_switches += 1


@jit
def _switch(w: World, v: int, now: int) -> None:
    """The running guest goes on with its first runnable task, after the switch, or halts without one."""
    vcpu = w.vcpu[v]
    if vcpu.run_head == NONE:
        activity.halt(w, v, now)
        return
    _load_next(w, v, now)
    vcpu.ring0 = 1
    vcpu.act = ACT_COMPUTE
    vcpu.t_end_ns = account.guest_from(vcpu, now) + w.par[0].guest_switch_ns
    activity.set_event(w, v)


@jit
def slice_ended(w: World, v: int, now: int) -> bool:
    """At the end of a phase, with others runnable: True when the task has had its slice and gives way."""
    vcpu = w.vcpu[v]
    if now - vcpu.task_since_ns < SLICE_NS * w.par[0].unit_ns:
        return False
    t = int64(vcpu.task)
    _save(w, v, TASK_RUNNABLE)
    _append(w, t)
    _switch(w, v, now)
    return True


@jit
def sleep(w: World, v: int, until_ns: int, now: int) -> None:
    """The task of the running vCPU waits for a timer."""
    t = int64(w.vcpu[v].task)
    _save(w, v, TASK_WAITS)
    w.task[t].wake_ns = until_ns
    events.set_time(w, int64(w.task[t].leaf), until_ns)
    _switch(w, v, now)


@jit
def timer_ended(w: World, t: int) -> None:
    """Clear the timer of a task."""
    w.task[t].wake_ns = INF
    events.set_time(w, int64(w.task[t].leaf), INF)


@jit
def wait_at(w: World, v: int, gate: Gate, now: int) -> None:
    """The task of the running vCPU waits at a queue or barrier."""
    t = int64(w.vcpu[v].task)
    _save(w, v, TASK_WAITS)
    w.task[t].next = NONE
    if gate.tail == NONE:
        gate.head = t
    else:
        w.task[gate.tail].next = t
    gate.tail = t
    _switch(w, v, now)


@jit
def take_first(w: World, gate: Gate) -> int:
    """Take the first waiting task off a queue or barrier."""
    t = int64(gate.head)
    gate.head = w.task[t].next
    if gate.head == NONE:
        gate.tail = NONE
    return t


@jit
def is_idle(w: World, v: int) -> bool:
    """True when the guest of `v` has no task to run."""
    return w.vcpu[v].task == NONE


@jit
def wake(w: World, t: int, now: int) -> None:
    """A task is runnable. On an idle vCPU it is next, after the switch; the vCPU is woken."""
    _append(w, t)
    v = int64(w.task[t].home)
    vcpu = w.vcpu[v]
    if vcpu.task != NONE:
        return
    _load_next(w, v, now)
    vcpu.ring0 = 1
    activity.release(w, v, now)
    vcpu.t_end_ns += w.par[0].guest_switch_ns
    if w.pcpu[vcpu.pcpu].curr == v:
        activity.set_event(w, v)
