"""Where the time goes: states of vCPUs, overhead of pCPUs, waiting, latencies and the trace.

Everything here is exact in integer ns, so that conservation (run + ready + blocked = T for a vCPU, busy + idle +
overhead = T for a pCPU) and Little's law can be checked without a tolerance.
"""

from __future__ import annotations

from kvmgym.core.jit import jit
from kvmgym.core.layout import (
    ACT_COMPUTE,
    ACT_HALT,
    ACT_SEND,
    HIST_BINS,
    HIST_OCTAVES,
    HIST_STEPS,
    HISTS,
    HOST_FIELDS,
    LOCK_FIELDS,
    NONE,
    PCPU_FIELDS,
    READY,
    RUNNING,
    VCPU_FIELDS,
    VM_FIELDS,
)
from kvmgym.core.memory import World, clearing
from kvmgym.core.records import Lock, Vcpu


@jit
def note(w: World, kind: int, v: int, arg: int) -> None:
    """Add a row to the trace, when there is one; `arg` depends on `kind` (docs/trace.md)."""
    host = w.host[0]
    if w.par[0].trace_cap == 0:
        return
    if host.trace_len < w.par[0].trace_cap:
        row = w.trace[host.trace_len]
        row.time_ns = host.now_ns
        row.kind = kind
        row.vcpu = v
        row.arg = arg
    host.trace_len += 1


@jit
def count_ready(w: World, p: int, change: int, now: int) -> None:
    """Add `change` to the ready vCPUs of pCPU `p`, and the time since the last change to its integral."""
    pcpu = w.pcpu[p]
    pcpu.ready_integral_ns += pcpu.nr_ready * (now - pcpu.ready_since_ns)
    pcpu.ready_since_ns = now
    pcpu.nr_ready += change


@jit
def set_state(w: World, v: int, state: int, now: int) -> None:
    """Charge the time in the old state and enter the new one."""
    vcpu = w.vcpu[v]
    settle_state(w, v, now)
    if vcpu.state == READY:
        count_ready(w, vcpu.pcpu, -1, now)
    vcpu.state = state
    if state == READY:
        vcpu.ready_since_ns = now
        count_ready(w, vcpu.pcpu, 1, now)
    w.host[0].events += 1


@jit
def settle_state(w: World, v: int, now: int) -> None:
    """Charge the time in the present state up to `now`."""
    vcpu = w.vcpu[v]
    elapsed = now - vcpu.state_since_ns
    vcpu.state_since_ns = now
    if vcpu.state == RUNNING:
        vcpu.run_ns += elapsed
        w.vm[vcpu.vm].run_ns += elapsed
    elif vcpu.state == READY:
        vcpu.ready_ns += elapsed
    else:
        vcpu.blocked_ns += elapsed


@jit
def guest_from(vcpu: Vcpu, now: int) -> int:
    """When the guest of a running vCPU goes on: now, or the end of host work in progress [ns]."""
    return max(now, vcpu.overhead_until_ns)


@jit
def spinning(vcpu: Vcpu) -> bool:
    """True when the vCPU's activity is a spin (it may be off its pCPU or in a handler)."""
    return vcpu.act > ACT_SEND and vcpu.act < ACT_HALT


@jit
def spin_pause(w: World, vcpu: Vcpu, now: int) -> None:
    """Charge the spin of a running vCPU up to `now`; the caller says when it goes on."""
    if spinning(vcpu) and vcpu.in_irq == 0:
        spun = now - vcpu.spin_from_ns
        if spun > 0:
            vcpu.spin_ns += spun
            w.host[0].spin_ns += spun
            vcpu.spin_budget_ns -= spun
            vcpu.spin_from_ns = now


@jit
def add_overhead(w: World, vcpu: Vcpu, cost_ns: int) -> None:
    """Count host work on the pCPU of a vCPU; less than 0 takes back what was not done."""
    vcpu.overhead_ns += cost_ns
    w.pcpu[vcpu.pcpu].overhead_ns += cost_ns
    w.host[0].overhead_ns += cost_ns


