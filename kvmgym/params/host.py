"""The host: pCPUs, scheduler switches, costs of what KVM does, and pause-loop exits.

The defaults are those of docs on the model: marks V (read in a primary source), D (arithmetic on V), R (recalled),
A (assumed). Left out: frequency scaling, hyperthreads, NUMA distances.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any

from kvmgym.codes import DEBOOSTS, FORFEITS, KERNEL_MODES, SCHEDULERS, STARTS
from kvmgym.params.dist import scale_fields
from kvmgym.params.errors import (
    MAX_NS,
    check,
    fail,
    flags,
    instances,
    integer_choice,
    integers,
    lookup,
    numbers,
    set_field,
)
from kvmgym.params.kernels import KERNELS, NEWEST, PARTS, default_of, kernel_part
from kvmgym.params.switches import check_switches, switch

HZ = (100, 250, 300, 1000)


def _cost(default: Any, mark: str, allowed: str, doc: str) -> Any:
    return field(default=default, metadata={"mark": mark, "range": allowed, "doc": doc})


@dataclass(frozen=True)
class Costs:
    """What the host's and the guest's privileged steps cost, in ns; each field's metadata has mark, range and doc.

    The range is where the true value may lie, for sensitivity studies; any value of 0 or more is accepted.
    """

    exit_ns: int = _cost(500, "R", "350-800", "VM exit and entry")
    ple_exit_ns: int = _cost(1_000, "R", "800-3000", "pause-loop exit that finds no target, without the scan")
    scan_ns: int = _cost(30, "A", "15-60", "each vCPU that the spin handler looks at")
    yield_ns: int = _cost(2_000, "A", "1000-5000", "successful yield_to, on the yielder")
    yield_target_ns: int = _cost(1_500, "A", "1000-5000", "successful yield_to, on the target's pCPU")
    ipi_ns: int = _cost(1_700, "V", "1700-2500", "guest IPI with an emulated exit, target in the guest")
    broadcast_physical_ns: int = _cost(2_500, "D", "1700-2500", "broadcast one unicast after the other, a target")
    broadcast_ns: int = _cost(1_000, "D", "500-2000", "broadcast by cluster or hypercall, a target")
    ipi_apicv_ns: int = _cost(1_400, "V", "1400-1900", "guest IPI with IPI virtualisation, no exit")
    pv_flush_ns: int = _cost(200, "A", "100-500", "TLB flush that a vCPU was left as a flag, when it is entered")
    guest_switch_ns: int = _cost(1_500, "A", "1000-3000", "guest's switch to another task of the same vCPU")
    irq_handler_ns: int = _cost(1_000, "A", "500-2000", "guest handler of an IPI (flush)")
    switch_ns: int = _cost(2_000, "V, R", "1200-4000", "switch of the vCPU on a pCPU")
    halt_ns: int = _cost(6_000, "V", "5000-8000", "halt, block and wake beyond polling")
    wake_ns: int = _cost(2_000, "A", "1000-4000", "the part of halt_ns until an idle pCPU picks a woken vCPU")
    rewarm_ns_at_1mib: int = _cost(
        48_000, "weak", "16000-144000", "cache re-warm after another VM ran, for a working set of 1 MiB"
    )
    rewarm_share: float = _cost(0.125, "A", "0.06-0.25", "re-warm is at most this share of the time away")

    def __post_init__(self) -> None:
        integers(self, 0, MAX_NS, *(item.name for item in fields(self) if item.name != "rewarm_share"))
        numbers(self, 0, 1, "rewarm_share")

    @classmethod
    def zero(cls) -> Costs:
        """All costs 0, for checks against closed forms."""
        return cls(**{item.name: 0 for item in fields(cls)})


@dataclass(frozen=True)
class Ple:
    """How hardware turns a spin into an exit, and what the exit passes to kvm_vcpu_on_spin. The default is Intel's.

    window_ns: the base window (4096 cycles at 2.5 GHz). grow: each exit multiplies the window by this; 0 resets it
    to the base. shrink: divides it when the vCPU was descheduled; 0 resets it to the base. max_ns: its upper end.
    user_exits: spins in user mode exit too. kernel_mode: the exit's yield_to_kernel_mode is true "always", when the
    spinner was in "ring0", or "never". names_holder: a spin for a lock names the lock's holder instead of asking the
    policy (s390 diag 0x9c). PLE_PRESETS has the machines. Source: arch/x86/kvm/vmx/vmx.c and svm/svm.c, module
    parameters ple_* and pause_filter_*; arch/arm64/kvm/handle_exit.c; arch/s390/kvm/diag.c.
    """

    enabled: bool = True
    window_ns: int = 1_638
    grow: int = 2
    shrink: int = 0
    max_ns: int = 4_294_967_295 * 400 // 1000
    user_exits: bool = False
    kernel_mode: str = switch(KERNEL_MODES, "always")
    names_holder: bool = False

    def __post_init__(self) -> None:
        flags(self, "enabled", "user_exits", "names_holder")
        check_switches(self)
        integers(self, 1, MAX_NS, "window_ns", "max_ns")
        integers(self, 0, 2**31 - 1, "grow", "shrink")
        check(self.max_ns >= self.window_ns, "Ple.max_ns", self.max_ns, f"window_ns ({self.window_ns}) or more")


# What each machine's spin exit is. AMD: a filter of 3000 PAUSEs of 52 cycles (40-65, R) at 2.5 GHz, at most 65535.
# arm64: a WFE traps about when it would wait (A: 1 µs), without growth. s390: the guest's lock code gives up after a
# fixed number of retries (A: 10 µs) and names the holder; other spins are diag 0x44.
PLE_PRESETS: Mapping[str, Ple] = MappingProxyType(
    {
        "intel": Ple(),
        "amd": Ple(window_ns=62_400, max_ns=1_363_128, user_exits=True, kernel_mode="ring0"),
        "arm64": Ple(window_ns=1_000, grow=1, max_ns=1_000, user_exits=True, kernel_mode="ring0"),
        "s390": Ple(window_ns=10_000, grow=1, max_ns=10_000, names_holder=True),
    }
)


@dataclass(frozen=True)
class HaltPoll:
    """Adaptive halt polling: a halted vCPU stays on its pCPU for a while if nobody else wants to run there.

    max_ns: longest poll; 0 turns polling off (the kernel's default is 200 µs). grow: a poll that was too short
    multiplies the vCPU's interval by this, from grow_start_ns on; shrink: a block longer than max_ns divides it, 0 sets
    it to 0. Source: virt/kvm/kvm_main.c, kvm_vcpu_halt, grow_halt_poll_ns, shrink_halt_poll_ns.
    """

    max_ns: int = 0
    grow: int = 2
    grow_start_ns: int = 10_000
    shrink: int = 2

    def __post_init__(self) -> None:
        integers(self, 0, MAX_NS, "max_ns")
        integers(self, 1, MAX_NS, "grow_start_ns")
        integers(self, 0, 2**31 - 1, "grow", "shrink")


@dataclass(frozen=True)
class Host:
    """A host of `pcpus` pCPUs with the run queues of a fair scheduler.

    kernel: a name of kvmgym.params.kernels, whose values scheduler, forfeit, pick_buddy, delay_dequeue,
    charge_before_wakeup and alt_period have unless they are given; None is the newest. (A host that is there already
    goes to another kernel by `on_kernel`.) hz: ticks a second, 100, 250, 300 or 1000. slice_ns: base slice; None takes
    the kernel's rule. The flags are the scheduler features of the same name; group_scheduling gives every VM its own
    cgroup. scheduler: "eevdf" or "cfs". Of EEVDF alone are slice_ns, run_to_parity, place_lag, delay_dequeue,
    preempt_short, pick_buddy, next_buddy, forfeit, charge_before_wakeup (what runs is charged before the wakeup of a
    task that stayed queued is judged) and the series' scheduler half; of CFS alone latency_ns, min_granularity_ns and
    wakeup_granularity_ns (None takes the kernel's rule) and alt_period (since 5.13: a slice's period counts all tasks
    of the pCPU, and no slice is below the minimum granularity). forfeit: what a yielder gives up, as of Linux "6.19" or
    "pre-6.19", or "none". yield_deboost: the scheduler half of the series: the
    debooster of "v1" or "v2", the lag credit of "v3", or "none". lag_credit_scale: v3's credit in slices for
    each other queued entity (the published text leaves the scale open; this one is ours). lag_credit_across: the credit
    reaches targets on other pCPUs too, which v3 leaves to the future. llc_pcpus: pCPUs that share a last-level cache.
    start: "aligned" ticks and slices, or "random" offsets drawn from the seed. tick_scale: multiplies the tick, set by
    Scenario.scaled.
    """

    pcpus: int = 16
    hz: int = 1000
    slice_ns: int | None = None
    costs: Costs = field(default=Costs(), metadata={"table": True})
    ple: Ple = field(default=Ple(), metadata={"table": True})
    halt_poll: HaltPoll = field(default=HaltPoll(), metadata={"table": True})
    group_scheduling: bool = True
    run_to_parity: bool = True
    place_lag: bool = True
    delay_dequeue: bool = kernel_part()
    wakeup_preemption: bool = True
    preempt_short: bool = True
    pick_buddy: bool = kernel_part()
    next_buddy: bool = False
    forfeit: str = kernel_part(FORFEITS)
    yield_deboost: str = switch(DEBOOSTS, "none")
    lag_credit_scale: float = 0.25
    lag_credit_across: bool = False
    balance: bool = True
    balance_interval_ns: int = 32_000_000
    migration_cost_ns: int = 500_000
    llc_pcpus: int = 16
    start: str = switch(STARTS, "aligned")
    tick_scale: int = 1
    kernel: str | None = None
    scheduler: str = kernel_part(SCHEDULERS)
    charge_before_wakeup: bool = kernel_part()
    alt_period: bool = kernel_part()
    latency_ns: int | None = None
    min_granularity_ns: int | None = None
    wakeup_granularity_ns: int | None = None

    def __post_init__(self) -> None:
        if self.kernel is not None:
            check(isinstance(self.kernel, str), "Host.kernel", self.kernel, "a kernel's name")
            lookup("Host.kernel", "kernel", self.kernel, KERNELS)
        for name in PARTS:
            if getattr(self, name) is None:
                set_field(self, name, getattr(KERNELS[self.kernel or NEWEST], name))
        integers(self, 1, 512, "pcpus", "llc_pcpus")
        integer_choice(self, "hz", HZ)
        for name in ("slice_ns", "latency_ns", "min_granularity_ns", "wakeup_granularity_ns"):
            if getattr(self, name) is not None:
                integers(self, 1, MAX_NS, name)
        instances(self, "costs", Costs, "Costs")
        instances(self, "ple", Ple, "a Ple")
        instances(self, "halt_poll", HaltPoll, "a HaltPoll")
        flags(self, "group_scheduling", "run_to_parity", "place_lag", "delay_dequeue", "wakeup_preemption")
        flags(self, "preempt_short", "pick_buddy", "next_buddy", "balance", "lag_credit_across")
        flags(self, "charge_before_wakeup", "alt_period")
        check_switches(self)
        if self.scheduler == "cfs" and self.yield_deboost != "none":
            fail(
                "Host.yield_deboost", self.yield_deboost, '"none" on CFS: the scheduler half of the series is for EEVDF'
            )
        numbers(self, 0, 4, "lag_credit_scale")
        integers(self, 1, MAX_NS, "balance_interval_ns")
        integers(self, 0, MAX_NS, "migration_cost_ns")
        integers(self, 1, 10**6, "tick_scale")

    @property
    def base_slice_ns(self) -> int:
        """slice_ns, or 0.7 ms times 1 + floor(log2(min(pcpus, 8))). Source: kernel/sched/fair.c."""
        return self.slice_ns if self.slice_ns is not None else 700_000 * min(self.pcpus, 8).bit_length()

    def _by_cpus(self, given: int | None, one_cpu_ns: int) -> int:
        return given if given is not None else one_cpu_ns * min(self.pcpus, 8).bit_length()

    @property
    def sched_latency_ns(self) -> int:
        """CFS: latency_ns, or 6 ms times 1 + floor(log2(min(pcpus, 8)))."""
        return self._by_cpus(self.latency_ns, 6_000_000)

    @property
    def sched_min_granularity_ns(self) -> int:
        """CFS: min_granularity_ns, or 0.75 ms by the same rule."""
        return self._by_cpus(self.min_granularity_ns, 750_000)

    @property
    def sched_wakeup_granularity_ns(self) -> int:
        """CFS: wakeup_granularity_ns, or 1 ms by the same rule."""
        return self._by_cpus(self.wakeup_granularity_ns, 1_000_000)

    @property
    def turn_ns(self) -> int:
        """What virtual times of the scheduler are compared with: EEVDF's base slice, CFS's latency."""
        return self.base_slice_ns if self.scheduler == "eevdf" else self.sched_latency_ns

    @property
    def tick_ns(self) -> int:
        """Time between two ticks of a pCPU."""
        return 10**9 // self.hz * self.tick_scale

    def on_kernel(self, name: str) -> Host:
        """The host under another kernel; what was set by itself stays. ValueError for an unknown one."""
        own = {each.name for each in fields(self) if getattr(self, each.name) != default_of(self, each)}
        parts: dict[str, Any] = {part: None for part in PARTS if part not in own}
        return replace(self, kernel=name, **parts)

    def scaled(self, factor: int) -> Host:
        """The host with every time multiplied; what follows from the number of pCPUs becomes explicit."""
        times = {"slice_ns": self.base_slice_ns}
        if self.scheduler == "cfs":
            times |= {
                "latency_ns": self.sched_latency_ns,
                "min_granularity_ns": self.sched_min_granularity_ns,
                "wakeup_granularity_ns": self.sched_wakeup_granularity_ns,
            }
        explicit = {name: time * factor for name, time in times.items()}
        return scale_fields(self, factor, tick_scale=self.tick_scale * factor, **explicit)
