"""Which pCPUs must pick anew, which are idle, and how a vCPU joins a run queue.

Models kernel/sched/core.c, resched_curr, and the joining half of enqueue_task_fair. The scheduler never calls back: it
lists a pCPU here, and the engine lets it pick between events.
"""

from __future__ import annotations

from kvmgym.core import events
from kvmgym.core.host import fair
from kvmgym.core.jit import jit
from kvmgym.core.layout import INF, NONE, POLL_ENDS, YES
from kvmgym.core.memory import World


@jit
def request_resched(w: World, p: int) -> None:
    """Put a pCPU at the end of the list of those that pick anew before time goes on (resched_curr)."""
    pcpu, host = w.pcpu[p], w.host[0]
    if pcpu.need_resched:
        return
    pcpu.need_resched = 1
    pcpu.resched_next = NONE
    if host.resched_head == NONE:
        host.resched_head = p
    else:
        w.pcpu[host.resched_tail].resched_next = p
    host.resched_tail = p


@jit
def next_resched(w: World) -> int:
    """Take the first pCPU off that list."""
    host = w.host[0]
    p = host.resched_head
    pcpu = w.pcpu[p]
    host.resched_head = pcpu.resched_next
    pcpu.need_resched = 0
    return p


@jit
def set_idle(w: World, p: int, idle: int) -> None:
    """Enter or leave the list of idle pCPUs, last in first out."""
    pcpu, host = w.pcpu[p], w.host[0]
    if pcpu.idle == idle:
        return
    pcpu.idle = idle
    if idle:
        pcpu.idle_prev = NONE
        pcpu.idle_next = host.idle_head
        if host.idle_head != NONE:
            w.pcpu[host.idle_head].idle_prev = p
        host.idle_head = p
        host.idle_nr += 1
    else:
        if pcpu.idle_prev != NONE:
            w.pcpu[pcpu.idle_prev].idle_next = pcpu.idle_next
        else:
            host.idle_head = pcpu.idle_next
        if pcpu.idle_next != NONE:
            w.pcpu[pcpu.idle_next].idle_prev = pcpu.idle_prev
        host.idle_nr -= 1


@jit
def count_empty(w: World, change: int) -> None:
    """Add `change` to the pCPUs without a vCPU, and the time since the last change to the idle time."""
    host = w.host[0]
    host.idle_ns += host.empty_nr * (host.now_ns - host.idle_since_ns)
    host.idle_since_ns = host.now_ns
    host.empty_nr += change


@jit
def allowed(w: World, v: int, p: int) -> bool:
    """True when vCPU `v` may run on pCPU `p`."""
    return (w.affin[v * w.par[0].affin_words + (p >> 5)] >> (p & 31)) & 1 == 1


@jit
def queue_of(w: World, v: int, p: int) -> int:
    """The queue that vCPU `v` joins on pCPU `p`: its VM's group there, or the root."""
    g = w.vcpu[v].vm
    if w.par[0].group_scheduling and not w.vm[g].is_task:
        return w.par[0].pcpus * (1 + g) + p
    return p


@jit
def attach(w: World, v: int, p: int, now: int, initial: int) -> None:
    """Queue a vCPU on pCPU `p`, whose current one is charged first."""
    if fair.update_curr(w, p, now):
        request_resched(w, p)
    w.vcpu[v].pcpu = p
    fair.enqueue(w, v, queue_of(w, v, p), now, initial)
    curr = w.pcpu[p].curr
    if curr != NONE and w.vcpu[curr].polling:  # a halt poll ends as soon as somebody else wants to run
        w.vcpu[curr].polling = POLL_ENDS
        w.pcpu[p].ev_ns = now
        events.set_time(w, p, now)


@jit
def go_idle(w: World, p: int) -> None:
    """Stop the ticks of a pCPU with nothing to run and list it as idle."""
    w.pcpu[p].next_tick_ns = INF
    set_idle(w, p, YES)
