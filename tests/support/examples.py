"""Scenarios that tests of invariants, determinism and golden trajectories share: small, and busy in every respect."""

from dataclasses import replace

from kvmgym.params import (
    KERNELS,
    PLE_PRESETS,
    Barrier,
    BarrierSpec,
    Block,
    Branch,
    Burst,
    Choose,
    Compute,
    Costs,
    Dist,
    Get,
    HaltPoll,
    Host,
    HostTask,
    Kick,
    Lock,
    LockSpec,
    Ops,
    Ple,
    Put,
    QueueSpec,
    Repeat,
    Role,
    Scenario,
    Shootdown,
    Unlock,
    Vm,
    Workload,
)

US, MS = 1_000, 1_000_000


def hold(lock, mean_us, irq_off=False):
    """Take a lock, work in ring 0, release it."""
    return Lock(lock, irq_off), Compute(Dist.exponential(mean_us * US), kernel_share=1.0), Unlock(lock)


def work(mean_us, share=0.5, bursty=False):
    """An exponential stretch of compute."""
    return Compute(Dist.exponential(mean_us * US), kernel_share=share, bursty=bursty)


def blocking(name="blocking"):
    """Locks of two kinds, shootdowns, kicks, blocks and bursts."""
    branches = (
        Branch(6, hold("hot", 3)),
        Branch(2, hold("user", 8)),
        Branch(1, (Shootdown(),)),
        Branch(1, (Kick(),)),
        Branch(1, (Block(Dist.exponential(30 * US)),)),
        Branch(1, (*hold("hot", 2, irq_off=True), Shootdown("busy"))),
    )
    locks = (LockSpec("hot", 2), LockSpec("user", kind="mutex"))
    program = (work(6, bursty=True), Choose(branches), Ops())
    return Workload(name, "", (Role("main", program),), locks, working_set_kib=256, burst=Burst(4.0, 200 * US))


def pipeline(name="pipeline"):
    """Two stages joined by a short queue; the second shoots down."""
    first = Role("first", (work(10), Put("items")))
    second = Role("second", (Get("items"), work(12), Shootdown("one"), *hold("hot", 2), Ops()))
    return Workload(name, "", (first, second), (LockSpec("hot"),), (QueueSpec("items", 2),))


def stepwise(name="stepwise", spin_us=10):
    """A barrier that is spun at, then blocked at, and a mutex."""
    program = (work(15), Barrier("step"), *hold("user", 3), Kick("next"), Ops())
    locks = (LockSpec("user", kind="mutex"),)
    return Workload(name, "", (Role("main", program),), locks, barriers=(BarrierSpec("step", spin_us * US),))


def scheduled(name="scheduled"):
    """Two stages for guests with more tasks than vCPUs: a queue, a barrier that is blocked at, locks, sleeps; now and
    then a stretch longer than a guest's slice."""
    rest = Choose((Branch(1, (Block(Dist.exponential(40 * US)),)), Branch(1, (Shootdown("busy"),)), Branch(2)))
    slow = Choose((Branch(1, (Repeat(30, (work(120), Ops())),)), Branch(20)))
    first = Role("first", (work(8), *hold("hot", 2), rest, Put("items"), Barrier("step")))
    second = Role("second", (Get("items"), work(10, bursty=True), slow, *hold("hot", 3, True), Ops(), Barrier("step")))
    return Workload(
        name,
        "",
        (first, second),
        (LockSpec("hot"),),
        (QueueSpec("items", 3),),
        (BarrierSpec("step"),),
        burst=Burst(4.0, 200 * US),
    )


HOG = HostTask("hog", Dist.exponential(200 * US), Dist.exponential(300 * US))
QUICK = Ple(window_ns=2 * US)


def mixed():
    """Three unlike VMs and a host task on 4 pCPUs."""
    guests = (
        Vm("locks", 4, blocking()),
        Vm("pipe", 4, pipeline(), ipi_mode="x2apic_cluster", ipi_tracking="v2", lock_kind="fifo", weight=2048),
        Vm("step", 4, stepwise(), ipi_mode="pv", cpus=(0, 1, 2)),
    )
    return Scenario("mixed", Host(pcpus=4, slice_ns=300 * US, ple=QUICK, start="random"), guests, (HOG,))


