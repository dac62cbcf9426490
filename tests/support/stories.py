"""Trace stories: run a small scenario and read its trace as strings like "12us a1 PLE".

A vCPU is called by its VM's name and its index ("a1"), a host task by its name, a pCPU "p0", a lock by its name.

Unless a test says otherwise: no costs, flat run queues, ticks each ms, slice 3 ms (the first one of a task half as
long), a pause-loop window of 2 µs that doubles, every vCPU pinned. With those numbers two vCPUs that share a pCPU
from time 0 run 0-2, 2-4, 4-7, 7-10 ms and so on, the lower label first (test_a_slice_ends_at_a_tick has the
arithmetic).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from kvmgym.core import layout
from kvmgym.core.memory import World, view
from kvmgym.measure.simulate import advance
from kvmgym.params import (
    Compute,
    Costs,
    Dist,
    Host,
    HostTask,
    Lock,
    LockSpec,
    Ple,
    Role,
    Scenario,
    Unlock,
    Vm,
    Workload,
)
from kvmgym.policies import as_policy
from kvmgym.trace.rows import Row, decode, vcpu_names
from kvmgym.world.blueprint import Blueprint, Bytes

US = 1_000
ROWS = 4_096  # capacity of a story's trace; a longer one is an error


def us(n: float) -> Dist:
    """A constant duration of n µs."""
    return Dist.constant(round(n * US))


def user(n: float) -> Compute:
    """n µs in user mode."""
    return Compute(us(n))


FAR = user(10**6)  # longer than any story
SPINS = {"PLE", "no target"}
FLAGS = ("in_spin_loop", "dy_eligible", "preempted", "ready", "preempted_in_kernel", "blocking", "pending_interrupt")


def kernel(n: float) -> Compute:
    """n µs in ring 0."""
    return Compute(us(n), kernel_share=1.0)


def hold(lock: str, n: float, *, irq_off: bool = False) -> tuple[Lock, Compute, Unlock]:
    """Take a lock, hold it for n µs in ring 0, release it."""
    return Lock(lock, irq_off=irq_off), kernel(n), Unlock(lock)


def roles(*programs: tuple[Any, ...]) -> tuple[Role, ...]:
    """One role a program, all of one share: with as many vCPUs, vCPU i runs program i."""
    return tuple(Role(f"role{i}", program) for i, program in enumerate(programs))


def work(*programs: tuple[Any, ...], name: str = "story", **tables: Any) -> Workload:
    """A workload of one program a vCPU, without cache re-warm cost."""
    return Workload(name, "", roles(*programs), working_set_kib=0, **tables)


def plain_host(pcpus: int = 1, **given: Any) -> Host:
    """A host without costs and balancing, ticks each ms, a slice of 3 ms and a pause-loop window of 2 µs."""
    defaults: dict[str, Any] = {
        "hz": 1000,
        "slice_ns": 3_000 * US,
        "costs": Costs.zero(),
        "ple": Ple(window_ns=2 * US),
        "balance": False,
    }
    return Host(pcpus=pcpus, **{**defaults, **given})


def vm(name: str, *programs: tuple[Any, ...], pin: tuple[int, ...], **given: Any) -> Vm:
    """A VM of one vCPU a program; workload tables and VM fields may be given together."""
    tables = {key: given.pop(key) for key in ("locks", "queues", "barriers") if key in given}
    return Vm(name, len(programs), work(*programs, name=f"work-{name}", **tables), pin=pin, **given)


def multitasking(name: str, *programs: tuple[Any, ...], pin: tuple[int, ...], **given: Any) -> Vm:
    """A VM whose guest schedules one task a program on one vCPU a pin; task i belongs to vCPU i modulo their number."""
    one_each = vm(name, *programs, pin=(pin * len(programs))[: len(programs)], **given)
    return replace(one_each, vcpus=len(pin), pin=pin, tasks=len(programs))


def hog(name: str, pcpu: int) -> Vm:
    """A VM of one vCPU that computes in user mode."""
    return vm(name, (FAR,), pin=(pcpu,))


def one_lock(kind: str = "fifo") -> tuple[LockSpec]:
    """The lock "l" of a workload."""
    return (LockSpec("l", kind=kind),)


def story(*vms: Vm, pcpus: int = 2, policy: str = "legacy", tasks: tuple[HostTask, ...] = (), **host: Any) -> Story:
    """A story on flat run queues; further arguments are fields of the host."""
    host = {"group_scheduling": False, **host}
    return Story(Scenario("story", plain_host(pcpus, **host), vms, tasks), policy)


class Story:
    """A scenario that runs, and its trace."""

    def __init__(self, scenario: Scenario, policy: str = "legacy", seed: int = 0) -> None:
        self.policy = as_policy(policy)
        self.blueprint = Blueprint(scenario, trace_rows=ROWS)
        self.row: Bytes = self.blueprint.worlds([seed])[0]
        self.world: World = view(self.row, self.blueprint.static)

    def until(self, time_us: float) -> Story:
        """Run to a point in time; what happens at that instant is included."""
        advance(self.blueprint, self.row, round(time_us * US), self.policy)
        return self

    def tell(self, *, only: Iterable[str] = (), leave: Iterable[str] = (), start_us: float = 0) -> list[str]:
        """The trace as strings. only: the kinds (layout.TRACE_NAMES) or names of vCPUs to keep; leave: kinds to
        drop."""
        only, leave = set(only), set(leave)
        assert not {*only, *leave} - {*layout.TRACE_NAMES, *self.names()}, "a misspelt kind would drop nothing"
        length = int(self.world.host[0]["trace_len"])
        assert length <= ROWS, f"the trace has {length} rows"
        return [
            " ".join(filter(None, (time(row.time_ns), short(row.who), _event(row))))
            for row in decode(self.blueprint, self.world)
            if row.time_ns >= start_us * US
            and row.kind not in leave
            and (not only or row.kind in only or short(row.who) in only)
        ]

    def names(self) -> list[str]:
        return [short(name) for name in vcpu_names(self.blueprint)]

    def name(self, v: int) -> str:
        """What the story calls vCPU `v`."""
        return self.names()[v]

    def vcpu(self, name: str) -> Any:
        """The record of a vCPU by its name."""
        return self.world.vcpu[self.names().index(name)]

    def flags(self, name: str) -> set[str]:
        """Which of the flags that directed yield reads are set for a vCPU."""
        return {flag for flag in FLAGS if self.vcpu(name)[flag]}

    def counts(self, vm: str, *names: str) -> list[int]:
        """Counters of a VM by its name."""
        record = self.world.vm[[spec.name for spec in self.blueprint.vms].index(vm)]
        return [int(record[name]) for name in names]

    def entity(self, name: str) -> Any:
        """The scheduling entity of a vCPU by its name."""
        return self.world.se[self.names().index(name)]


def short(name: str) -> str:
    """What stories call a vCPU: "a1" for "a/1"."""
    return name.replace("/", "")


def _event(row: Row) -> str:
    if row.kind == "yield_to":
        return f"yield_to {short(row.what)}" + {-1: " = -ESRCH", 0: " = 0", 1: ""}[row.result or 0]
    return row.kind if row.kind in ("PLE", "ops") else f"{row.kind} {short(row.what)}".strip()


def time(ns: int) -> str:
    """A time in µs without needless digits, exact to the ns."""
    whole, rest = divmod(ns, US)
    return f"{whole}us" if rest == 0 else f"{whole}.{rest:03}".rstrip("0") + "us"
