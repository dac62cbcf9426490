"""What a host can see at a spin exit, as numbers of about 1: no normaliser is needed.

An observation is about the spinner's VM: GLOBALS about the spinner, its VM and its host, then VCPU_FIELDS for each vCPU
of the VM. VCPU_FIELDS and GLOBALS are the one declaration: the spaces, the documentation and the tests are made from
them. PRIVILEGED fields see the guest; they are written only when asked for. Times are on a logarithmic scale from 1 µs
(0) to 1 s (1); logarithms here are linear between powers of two. Left out: what the host cannot see (locks, pending
IPIs in the guest), other VMs' vCPUs by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kvmgym.codes import TRACK_OFF, places
from kvmgym.core import shown
from kvmgym.core.host import kvm
from kvmgym.core.jit import face_jit
from kvmgym.core.layout import NONE, READY, RUNNING
from kvmgym.core.memory import World
from kvmgym.core.records import Numbers
from kvmgym.policies.kernel import may_try, sent_lately


@dataclass(frozen=True)
class Field:
    """One number of an observation. unit: what it is in; source: where the kernel has it."""

    name: str
    low: float
    high: float
    unit: str
    meaning: str
    source: str


def _flag(name: str, meaning: str, source: str) -> Field:
    return Field(name, 0.0, 1.0, "0 or 1", meaning, source)


def _age(name: str, meaning: str, source: str) -> Field:
    return Field(name, 0.0, 1.0, "log2(1 + t/µs) / 20", meaning, source)


_VCPU, _FAIR = "struct kvm_vcpu", "kernel/sched/fair.c"

GLOBALS: tuple[Field, ...] = (
    Field("window", 0.0, 1.0, "log2(w/base) / 16", "pause-loop window", "vmx.c, ple_window"),
    Field("exits", 0.0, 1.0, "log2(1 + n) / 16", "pause-loop exits of this spin before this one", "vcpu->stat"),
    _flag("kernel_mode", "the exit passes yield_to_kernel_mode", "kvm_vcpu_on_spin"),
    Field("tries", 0.0, 1.0, "of 3", "-ESRCH results that are still allowed", "kvm_vcpu_on_spin"),
    Field("attempts", 0.0, 1.0, "of 16", "attempts made in this exit", "kvm_vcpu_on_spin"),
    Field("vcpus", 0.0, 1.0, "of 128", "vCPUs of the VM", "kvm->online_vcpus"),
    Field("runnable", 0.0, 1.0, "of the VM's vCPUs", "vCPUs that run or want to", "nr_runnable of its groups"),
    Field("load", 0.0, 1.0, "of the VM's vCPUs", "decayed average of that", "tg->load_avg"),
    Field("queue", 0.0, 1.0, "of 8", "tasks queued at the spinner's pCPU", "rq->nr_running"),
    Field("lag", -1.0, 1.0, "slices, at most 4, / 4", "lag of the spinner, as below", f"{_FAIR}, entity_lag"),
    Field("idle", 0.0, 1.0, "of the pCPUs", "idle pCPUs of the host", "nohz.nr_cpus"),
    _flag("apicv", "interrupts are virtualised", "kvm_vcpu_apicv_active"),
    _flag("ipi_tracking", "IPIs of this VM are tracked", "the series, ipi_tracking_enabled"),
)

VCPU_FIELDS: tuple[Field, ...] = (
    _flag("exists", "1 for a vCPU, 0 for padding", "-"),
    _flag("me", "the spinner", "-"),
    _flag("running", "on a pCPU", "task_on_cpu"),
    _flag("ready", "preempted, or woken and not yet run", f"{_VCPU}, ready"),
    _flag("preempted", "descheduled while runnable", f"{_VCPU}, preempted"),
    _flag("in_kernel", "preempted in ring 0, as latched then", "preempted_in_kernel"),
    _flag("blocking", "halted", f"{_VCPU}, rcuwait"),
    _flag("pending_interrupt", "an interrupt is posted (APICv)", "dy_apicv_has_pending_interrupt"),
    _flag("ipi_from_me", "my tracked IPI to it is recent and not acknowledged", "the series, last_ipi_receiver"),
    _age("ipi_age", "age of that IPI; 1 without one", "the series"),
    _flag("ipi_to_me", "its tracked IPI to me is recent and not acknowledged", "the series"),
    _flag("in_spin_loop", "in the spin-exit handler, or descheduled within it", f"{_VCPU}, spin_loop"),
    _flag("dy_eligible", "eligible although it spins", f"{_VCPU}, spin_loop"),
    _age("waiting", "for how long it is ready; 0 when it is not", "sched_info, last_queued"),
    Field(
        "lag",
        -1.0,
        1.0,
        "slices, at most 4, / 4",
        "least V - vruntime over its queue and its group's",
        f"{_FAIR}, entity_lag",
    ),
    Field(
        "deadline",
        -1.0,
        1.0,
        "slices, at most 4, / 4",
        "deadline - V of its group in the pCPU's queue; on CFS vruntime - V, and a slice is the latency",
        f"{_FAIR}, se->deadline",
    ),
    _flag("same_pcpu", "queued at the spinner's pCPU", "task_cpu"),
    Field("queue", 0.0, 1.0, "of 8", "tasks queued at its pCPU", "rq->nr_running"),
    _age("boosted", "time since a yield to it succeeded", "-"),
    _flag("last_boosted", "last_boosted_vcpu", "struct kvm, last_boosted_vcpu"),
    _flag("tried", "was tried in this exit and failed", "kvm_vcpu_on_spin"),
)

PRIVILEGED: tuple[Field, ...] = (
    _flag("awaited", "privileged: the spinner truly waits for it", "the guest"),
    _flag("holds_lock", "privileged: holds a spin lock", "the guest"),
)

G, F, F_ALL = len(GLOBALS), len(VCPU_FIELDS), len(VCPU_FIELDS) + len(PRIVILEGED)
OF_SPINNER = places(field.name for field in GLOBALS)
OF_VCPU = places(field.name for field in (*VCPU_FIELDS, *PRIVILEGED))
_PER_OCTAVE = 0.05  # 1 s is nearly 2^20 µs
_QUARTER = 0.25
_BITS_OF_ONE, _PER_BIT = 1023 << 52, 2.0**-52  # a float64 has its exponent, 1023 for 1.0, above 52 bits


@face_jit
def _log2(x: float) -> float:
    """log2 of a number of 1 or more, linear between powers of two: what the bits of a float are, as a number."""
    return (np.float64(x).view(np.int64) - _BITS_OF_ONE) * _PER_BIT


@face_jit
def _age_of(ns: int) -> float:
    """log2(1 + t/µs) / 20, at most 1."""
    if ns <= 0:
        return 0.0
    return min(_log2(1.0 + ns * 1e-3) * _PER_OCTAVE, 1.0)


@face_jit
def _clip(x: float) -> float:
    return min(max(x, -1.0), 1.0)


@face_jit
def write_mask(w: World, mask: Numbers) -> int:
    """The action mask of the open spin exit, bool [V + 1]: targets, then "no yield" (always allowed). Returns how many
    targets are possible."""
    ask = w.ask[0]
    vm = w.vm[ask.vm]
    last = mask.size - 1
    count = 0
    for i in range(last):
        mask[i] = False
        if i < vm.vcpus:
            if ask.tries > 0 and may_try(w.vcpu[vm.first + i], ask.me, i, ask):
                mask[i] = True
                count += 1
    mask[last] = True
    return count


@face_jit
def write(w: World, out: Numbers, privileged: int) -> None:
    """Write the observation of the open spin exit into float32 [G + V*F] (F_ALL with `privileged`): the globals, then a
    row for each vCPU; rows past the VM's vCPUs are 0. Reads the world only."""
    ask, par, host = w.ask[0], w.par[0], w.host[0]
    vm = w.vm[ask.vm]
    me = w.vcpu[vm.first + ask.me]
    now = ask.now_ns
    per_slice = _QUARTER / par.slice_ns
    home = w.pcpu[me.pcpu]
    per_vcpu = 1.0 / vm.vcpus
    out[OF_SPINNER.window] = min(_log2(me.ple_window_ns / par.ple_window_ns) / 16, 1.0)
    out[OF_SPINNER.exits] = min(_log2(float(max(me.spin_exits, 1))) / 16, 1.0)
    out[OF_SPINNER.kernel_mode] = ask.yield_to_kernel_mode
    out[OF_SPINNER.tries] = max(ask.tries, 0) / kvm.TRIES
    out[OF_SPINNER.attempts] = min(ask.attempt / 16, 1.0)
    out[OF_SPINNER.vcpus] = min(vm.vcpus / 128, 1.0)
    out[OF_SPINNER.runnable] = vm.nr_runnable * per_vcpu
    out[OF_SPINNER.load] = min(vm.load_x1024 * per_vcpu / 1024, 1.0)
    out[OF_SPINNER.queue] = min(home.nr_running / 8, 1.0)
    out[OF_SPINNER.lag] = _clip(shown.lag_ns(w, vm.first + ask.me) * per_slice)
    out[OF_SPINNER.idle] = host.idle_nr / par.pcpus
    out[OF_SPINNER.apicv] = vm.apicv
    out[OF_SPINNER.ipi_tracking] = vm.ipi_tracking != TRACK_OFF
    awaited = NONE
    if privileged:
        awaited = shown.waits_for(w, vm.first + ask.me)
    width = F_ALL if privileged else F
    out[G + vm.vcpus * width :] = 0
    for i in range(vm.vcpus):
        row = out[G + i * width : G + (i + 1) * width]
        v = vm.first + i
        vcpu = w.vcpu[v]
        ready = vcpu.state == READY
        row[OF_VCPU.exists] = 1
        row[OF_VCPU.me] = i == ask.me
        row[OF_VCPU.running] = vcpu.state == RUNNING
        row[OF_VCPU.ready] = vcpu.ready
        row[OF_VCPU.preempted] = vcpu.preempted
        row[OF_VCPU.in_kernel] = vcpu.preempted & vcpu.preempted_in_kernel
        row[OF_VCPU.blocking] = vcpu.blocking
        row[OF_VCPU.pending_interrupt] = vcpu.pending_interrupt
        to_it = sent_lately(vm, me, i, now)
        row[OF_VCPU.ipi_from_me] = to_it
        row[OF_VCPU.ipi_age] = _age_of(now - me.ipi_time_ns) if to_it else 1.0
        row[OF_VCPU.ipi_to_me] = sent_lately(vm, vcpu, ask.me, now)
        row[OF_VCPU.in_spin_loop] = vcpu.in_spin_loop
        row[OF_VCPU.dy_eligible] = vcpu.dy_eligible
        row[OF_VCPU.waiting] = _age_of(now - vcpu.ready_since_ns) if ready else 0.0
        row[OF_VCPU.lag] = 0
        row[OF_VCPU.deadline] = 0
        if ready:
            lag, ahead = shown.standing(w, v)
            row[OF_VCPU.lag] = _clip(lag * per_slice)
            row[OF_VCPU.deadline] = _clip(ahead * per_slice)
        row[OF_VCPU.same_pcpu] = vcpu.pcpu == me.pcpu
        row[OF_VCPU.queue] = min(w.pcpu[vcpu.pcpu].nr_running / 8, 1.0)
        row[OF_VCPU.boosted] = _age_of(now - vcpu.boosted_ns)
        row[OF_VCPU.last_boosted] = vm.last_boosted_vcpu == i
        row[OF_VCPU.tried] = vcpu.tried_serial == ask.serial
        if privileged:
            row[OF_VCPU.awaited] = v == awaited
            row[OF_VCPU.holds_lock] = vcpu.holds > 0
