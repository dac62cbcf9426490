"""V5-V8: what preemption of vCPUs costs guests that spin, without pause-loop exits and with all host work free.

k equal VMs that always run, with one vCPU pinned to each pCPU, take turns of q. V5 and V6 assume that the phases of
the pCPUs are independent and uniform. So vCPUs start at times drawn over a hundred cycles, and VMs are not scheduling
groups: a group's weight follows the load of its VM on the whole host, which would couple the pCPUs while vCPUs start.
"""

from __future__ import annotations

from dataclasses import replace

from kvmgym.measure.metrics import Result
from kvmgym.measure.stats import Interval
from kvmgym.params import (
    Block,
    Compute,
    Dist,
    Lock,
    LockSpec,
    Ops,
    Phase,
    Role,
    Scenario,
    Shootdown,
    Unlock,
    Vm,
    Workload,
)
from kvmgym.validate import formulas
from kvmgym.validate.lab import MS, US, Lab, S, equal_vms, free_host, loop
from kvmgym.validate.rows import Row, banded, ratio, statistical

SLICE_NS = 3 * MS
VCPUS = 16
VMS = (2, 3, 4)
SETTLED_NS = 30 * MS
HOLD_NS, THINK_NS = 2 * US, 3 * MS  # V8


def start_range_ns(vms: int) -> int:
    """Over how long the vCPUs start: a hundred cycles."""
    return 100 * vms * SLICE_NS


def _start(vms: int) -> tuple[Phase, ...]:
    return (Block(Dist.uniform(1, start_range_ns(vms))),)


def lonely_sender(vms: int) -> Scenario:
    """One vCPU alone on its pCPU sends shootdowns; its 15 targets each share a pCPU with vms - 1 others.

    What the sender computes in between spans a whole number of cycles for 2, 3 and 4 VMs, so that it sends at a uniform
    phase of the cycle.
    """
    think = Compute(Dist.uniform(MS, MS + 24 * SLICE_NS))
    idle = loop(Compute(Dist.constant(S)), before=_start(vms))
    sends = loop(think, Shootdown("others"), Ops(), before=_start(vms))
    roles = (Role("sender", sends, 1), Role("target", idle, VCPUS - 1))
    targets = tuple(range(1, VCPUS))
    first = Vm("vm0", VCPUS, Workload("sender", "", roles), pin=(0, *targets))
    other = Workload("others", "", (Role("main", idle),))
    rest = tuple(Vm(f"vm{i}", VCPUS - 1, other, pin=targets) for i in range(1, vms))
    return Scenario("lonely-sender", free_host(VCPUS, SLICE_NS, grouped=False), (first, *rest))


def check_latency(lab: Lab) -> list[Row]:
    """V5: how long a shootdown takes until the last of its preempted targets has run."""
    rows = []
    for vms in lab.each(VMS):
        found = lab.worlds(
            lonely_sender(vms),
            "none",
            lambda result: (result.vms[0].shootdown_ns, result.vms[0].shootdowns),
            worlds=lab.pick(1024, 96),
            duration_ns=1000 * MS,
            warmup_ns=start_range_ns(vms) + SETTLED_NS,
        )
        expected = formulas.shootdown_latency(vms, VCPUS - 1, SLICE_NS / MS)
        rows.append(statistical(f"latency [ms], k={vms}", expected, ratio(found, MS), lab.limit, lab.quick))
    return rows


def check_burn(lab: Lab) -> list[Row]:
    """V6: how long the sender of a shootdown spins on its pCPU when it shares that, too; 20 a CPU-second."""
    rows = []
    think = Compute(Dist.uniform(2 * MS, 2 * MS + 32 * SLICE_NS))  # mean 50 ms, a whole number of slices wide
    for vms in lab.each(VMS):
        program = loop(think, Shootdown("others"), Ops(), before=_start(vms))
        found = lab.worlds(
            equal_vms("shootdowns", free_host(VCPUS, SLICE_NS, grouped=False), program, vms),
            "none",
            _burnt,
            worlds=lab.pick(512, 64),
            duration_ns=1000 * MS,
            warmup_ns=start_range_ns(vms) + SETTLED_NS,
        )
        expected = formulas.shootdown_burn(vms, VCPUS - 1, SLICE_NS / MS)
        rows.append(
            statistical(f"CPU burnt a shootdown [ms], k={vms}", expected, ratio(found, MS), lab.limit, lab.quick)
        )
    return rows


