"""The scheduler tick of a busy pCPU.

Models kernel/sched/fair.c, task_tick_fair, and the balancing that a tick starts.
"""

from __future__ import annotations

from kvmgym.core import account
from kvmgym.core.host import balance, fair, queues
from kvmgym.core.jit import jit
from kvmgym.core.memory import World


@jit
def start_ticks(w: World, p: int, now: int) -> None:
    """The next tick of a pCPU that leaves idleness, on its own grid."""
    pcpu, period = w.pcpu[p], w.par[0].tick_ns
    pcpu.next_tick_ns = now + period - (now - pcpu.tick_offset_ns) % period


@jit
def tick(w: World, p: int, now: int) -> None:
    """The scheduler tick of a busy pCPU: charge, see the end of slices, spread what waits (task_tick_fair)."""
    pcpu, par = w.pcpu[p], w.par[0]
    pcpu.next_tick_ns += par.tick_ns
    if fair.tick(w, p, now):
        queues.request_resched(w, p)
    if w.vm[w.vcpu[pcpu.curr].vm].is_task == 0:
        account.charge(w, pcpu.curr, par.exit_ns, now)
    if par.balance:
        balance.at_tick(w, p, now)
