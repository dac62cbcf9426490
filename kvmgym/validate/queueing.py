"""V1, V2: vCPUs as customers of a queue. pCPUs that serve woken vCPUs, and a lock that serves those that want it."""

from __future__ import annotations

from dataclasses import replace

from kvmgym.measure.metrics import Result
from kvmgym.params import Block, Compute, Dist, Host, Lock, LockSpec, Ops, Role, Scenario, Unlock, Vm, Workload
from kvmgym.validate import formulas
from kvmgym.validate.lab import MS, US, Lab, equal_vms, free_host
from kvmgym.validate.rows import Row, ratio, statistical

SERVICE_NS = 100 * US
HOLD_NS = US
# pCPUs, their utilisation, vCPUs, services in each world; in full and in short
CPU_QUEUES = (
    ((16, 0.8, 128, 1_000_000), (16, 0.9, 128, 600_000), (4, 0.8, 256, 500_000)),
    ((16, 0.8, 64, 160_000), (4, 0.8, 64, 80_000)),
)


def cpu_queue(servers: int, sources: int, think: float) -> Scenario:
    """`sources` vCPUs that halt (mean `think` services), then compute, on `servers` pCPUs.

    The queue must be work-conserving: an idle pCPU pulls any waiting vCPU at once, and sleepers leave at once.
    """
    host = replace(free_host(servers), migration_cost_ns=0, llc_pcpus=512, delay_dequeue=False)
    program = (Block(Dist.exponential(think * SERVICE_NS)), Compute(Dist.exponential(SERVICE_NS)), Ops())
    return Scenario("cpu-queue", host, (Vm("vm", sources, Workload("customers", "", (Role("main", program),))),))


def check_cpu_queue(lab: Lab) -> list[Row]:
    """V1: chance and mean of the wait for a pCPU, against M/M/c//N; beside it the open M/M/c."""
    rows = []
    for servers, load, sources, services in lab.each(CPU_QUEUES[lab.quick]):
        think = formulas.think_for(servers, sources, load)
        exact, open_ = formulas.finite_source(servers, sources, think), formulas.erlang_c(servers, load)
        waits = lab.worlds(
            cpu_queue(servers, sources, think),
            "none",
            _waits,
            worlds=lab.pick(64, 16),
            duration_ns=services * SERVICE_NS // servers,
            warmup_ns=1000 * SERVICE_NS,
        )
        case = f"c={servers} ρ={load:g} N={sources}"
        queued, waited = ([(w[place], w[2]) for w in waits] for place in (0, 1))
        for what, closed, open_value, found in (
            ("P(wait)", exact.p_wait, open_.p_wait, ratio(queued)),
            ("mean wait", exact.wait, open_.wait, ratio(waited, SERVICE_NS)),
        ):
            rows.append(statistical(f"{what} {case} (N→∞ {open_value:.6f})", closed, found, lab.limit, lab.quick))
    return rows


def _waits(result: Result) -> tuple[int, int, int]:
    """Arrivals that found no idle pCPU, time spent ready, arrivals."""
    vm = result.vms[0]
    return vm.wakeups_queued, vm.total("ready_ns"), vm.wakeups


def lock_queue(vcpus: int, think_us: int, kind: str) -> Scenario:
    """`vcpus` vCPUs, each on a pCPU of its own, that think and then hold one lock for 1 µs, all exponential."""
    host: Host = free_host(vcpus)
    held = (Lock("lock"), Compute(Dist.exponential(HOLD_NS), kernel_share=1.0), Unlock("lock"), Ops())
    program = (Compute(Dist.exponential(think_us * US)), *held)
    return equal_vms("lock-queue", host, program, 1, (LockSpec("lock", kind=kind),))


def check_lock_queue(lab: Lab) -> list[Row]:
    """V2: throughput and response of a contended lock, against the machine repairman; alike for tas and fifo."""
    rows = []
    cases = ((16, 100), (16, 20), (16, 5), (32, 50))
    for vcpus, think_us, kind in lab.each([(*case, kind) for case in cases for kind in ("tas", "fifo")]):
        rate, response = formulas.repairman(vcpus, think_us, 1.0)
        found = lab.worlds(
            lock_queue(vcpus, think_us, kind),
            "none",
            _held,
            worlds=lab.pick(64, 16),
            duration_ns=lab.pick(100 * MS, 10 * MS),
            warmup_ns=10 * MS,
        )
        for what, closed, measured in (
            ("X [1/µs]", rate, ratio([(count, time) for count, _, time in found], 1 / US)),
            ("R [µs]", response, ratio([(spent, count) for count, spent, _ in found], US)),
        ):
            case = f"{what} N={vcpus} Z={think_us} µs {kind}"
            rows.append(statistical(case, closed, measured, lab.limit, lab.quick))
    return rows


def _held(result: Result) -> tuple[int, int, int]:
    """Acquisitions, time spent waiting for the lock and holding it, length of the window."""
    lock = result.locks[0]
    return lock.acquires, lock.wait_sum_ns + result.vms[0].total("kernel_ns"), result.duration_ns
