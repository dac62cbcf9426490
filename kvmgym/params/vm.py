"""A VM, and a host task that competes with the VMs."""

from __future__ import annotations

from dataclasses import dataclass

from kvmgym.codes import IPI_MODES, IPI_TRACKING, SPIN_KINDS
from kvmgym.params.dist import Dist
from kvmgym.params.errors import MAX_NS, check, cpu_tuple, flags, instances, integers, names, set_field
from kvmgym.params.program import Get, Put, walk
from kvmgym.params.switches import check_switches, switch
from kvmgym.params.workload import Workload


@dataclass(frozen=True)
class Vm:
    """A VM of `vcpus` vCPUs that run a workload.

    weight: of its cgroup (or of each vCPU without group scheduling), 2 to 262144. pin: one pCPU for each vCPU.
    cpus: the pCPUs its vCPUs may use; not together with pin. lock_kind: "tas", "fifo" or "pvq" for all its
    spinlocks. ipi_mode: how the guest sends to several targets. ipi_tracking: what clears a tracked IPI, as the
    series' "v2" or "v3", or "off". ipi_window_ns: how long a tracked IPI counts. enable_relaxed_boost: the second
    round of the series. pv_spin_ns: how long a pvq waiter spins before it halts. pv_kick_yields: the kick of a halted
    pvq waiter is a directed yield too. pv_tlb_flush: a shootdown leaves a flag for vCPUs that do not run.
    pv_sched_yield: after an IPI to several vCPUs, a yield to the first that is preempted. apicv: interrupts and IPIs
    are virtualised: the pending-interrupt hint exists, IPI tracking does not. sev_es: the guest's registers are hidden
    from the host. tasks: guest tasks, scheduled by the guest when there are more than vCPUs; None: one a vCPU. stream:
    labels its random streams and breaks ties; None takes the VM's index.
    """

    name: str
    vcpus: int
    workload: Workload
    weight: int = 1024
    pin: tuple[int, ...] | None = None
    cpus: tuple[int, ...] | None = None
    lock_kind: str | None = switch(SPIN_KINDS, None)
    ipi_mode: str = switch(IPI_MODES, "x2apic_physical")
    ipi_tracking: str = switch(IPI_TRACKING, "v3")
    ipi_window_ns: int = 50_000_000
    enable_relaxed_boost: bool = True
    pv_spin_ns: int = 700_000
    pv_kick_yields: bool = True
    pv_tlb_flush: bool = False
    pv_sched_yield: bool = False
    apicv: bool = False
    sev_es: bool = False
    tasks: int | None = None
    stream: int | None = None

    def __post_init__(self) -> None:
        names(self, "name")
        integers(self, 1, 1024, "vcpus")
        instances(self, "workload", Workload, "a Workload")
        integers(self, 2, 262_144, "weight")
        check(self.pin is None or self.cpus is None, "Vm.cpus", self.cpus, "None when pin is given")
        if self.pin is not None:
            cpu_tuple(self, "pin")
            check(len(self.pin) == self.vcpus, "Vm.pin", self.pin, f"{self.vcpus} pCPU numbers, one for each vCPU")
        if self.cpus is not None:
            cpu_tuple(self, "cpus")
            set_field(self, "cpus", tuple(sorted(set(self.cpus))))
        check_switches(self)
        integers(self, 0, MAX_NS, "ipi_window_ns", "pv_spin_ns")
        flags(self, "enable_relaxed_boost", "pv_kick_yields", "pv_tlb_flush", "pv_sched_yield", "apicv", "sev_es")
        if self.tasks is not None:
            integers(self, self.vcpus, 4096, "tasks")
            self._check_tasks()
        if self.stream is not None:
            integers(self, 0, 2**31 - 1, "stream")
        self._check_queues()

    @property
    def roles(self) -> tuple[int, ...]:
        """The role index of each guest task; task i belongs to vCPU i modulo vcpus."""
        return self.workload.deal_roles(self.tasks or self.vcpus)

    @property
    def has_run_queues(self) -> bool:
        """Whether the guest schedules: more tasks than vCPUs."""
        return (self.tasks or self.vcpus) > self.vcpus

    def _check_tasks(self) -> None:
        """A guest task that waits for a mutex or spins at a barrier cannot give way to another one."""
        if self.has_run_queues:
            mutexes = [lock.name for lock in self.workload.locks if lock.kind == "mutex"]
            barriers = [barrier.name for barrier in self.workload.barriers if barrier.spin_ns > 0]
            plain = f"{self.vcpus} (Vm.vcpus) for workload {self.workload.name}, which has"
            check(not mutexes, "Vm.tasks", self.tasks, f"{plain} mutexes: {', '.join(mutexes)}")
            check(not barriers, "Vm.tasks", self.tasks, f"{plain} spinning barriers: {', '.join(barriers)}")

    def _check_queues(self) -> None:
        """With fewer vCPUs than roles a queue could lose one of its ends, and the VM would stop."""
        programs = [self.workload.roles[role].program for role in sorted(set(self.roles))]
        phases = [phase for program in programs for _, phase in walk(program, "")]
        puts = {phase.queue for phase in phases if isinstance(phase, Put)}
        gets = {phase.queue for phase in phases if isinstance(phase, Get)}
        enough = f"{len(self.workload.roles)} or more for workload {self.workload.name}, one for each role"
        check(puts == gets, "Vm.vcpus", self.vcpus, f"{enough}, because its queues join them")


@dataclass(frozen=True)
class HostTask:
    """A host task: runs a drawn time, sleeps a drawn time. sleep None: a hog that never sleeps.

    weight: 2 to 262144. pin: its pCPU. cpus: the pCPUs it may use; not together with pin.
    """

    name: str
    run: Dist
    sleep: Dist | None = None
    weight: int = 1024
    pin: int | None = None
    cpus: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        names(self, "name")
        instances(self, "run", Dist, "a Dist")
        check(self.run.takes_time, "HostTask.run", self.run, "a distribution with a mean of 1 ns or more")
        instances(self, "sleep", (Dist, type(None)), "a Dist or None")
        integers(self, 2, 262_144, "weight")
        check(self.pin is None or self.cpus is None, "HostTask.cpus", self.cpus, "None when pin is given")
        if self.pin is not None:
            integers(self, 0, 511, "pin")
        if self.cpus is not None:
            cpu_tuple(self, "cpus")
            set_field(self, "cpus", tuple(sorted(set(self.cpus))))
