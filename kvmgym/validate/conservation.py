"""V3: time is conserved and Little's law holds, exactly, with every mechanism at work.

Every policy runs `everything` and `switches` on several kinds of host; the named scenarios meet the policies in turn.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvmgym.measure.metrics import Result
from kvmgym.params import (
    PLE_PRESETS,
    Barrier,
    BarrierSpec,
    Block,
    Branch,
    Burst,
    Choose,
    Compute,
    Dist,
    Get,
    HaltPoll,
    Host,
    HostTask,
    Kick,
    Lock,
    LockSpec,
    Ops,
    Put,
    QueueSpec,
    Role,
    Scenario,
    Shootdown,
    Unlock,
    Vm,
    Workload,
)
from kvmgym.policies import POLICIES, Policy
from kvmgym.scenarios import SCENARIOS
from kvmgym.validate.lab import MS, US, Lab
from kvmgym.validate.rows import Row, exact

SPIN_LOCKS = (LockSpec("tas", 4, "tas"), LockSpec("fifo", 2, "fifo"), LockSpec("pvq", 1, "pvq"))


def _locked(name: str, mean_ns: int, irq_off: bool = False) -> Branch:
    held = (Lock(name, irq_off=irq_off), Compute(Dist.exponential(mean_ns), kernel_share=1.0), Unlock(name))
    return Branch(4, held)


THINK = Compute(Dist.lognormal(60 * US, 0.8, 0.02, 200 * US, 400 * US), kernel_share=0.3, bursty=True)


def everything(**host: object) -> Scenario:
    """A small host with a VM of every lock kind, IPI mode and way to wait, and two host tasks.

    host: fields of Host to change.
    """
    think = THINK
    kinds = (_locked("tas", 2 * US), _locked("fifo", 3 * US, irq_off=True), _locked("pvq", 5 * US))
    sends = (Branch(1, (Shootdown("others"),)), Branch(1, (Shootdown("busy"),)), Branch(1, (Kick("random"),)))
    waits = (Branch(1, (Block(Dist.exponential(150 * US)),)), Branch(1, (Lock("mutex"), think, Unlock("mutex"))))
    mixed = (think, Choose((*kinds, *sends, *waits)), Ops())
    mix = Workload("mix", "", (Role("main", mixed),), (*SPIN_LOCKS, LockSpec("mutex", kind="mutex")), burst=Burst())
    stages = (Role("first", (think, Put("items"), Barrier("turn"))), Role("second", (Get("items"), think, Ops())))
    flow = Workload(
        "flow",
        "",
        stages,
        queues=(QueueSpec("items", 2),),
        barriers=(BarrierSpec("turn", 20 * US),),
        working_set_kib=512,
    )
    vms = (
        Vm("mix0", 6, mix, stream=0),
        Vm("mix1", 4, mix, ipi_mode="pv", ipi_tracking="v2", pv_spin_ns=20 * US, stream=1),
        Vm("flow", 4, flow, ipi_mode="x2apic_cluster", weight=512, stream=2),
    )
    tasks = (
        HostTask("noise", Dist.exponential(200 * US), Dist.exponential(2 * MS)),
        HostTask("hog", Dist.constant(MS), weight=64, pin=1),
    )
    return Scenario("everything", Host(**{"pcpus": 6, "migration_cost_ns": 50 * US, **host}), vms, tasks)  # type: ignore[arg-type]


def switches(**host: object) -> Scenario:
    """A small host with the switches that `everything` leaves off: halt polling, interrupt virtualisation, the guest's
    PV helpers, and a VM with more tasks than vCPUs.

    host: fields of Host to change.
    """
    kinds = (_locked("tas", 2 * US), _locked("fifo", 3 * US), _locked("pvq", 5 * US))
    sends = (Branch(2, (Shootdown("others"),)), Branch(1, (Kick("random"),)))
    waits = (Branch(3, (Block(Dist.exponential(60 * US)),)), Branch(1, (Block(Dist.exponential(MS)),)))
    program = (THINK, Choose((*kinds, *sends, *waits)), Ops())
    work = Workload("switches", "", (Role("main", program),), SPIN_LOCKS, burst=Burst())
    vms = (
        Vm("pv", 4, work, ipi_mode="pv", pv_spin_ns=20 * US, pv_tlb_flush=True, pv_sched_yield=True, stream=0),
        Vm("hidden", 3, work, pv_sched_yield=True, apicv=True, sev_es=True, stream=1),
        Vm("tasks", 3, work, tasks=7, stream=2),
    )
    fields = {"pcpus": 6, "halt_poll": HaltPoll(200 * US), "ple": PLE_PRESETS["amd"], **host}
    return Scenario("switches", Host(**fields), vms)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Residues:
    """Largest differences of one run [ns], and what happened in it (the other fields are counts)."""

    vcpu_ns: int
    pcpu_ns: int
    lock_ns: int
    queue_ns: int
    happened: dict[str, int]

    @classmethod
    def of(cls, result: Result) -> Residues:
        """Read a result."""
        guests = (*result.vms, *result.tasks)
        vcpus = [vcpu for vm in guests for vcpu in vm.vcpus]
        window = result.duration_ns
        return cls(
            max(abs(vcpu.run_ns + vcpu.ready_ns + vcpu.blocked_ns - window) for vcpu in vcpus),
            max(abs(pcpu.busy_ns + pcpu.idle_ns + pcpu.overhead_ns - window) for pcpu in result.pcpus),
            max((abs(lock.wait_integral_ns - lock.wait_sum_ns) for lock in result.locks), default=0),
            abs(sum(pcpu.ready_integral_ns for pcpu in result.pcpus) - sum(vcpu.ready_ns for vcpu in vcpus)),
            happened(result),
        )


def happened(result: Result) -> dict[str, int]:
    """How often each mechanism was seen, by name."""
    names = (
        "ple_exits", "yields_ok", "yields_esrch", "relaxed_ok", "preemptions", "wakeups_queued", "lock_acquires",
        "mutex_acquires", "lhp_ns", "shootdowns", "kicks", "halts", "rewarm_spent_ns", "named_ok", "polls", "polls_ok",
        "flags_left", "guest_switches",
    )  # fmt: skip
    found = {name: sum(getattr(vm, name) for vm in result.vms) for name in names}
    found["contended"] = sum(lock.contended for lock in result.locks)
    found["migrations"] = sum(pcpu.migrations for pcpu in result.pcpus)
    found["idle_ns"] = sum(pcpu.idle_ns for pcpu in result.pcpus)
    found["host_task_ns"] = sum(task.total("run_ns") for task in result.tasks)
    return found


def hosts() -> tuple[Scenario, ...]:
    """`everything` and `switches` on several kinds of host."""
    return (
        everything(start="random"),
        everything(start="random", group_scheduling=False, forfeit="pre-6.19", hz=250),
        everything(delay_dequeue=False, place_lag=False, next_buddy=True, run_to_parity=False),
        everything(start="random", balance=False, forfeit="none", hz=100),
        everything(start="random", pcpus=16),
        switches(start="random", yield_deboost="v2"),
        switches(start="random", yield_deboost="v3", ple=PLE_PRESETS["s390"], group_scheduling=False),
    )


def pairs(quick: bool) -> list[tuple[Scenario, Policy]]:
    """What runs: `hosts` under every policy, and all named scenarios (quick: the small ones) under two policies each,
    in turn."""
    named = [scenario for scenario in SCENARIOS if not quick or scenario.host.pcpus <= 4]
    turns = [(scenario, POLICIES[(2 * i + k) % len(POLICIES)]) for i, scenario in enumerate(named) for k in (0, 1)]
    return [*turns, *((scenario, policy) for scenario in hosts() for policy in POLICIES)]


def check_conservation(lab: Lab) -> list[Row]:
    """V3: run + ready + blocked of each vCPU, busy + idle + overhead of each pCPU, and Little's law of each lock and of
    the run queues, over the scenarios and policies of `pairs`."""
    found: list[Residues] = []
    for scenario, policy in lab.each(pairs(lab.quick)):
        found += lab.worlds(
            scenario,
            policy.name,
            Residues.of,
            worlds=2,
            duration_ns=lab.pick(100 * MS, 20 * MS) + 12_345,
            warmup_ns=10 * MS + 678,
        )
    seen = {name: sum(residue.happened[name] for residue in found) for name in found[0].happened}
    runs = f"{len(found)} runs"
    return [
        exact(f"|run + ready + blocked - T| of a vCPU [ns], {runs}", 0, max(r.vcpu_ns for r in found)),
        exact(f"|busy + idle + overhead - T| of a pCPU [ns], {runs}", 0, max(r.pcpu_ns for r in found)),
        exact(f"|integral of waiters - sum of waits| of a lock [ns], {runs}", 0, max(r.lock_ns for r in found)),
        exact(f"|integral of ready - sum of ready times| [ns], {runs}", 0, max(r.queue_ns for r in found)),
        exact("mechanisms that were at work", len(seen), sum(count > 0 for count in seen.values())),
    ]