@jit
def charge(w: World, v: int, cost_ns: int, now: int) -> None:
    """Delay the guest of a running vCPU by host work of `cost_ns`, after any host work in progress."""
    if cost_ns == 0:
        return
    vcpu = w.vcpu[v]
    spin_pause(w, vcpu, now)
    vcpu.overhead_until_ns = max(now, vcpu.overhead_until_ns) + cost_ns
    add_overhead(w, vcpu, cost_ns)
    if vcpu.in_irq:
        vcpu.irq_end_ns += cost_ns
    if vcpu.act == ACT_COMPUTE or vcpu.act == ACT_SEND:
        vcpu.t_end_ns += cost_ns
    elif vcpu.in_irq == 0:
        vcpu.spin_from_ns = vcpu.overhead_until_ns
        vcpu.resume_check = 1


@jit
def hist_bin(value_ns: int) -> int:
    """The bin of a latency: exact below 4 ns, then 4 linear steps an octave."""
    if value_ns < HIST_STEPS:
        return max(value_ns, 0)
    shift, rest = 0, value_ns // HIST_STEPS
    for half in (32, 16, 8, 4, 2, 1):
        if rest >> half:
            shift += half
            rest >>= half
    return min((shift + 1) * HIST_STEPS + (value_ns >> shift) - HIST_STEPS, HIST_OCTAVES * HIST_STEPS - 1)


@jit
def observe(w: World, vm: int, histogram: int, value_ns: int) -> None:
    """Count a latency in a histogram (HIST_*) of a VM."""
    w.hist[(vm * HISTS + histogram) * HIST_BINS + hist_bin(value_ns)] += 1


@jit
def count_waiting(lock: Lock, change: int, now: int) -> None:
    """Add `change` to the waiters of a lock, and the time since the last change to its integral."""
    lock.wait_integral_ns += lock.waiting * (now - lock.last_ns)
    lock.last_ns = now
    lock.waiting += change


@jit
def spun_since(vcpu: Vcpu, now: int) -> int:
    """Spin of a running vCPU up to `now` that spin_ns does not hold yet [ns]."""
    if vcpu.state == RUNNING and spinning(vcpu) and vcpu.in_irq == 0:
        return max(now - vcpu.spin_from_ns, 0)
    return now - now


@jit
def settle(w: World) -> None:
    """Bring every counter up to now, so that the sums are exact at this instant. Measuring changes no course: a spin
    that goes on keeps its start, and readers add `spun_since`."""
    now = w.host[0].now_ns
    for v in range(w.par[0].vcpus):
        vcpu = w.vcpu[v]
        settle_state(w, v, now)
        if vcpu.lhp_since_ns < now:
            w.vm[vcpu.vm].lhp_ns += now - vcpu.lhp_since_ns
            vcpu.lhp_since_ns = now
    for p in range(w.par[0].pcpus):
        pcpu = w.pcpu[p]
        count_ready(w, p, 0, now)
        elapsed = now - pcpu.curr_since_ns
        pcpu.curr_since_ns = now
        if pcpu.curr == NONE:
            pcpu.idle_ns += elapsed
        else:
            pcpu.used_ns += elapsed
    for k in range(w.par[0].locks):
        count_waiting(w.lock[k], 0, now)


_clear_host, _clear_pcpu, _clear_vm, _clear_vcpu, _clear_lock = (
    clearing(fields) for fields in (HOST_FIELDS, PCPU_FIELDS, VM_FIELDS, VCPU_FIELDS, LOCK_FIELDS)
)


@jit
def reset(w: World) -> None:
    """Start the measured window now: the counters that core/layout.py marks go to zero, but for the spin and host work
    still in progress, which are carried over."""
    settle(w)
    now = w.host[0].now_ns
    _clear_host(w.host[0])
    w.host[0].window_since_ns = now
    for v in range(w.par[0].vcpus):
        vcpu = w.vcpu[v]
        _clear_vcpu(vcpu)
        vcpu.spin_ns = -spun_since(vcpu, now)
        if vcpu.state == RUNNING:
            vcpu.overhead_ns = max(0, vcpu.overhead_until_ns - now)
    for p in range(w.par[0].pcpus):
        pcpu = w.pcpu[p]
        _clear_pcpu(pcpu)
        if pcpu.curr != NONE:
            pcpu.overhead_ns = w.vcpu[pcpu.curr].overhead_ns
    for g in range(w.par[0].vms):
        _clear_vm(w.vm[g])
    for k in range(w.par[0].locks):
        _clear_lock(w.lock[k])
    for i in range(w.par[0].vms * HISTS * HIST_BINS):
        w.hist[i] = 0
