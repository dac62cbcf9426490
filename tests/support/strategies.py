"""Hypothesis strategies for random scenarios that are valid and cannot deadlock.

Locks are taken in one order, and what switches interrupts off is never held across a shootdown; a workload has either
queues in a line or barriers that every role passes once a loop. Guests that schedule have neither mutexes nor spinning
barriers. So whatever happens, somebody can go on.
"""

from dataclasses import fields, replace

import numba
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from kvmgym.params import (
    DEBOOSTS,
    FORFEITS,
    HZ,
    IPI_MODES,
    IPI_TRACKING,
    KERNEL_MODES,
    KICK_TARGETS,
    PLE_PRESETS,
    SHOOTDOWN_TARGETS,
    SPIN_KINDS,
    STARTS,
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
from kvmgym.policies import POLICIES

US, MS = 1_000, 1_000_000
SWITCHES = ("group_scheduling", "run_to_parity", "place_lag", "delay_dequeue", "wakeup_preemption", "preempt_short",
            "pick_buddy", "next_buddy", "balance", "lag_credit_across", "charge_before_wakeup",
            "alt_period")  # fmt: skip
VM_SWITCHES = ("enable_relaxed_boost", "pv_kick_yields", "pv_tlb_flush", "pv_sched_yield", "apicv", "sev_es")
WEIGHTS = (2, 100, 1024, 1024, 5000, 262_144)


def many(n):
    """Settings for n examples, few where plain Python interprets them, which may take their time to draw."""
    n = max(2, n // 30) if numba.config.DISABLE_JIT else n
    return settings(max_examples=n, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


policies = st.sampled_from([policy.name for policy in POLICIES])
policies_without_deboost = st.sampled_from([policy.name for policy in POLICIES if policy.deboost is None])
seeds = st.integers(0, 2**32)


@st.composite
def dists(draw, least_ns=0, most_ns=50 * US):
    """Any kind of distribution with a mean between the bounds (a little above for the skewed ones)."""
    mean = draw(st.integers(max(least_ns, 1), most_ns))
    kind = draw(st.sampled_from(("constant", "exponential", "uniform", "lognormal")))
    if kind == "constant":
        return Dist.constant(mean)
    if kind == "exponential":
        return Dist.exponential(mean)
    if kind == "uniform":
        return Dist.uniform(mean // 2, mean + mean // 2)
    share = draw(st.sampled_from((0.0, 0.01)))
    return Dist.lognormal(mean, draw(st.sampled_from((0.5, 1.0))), share, 20 * US, 50 * US)


@st.composite
def costs(draw):
    """All costs zero, the defaults, or each its own."""
    kind = draw(st.sampled_from(("zero", "default", "random")))
    if kind == "zero":
        return Costs.zero()
    if kind == "default":
        return Costs()
    each = {item.name: draw(st.integers(0, 8 * US)) for item in fields(Costs) if item.name.endswith("_ns")}
    return Costs(**each, rewarm_ns_at_1mib=draw(st.integers(0, 100 * US)), rewarm_share=draw(st.floats(0, 1)))


@st.composite
def ples(draw):
    """A machine's pause-loop exits, or any, or none."""
    preset = draw(st.sampled_from((None, None, *PLE_PRESETS)))
    if preset is not None:
        return PLE_PRESETS[preset]
    window = draw(st.integers(300, 20 * US))
    return Ple(
        enabled=draw(st.sampled_from((True, True, True, False))),
        window_ns=window,
        grow=draw(st.integers(0, 3)),
        shrink=draw(st.integers(0, 3)),
        max_ns=window * draw(st.sampled_from((1, 5, 10**6))),
        user_exits=draw(st.booleans()),
        kernel_mode=draw(st.sampled_from(KERNEL_MODES)),
        names_holder=draw(st.booleans()),
    )


@st.composite
def halt_polls(draw):
    """No halt polling, the kernel's, or any."""
    kind = draw(st.sampled_from(("off", "kernel", "random")))
    if kind == "off":
        return HaltPoll()
    if kind == "kernel":
        return HaltPoll(200 * US)
    start = draw(st.integers(1, 100 * US))
    return HaltPoll(draw(st.integers(1, 500 * US)), draw(st.integers(0, 4)), start, draw(st.integers(0, 3)))


@st.composite
def hosts(draw, most_pcpus=8, scheduler="eevdf"):
    """Hosts of 1 to `most_pcpus` pCPUs with every switch on or off."""
    host = Host(
        pcpus=draw(st.integers(1, most_pcpus)),
        hz=draw(st.sampled_from(HZ)),
        slice_ns=draw(st.one_of(st.none(), st.integers(10 * US, 3 * MS))),
        costs=draw(costs()),
        ple=draw(ples()),
        halt_poll=draw(halt_polls()),
        forfeit=draw(st.sampled_from(FORFEITS)),
        yield_deboost=draw(st.sampled_from(DEBOOSTS)),
        lag_credit_scale=draw(st.sampled_from((0.0, 0.25, 1.0, 4.0))),
        balance_interval_ns=draw(st.integers(100 * US, 5 * MS)),
        migration_cost_ns=draw(st.sampled_from((0, 10 * US, 500 * US))),
        llc_pcpus=draw(st.integers(1, 8)),
        start=draw(st.sampled_from(STARTS)),
        **{name: draw(st.booleans()) for name in SWITCHES},
    )
    if scheduler == "eevdf":
        return host
    names = ("latency_ns", "min_granularity_ns", "wakeup_granularity_ns")
    tunables = {name: draw(st.one_of(st.none(), st.integers(1, 3 * MS))) for name in names}
    return replace(host, scheduler=scheduler, yield_deboost="none", **tunables)


class _Locks:
    """Lock names in the order in which they nest: mutexes, plain spinlocks, interrupt-disabling ones."""

    def __init__(self, mutexes, plain, irq_off):
        self.mutexes, self.plain, self.irq_off = mutexes, plain, irq_off
        self.order = [*mutexes, *plain, *irq_off]

    def after(self, name):
        """The locks that may be taken under `name`."""
        later = set(self.order[self.order.index(name) + 1 :])
        kinds = (self.mutexes, self.plain, self.irq_off)
        return _Locks(*([lock for lock in kind if lock in later] for kind in kinds))


@st.composite
def _locks(draw, scheduling):
    """Lock names, and their specs."""
    counts = [draw(st.integers(0, most)) for most in (0 if scheduling else 1, 2, 2)]
    locks = _Locks(*([f"{kind}{i}" for i in range(count)] for kind, count in zip("msi", counts, strict=True)))
    kinds = {name: "mutex" if name in locks.mutexes else draw(st.sampled_from(SPIN_KINDS)) for name in locks.order}
    zipf = st.sampled_from((0.0, 1.0))
    return locks, tuple(LockSpec(name, draw(st.integers(1, 3)), kind, draw(zipf)) for name, kind in kinds.items())


@st.composite
def _steps(draw, locks, depth=0, spinning=False, irq_off=False, repeated=False):
    """A few phases that neither wait at a queue nor at a barrier; what is allowed depends on the locks held."""
    phases = []
    for _ in range(draw(st.integers(1, 3))):
        kinds = ["compute", "compute", "kick", "ops"]
        kinds += [] if irq_off else ["shootdown"]
        kinds += [] if spinning else ["block"]
        kinds += ["lock", "lock", "choose"] if depth < 3 else []
        kinds += ["repeat"] if depth < 2 and not repeated and not spinning else []
        kind = draw(st.sampled_from(kinds))
        if kind == "compute":
            bursty, share = draw(st.booleans()), draw(st.sampled_from((0.0, 0.3, 1.0)))
            phases.append(Compute(draw(dists(most_ns=20 * US if not spinning else 3 * US)), share, bursty))
        elif kind == "kick":
            phases.append(Kick(draw(st.sampled_from(KICK_TARGETS))))
        elif kind == "ops":
            phases.append(Ops(draw(st.integers(0, 2))))
        elif kind == "shootdown":
            phases.append(Shootdown(draw(st.sampled_from(SHOOTDOWN_TARGETS))))
        elif kind == "block":
            phases.append(Block(draw(dists(1, 200 * US))))
        elif kind == "repeat":
            body = draw(_steps(locks, depth + 1, spinning, irq_off, True))
            phases.append(Repeat(draw(st.integers(1, 4)), (*body, Ops())))
        elif kind == "choose":
            branches = [draw(_steps(locks, depth + 1, spinning, irq_off, repeated)), ()]
            phases.append(Choose(tuple(Branch(draw(st.integers(1, 5)), branch) for branch in branches)))
        else:
            phases += draw(_held(locks, depth, spinning, irq_off, repeated))
    return tuple(phases)


@st.composite
def _held(draw, locks, depth, spinning, irq_off, repeated):
    """Lock, some phases, Unlock: the next locks in the order only. Empty when no lock is left."""
    mutexes = [] if spinning else locks.mutexes
    plain = [] if irq_off else locks.plain
    free = [*mutexes, *plain, *locks.irq_off]
    if not free:
        return ()
    name = draw(st.sampled_from(free))
    off = name in locks.irq_off
    body = draw(_steps(locks.after(name), depth + 1, spinning or name not in locks.mutexes, irq_off or off, repeated))
    return (Lock(name, irq_off=off), *body, Unlock(name))


@st.composite
def workloads(draw, name="w", scheduling=False):
    """Workloads of 1 to 3 roles: plain, with barriers, or a pipeline of queues. scheduling: for more tasks than
    vCPUs."""
    locks, lock_specs = draw(_locks(scheduling))
    shape = draw(st.sampled_from(("plain", "barriers", "pipeline")))
    count = draw(st.integers(2, 3)) if shape == "pipeline" else draw(st.integers(1, 2))
    barriers = tuple(f"b{i}" for i in range(draw(st.integers(1, 2)))) if shape == "barriers" else ()
    queues = tuple(f"q{i}" for i in range(count - 1)) if shape == "pipeline" else ()
    roles = []
    for place in range(count):
        program = list(draw(_steps(locks)))
        if place > 0 and queues:
            program.insert(0, Get(queues[place - 1]))
        for barrier in barriers:
            program += [Barrier(barrier), *draw(_steps(locks))]
        program.append(Compute(draw(dists(3 * US, 100 * US)), draw(st.sampled_from((0.0, 0.5, 1.0)))))
        program.append(Ops())
        if place < count - 1 and queues:
            program.append(Put(queues[place]))
        roles.append(Role(f"r{place}", tuple(program), share=draw(st.sampled_from((1.0, 2.0)))))
    spins = st.just(0) if scheduling else st.sampled_from((0, 5 * US, 10**9))
    return Workload(
        name,
        "random",
        tuple(roles),
        lock_specs,
        tuple(QueueSpec(queue, draw(st.integers(1, 5))) for queue in queues),
        tuple(BarrierSpec(barrier, draw(spins)) for barrier in barriers),
        working_set_kib=draw(st.sampled_from((0, 64, 2048))),
        burst=draw(st.sampled_from((None, Burst(4.0, 200 * US)))),
    )


@st.composite
def vms(draw, pcpus, place):
    """A VM whose vCPUs are pinned, confined or free."""
    scheduling = draw(st.sampled_from((False, False, True)))
    workload = draw(workloads(f"w{place}", scheduling))
    least = 1 if scheduling else len(workload.roles)
    vcpus = draw(st.integers(least, draw(st.sampled_from((4, 6, 6, 6, 40)))))  # more than bits in a word
    most = vcpus + draw(st.sampled_from((3, 3, 8, 60)))
    tasks = draw(st.integers(max(vcpus, len(workload.roles)), most)) if scheduling else None
    where = draw(st.sampled_from(("free", "free", "pinned", "confined")))
    numbers = st.integers(0, pcpus - 1)
    return Vm(
        f"vm{place}",
        vcpus,
        workload,
        weight=draw(st.sampled_from(WEIGHTS)),
        pin=tuple(draw(numbers) for _ in range(vcpus)) if where == "pinned" else None,
        cpus=tuple(draw(st.sets(numbers, min_size=1))) if where == "confined" else None,
        lock_kind=draw(st.sampled_from((None, *SPIN_KINDS))),
        ipi_mode=draw(st.sampled_from(IPI_MODES)),
        ipi_tracking=draw(st.sampled_from(IPI_TRACKING)),
        ipi_window_ns=draw(st.sampled_from((0, 20 * US, 50 * MS))),
        pv_spin_ns=draw(st.sampled_from((0, 3 * US, 700 * US))),
        tasks=tasks,
        **{name: draw(st.booleans()) for name in VM_SWITCHES},
    )


@st.composite
def host_tasks(draw, pcpus, place):
    """A host task that sleeps now and then, or a hog."""
    pin = draw(st.one_of(st.none(), st.integers(0, pcpus - 1)))
    sleep = draw(st.one_of(st.none(), dists(10 * US, 500 * US)))
    weight = draw(st.sampled_from(WEIGHTS))
    return HostTask(f"task{place}", draw(dists(5 * US, 300 * US)), sleep, weight, pin)


@st.composite
def scenarios(draw, most_pcpus=8, most_vms=4, scheduler="eevdf"):
    """Scenarios of 1 to `most_vms` VMs and 0 to 2 host tasks on a random host."""
    host = draw(hosts(most_pcpus, scheduler))
    guests = tuple(draw(vms(host.pcpus, place)) for place in range(draw(st.integers(1, most_vms))))
    tasks = tuple(draw(host_tasks(host.pcpus, place)) for place in range(draw(st.integers(0, 2))))
    return Scenario("random", host, guests, tasks)