def crowded():
    """Two VMs with pvqspinlocks and large bursts pinned to 2 pCPUs, no group scheduling, no costs."""
    host = Host(2, slice_ns=200 * US, costs=Costs.zero(), ple=QUICK, group_scheduling=False, balance=False)
    guests = tuple(
        Vm(name, 4, blocking(), pin=(0, 1, 0, 1), lock_kind="pvq", pv_spin_ns=5 * US, ipi_mode=mode)
        for name, mode in (("a", "x2apic_physical"), ("b", "pv"))
    )
    return Scenario("crowded", host, guests)


def wide():
    """More vCPUs than bits in a word: one VM of 40 vCPUs on 6 pCPUs, beside a pipeline."""
    guests = (Vm("wide", 40, blocking(), lock_kind="tas"), Vm("pipe", 3, pipeline(), stream=7))
    host = Host(6, hz=250, slice_ns=100 * US, forfeit="pre-6.19", next_buddy=True, migration_cost_ns=0)
    return Scenario("wide", host, guests, (HOG,))


def old_kernel():
    """Features switched off one and all, PLE off."""
    names = ("run_to_parity", "place_lag", "delay_dequeue", "wakeup_preemption", "preempt_short", "pick_buddy")
    host = Host(3, ple=Ple(enabled=False), forfeit="none", slice_ns=150 * US, **dict.fromkeys(names, False))
    return Scenario("old-kernel", host, (Vm("locks", 5, blocking()), Vm("step", 3, stepwise())))


def broad():
    """More pCPUs than bits in a word, most of them idle; one VM is confined to six of them."""
    guests = (
        Vm("few", 20, blocking(), cpus=(1, 30, 31, 32, 33, 39)),
        Vm("step", 24, stepwise("steps"), lock_kind="fifo"),
    )
    return Scenario("broad", Host(40, ple=QUICK, slice_ns=300 * US, migration_cost_ns=20 * US), guests, (HOG,))


def paravirtual():
    """All that a guest and its host may tell each other, with virtualised interrupts, halt polling and the lag credit;
    the other VM sends through the LAPIC."""
    told = {"ipi_mode": "pv", "pv_tlb_flush": True, "pv_sched_yield": True, "apicv": True}
    guests = (
        Vm("told", 5, blocking(), lock_kind="pvq", pv_spin_ns=5 * US, **told),
        Vm("pipe", 3, pipeline(), lock_kind="pvq", pv_spin_ns=3 * US, pv_kick_yields=False, apicv=True),
    )
    host = Host(4, slice_ns=300 * US, ple=QUICK, halt_poll=HaltPoll(100 * US), yield_deboost="v3")
    return Scenario("paravirtual", host, guests, (HOG,))


def tasked():
    """Guests that schedule their own tasks, on a host with AMD's pause filter and the debooster; one hides its ring."""
    guests = (
        Vm("tasks", 3, scheduled(), tasks=8, lock_kind="fifo"),
        Vm("step", 3, stepwise("steps", spin_us=400), sev_es=True, ipi_tracking="v2"),
    )
    host = Host(2, slice_ns=200 * US, ple=PLE_PRESETS["amd"], yield_deboost="v2")
    return Scenario("tasked", host, guests)


def on_kernels():
    """The mixed example on each kernel, slices and granularities short enough to end within a few ms."""
    short = {"latency_ns": 1_200 * US, "min_granularity_ns": 150 * US, "wakeup_granularity_ns": 200 * US}
    given = {name: replace(mixed().host, **short).on_kernel(name) for name in KERNELS}
    return {f"mixed_on_{name}": replace(mixed(), host=host) for name, host in given.items()}


KERNEL_EXAMPLES = on_kernels()
EXAMPLES = {example.__name__: example() for example in (mixed, crowded, wide, old_kernel, broad, paravirtual, tasked)}
