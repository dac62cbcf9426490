"""Every invariant of a world, for tests and a debug mode: `violation` at any time, `advance_checked` after each step.

Nothing here writes to a world. The checks restate from scratch what the rest of core/ keeps incrementally (counts,
lists, leaves, sums), so they are slow on large hosts. They hold between any two steps of the engine: while a pCPU is
listed to reschedule, or a spin exit awaits its answer, what that step will settle is not looked at.
"""

from __future__ import annotations

from kvmgym.core import engine
from kvmgym.core.check import guest, host, tasks
from kvmgym.core.check.violations import OVERHEAD_SUM, READY_SUM, TIME_BACK, at
from kvmgym.core.jit import jit
from kvmgym.core.layout import GOING_ON, NO, READY
from kvmgym.core.memory import World, carve
from kvmgym.core.records import Bytes, PolicyFunction


@jit
def violation(w: World) -> int:
    """The first invariant that world `w` breaks: 0, or code + 1000 * index (violations.describe)."""
    fault = host.clock(w)
    if fault == 0:
        fault = host.pcpu_lists(w)
    for p in range(w.par[0].pcpus):
        if fault == 0:
            fault = host.pcpu(w, p)
    if fault == 0:
        fault = host.run_queues(w)
    for v in range(w.par[0].vcpus):
        if fault == 0:
            fault = host.placement(w, v)
        if fault == 0:
            fault = guest.vcpu(w, v)
        if fault == 0:
            fault = tasks.run_queue(w, v)
    for k in range(w.par[0].locks):
        if fault == 0:
            fault = guest.lock(w, k)
    for k in range(w.par[0].gates):
        if fault == 0:
            fault = guest.gate(w, k)
        if fault == 0:
            fault = tasks.gate(w, k)
    for t in range(w.par[0].tasks):
        if fault == 0:
            fault = tasks.timer(w, t)
    for g in range(w.par[0].vms):
        if fault == 0:
            fault = guest.vm(w, g)
    return _sums(w) if fault == 0 else fault


@jit
def _sums(w: World) -> int:
    """Overhead and waiting are the same whether summed over pCPUs or over vCPUs."""
    now = w.host[0].now_ns
    overhead = 0
    ready = 0
    for p in range(w.par[0].pcpus):
        pcpu = w.pcpu[p]
        overhead += pcpu.overhead_ns
        ready += pcpu.ready_integral_ns + pcpu.nr_ready * (now - pcpu.ready_since_ns)
    for v in range(w.par[0].vcpus):
        vcpu = w.vcpu[v]
        overhead -= vcpu.overhead_ns
        ready -= vcpu.ready_ns + (now - vcpu.state_since_ns if vcpu.state == READY else 0)
    if overhead != 0:
        return at(OVERHEAD_SUM, 0)
    return 0 if ready == 0 else at(READY_SUM, 0)


@jit
def advance_checked(w: World, until_ns: int, policy: PolicyFunction) -> tuple[int, int]:
    """engine.advance to `until_ns` with `violation` after each step. Returns (status, violation): with a violation the
    status is GOING_ON and host.now_ns the time when it was found."""
    status = GOING_ON
    fault = violation(w)
    floors = host.floors(w)
    while fault == 0 and status == GOING_ON:
        before_ns = w.host[0].now_ns
        status = engine.step(w, until_ns, policy, NO)
        fault = violation(w) if w.host[0].now_ns >= before_ns else at(TIME_BACK, 0)
        if fault == 0:
            fault = host.min_vruntimes(w, floors)
    return status, fault


@jit
def violation_row(state: Bytes, static: Bytes) -> int:
    """`violation` for one row of bytes."""
    return violation(carve(state, static))


@jit
def advance_checked_row(state: Bytes, static: Bytes, until_ns: int, policy: PolicyFunction) -> tuple[int, int]:
    """`advance_checked` for one row of bytes."""
    return advance_checked(carve(state, static), until_ns, policy)