def _burnt(result: Result) -> tuple[int, int]:
    return sum(vm.total("spin_ns") for vm in result.vms), sum(vm.shootdowns for vm in result.vms)


def check_convoy(lab: Lab) -> list[Row]:
    """V7: a FIFO lock passes to waiters that do not run, so a round takes a cycle.

    The lock is first taken when the phases of the pCPUs are fixed. A convoy that formed before would keep its order,
    which later phases do not match, and need more cycles a round.
    """
    rows = []
    before = (Compute(Dist.constant(10 * SLICE_NS + US)),)
    locked = (Lock("lock"), Compute(Dist.constant(US), kernel_share=1.0), Unlock("lock"), Ops())
    for vms in lab.each(VMS):
        program = loop(*locked, Compute(Dist.constant(10 * US)), before=before)
        host = free_host(VCPUS, SLICE_NS)
        found = lab.worlds(
            equal_vms("convoy", host, program, vms, (LockSpec("lock", kind="fifo"),)),
            "none",
            lambda result: [(vm.lock_acquires, result.duration_ns / SLICE_NS) for vm in result.vms],
            worlds=lab.pick(128, 32),
            duration_ns=20 * 12 * SLICE_NS,  # a whole number of cycles
            warmup_ns=40 * 12 * SLICE_NS,
        )
        expected = formulas.convoy_rate(VCPUS, vms, 1.0)
        rate = ratio([(sum(n for n, _ in world), sum(time for _, time in world)) for world in found])
        rows.append(_above(f"operations a slice, k={vms}", expected, rate, lab.quick))
    return rows


def _above(quantity: str, expected: float, found: Interval, quick: bool) -> Row:
    return banded(quantity, expected, found, expected, 1.1 * expected, "interval within +0 … +10 %", quick)


def lock_holders(vms: int, shared: bool) -> Scenario:
    """VMs of 16 vCPUs that compute 3 ms, exponentially, and hold a lock for 2 µs: one for all, or one each.

    The share that is looked for does not depend on q; slices of one tick give more preemptions for the same work.
    """
    locks = tuple(LockSpec(f"lock{i}", kind="tas") for i in range(1 if shared else VCPUS))
    roles = tuple(Role(lock.name, _holds(lock.name)) for lock in locks)
    work = Workload("lock-holders", "", roles, locks=locks)
    places = tuple(range(VCPUS))
    guests = tuple(Vm(f"vm{i}", VCPUS, work, pin=places) for i in range(vms))
    return Scenario("lock-holders", free_host(VCPUS, MS), guests)


def _holds(lock: str) -> tuple[Phase, ...]:
    held = (Lock(lock), Compute(Dist.constant(HOLD_NS), kernel_share=1.0), Unlock(lock), Ops())
    return loop(Compute(Dist.exponential(THINK_NS)), *held)


def check_dead_share(lab: Lab) -> list[Row]:
    """V8: for how much of the time a preempted vCPU holds the lock.

    Exact for locks that nobody else wants. With one lock for all, who waited for a preempted holder takes it as his own
    slice begins, when he cannot be preempted, and spun meanwhile: the share is up to 1 % less for 4 VMs.
    """
    rows = []
    for vms, shared in lab.each([(vms, shared) for shared in lab.pick((False, True), (False,)) for vms in VMS]):
        found = lab.worlds(
            lock_holders(vms, shared),
            "none",
            lambda result: (sum(vm.lhp_ns for vm in result.vms), result.duration_ns * len(result.vms)),
            worlds=lab.pick(128, 32),
            duration_ns=lab.pick(20_000 if shared else 120_000, 20_000) * MS,
            warmup_ns=100 * MS,
        )
        share, expected = ratio(found), formulas.dead_share(VCPUS, vms, HOLD_NS, THINK_NS)
        events = sum(dead for dead, _ in found) // ((vms - 1) * MS)
        name = f"dead share, k={vms}, {'one lock' if shared else 'a lock each'}, {events:,} events"
        if shared:
            rule = "interval within ±5%, 10,000 events"
            row = banded(name, expected, share, 0.95 * expected, 1.05 * expected, rule)
            rows.append(replace(row, passed=row.passed and events >= 10_000))
        else:
            rows.append(statistical(name, expected, share, lab.limit, lab.quick))
    return rows
