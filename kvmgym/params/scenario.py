"""A scenario: one host, its VMs and host tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kvmgym.params import toml
from kvmgym.params.dist import scale_fields
from kvmgym.params.errors import MAX_NS, check, instances, integer, integers, names, sequence, shorten, texts, unique
from kvmgym.params.host import Host
from kvmgym.params.limits import check_rewarm, check_slices
from kvmgym.params.vm import HostTask, Vm
from kvmgym.params.workload import Workload

MAX_BYTES = 4_000_000  # of a file: several times the largest scenario that there can be


@dataclass(frozen=True)
class Scenario:
    """What is simulated. tag: the set it belongs to, as "train". episode_ns: how long an episode of an environment is
    that is told no other: enough for decisions where they are rare, None for the environment's default, 0 where there
    is nothing or next to nothing to decide, however long it runs.

    Errors: ValueError for no VM, more than 1024 vCPUs together, a pCPU number outside the host, a VM or task name
    used twice, two VMs with the same stream, or two different workloads of one name.
    """

    name: str
    host: Host = field(metadata={"table": True})
    vms: tuple[Vm, ...] = field(metadata={"toml": "vm"})
    host_tasks: tuple[HostTask, ...] = field(default=(), metadata={"toml": "host_task"})
    description: str = ""
    tag: str = "train"
    episode_ns: int | None = None

    def __post_init__(self) -> None:
        names(self, "name", "tag")
        texts(self, "description")
        instances(self, "host", Host, "a Host")
        sequence(self, "vms", Vm, "a Vm")
        sequence(self, "host_tasks", HostTask, "a HostTask")
        check(len(self.vms) > 0, "Scenario.vms", self.vms, "at least one Vm")
        check(self.vcpus <= 1024, "Scenario.vms vcpus", self.vcpus, "1 to 1024 together")
        found = [vm.name for vm in self.vms] + [task.name for task in self.host_tasks]
        unique("Scenario.vms and host_tasks", "VM or task", found)
        self._check_cpus()
        for place, stream in enumerate(self.streams):
            free = stream not in self.streams[:place]
            check(free, f"Scenario.vms[{place}].stream", stream, "a number that no other VM has (default: its index)")
        for place, vm in enumerate(self.vms):
            same = self.workloads[vm.workload.name] == vm.workload
            check(same, f"Scenario.vms[{place}].workload", vm.workload.name, "one workload wherever the name is used")
        if self.episode_ns is not None:
            integers(self, 0, MAX_NS, "episode_ns")
        check_slices(self.host, self.vms, self.host_tasks)
        check_rewarm(self.host, self.vms)

    def _check_cpus(self) -> None:
        last = self.host.pcpus - 1
        for kind, items in (("vms", self.vms), ("host_tasks", self.host_tasks)):
            for place, item in enumerate(items):
                for name in ("pin", "cpus"):
                    value = getattr(item, name)
                    numbers = value if isinstance(value, tuple) else () if value is None else (value,)
                    inside = all(number <= last for number in numbers)
                    check(inside, f"Scenario.{kind}[{place}].{name}", value, f"0 to {last} (Host.pcpus = {last + 1})")

    @property
    def vcpus(self) -> int:
        """vCPUs of all VMs together."""
        return sum(vm.vcpus for vm in self.vms)

    @property
    def streams(self) -> tuple[int, ...]:
        """The stream label of each VM: its own, or its index."""
        return tuple(place if vm.stream is None else vm.stream for place, vm in enumerate(self.vms))

    @property
    def workloads(self) -> dict[str, Workload]:
        """The workloads by name, in the order of the VMs."""
        found: dict[str, Workload] = {}
        for vm in self.vms:
            found.setdefault(vm.workload.name, vm.workload)
        return found

    @property
    def mixed(self) -> bool:
        """Whether the VMs run different programs, so that their operations have no common sum."""
        return len(self.workloads) > 1

    def scaled(self, factor: int) -> Scenario:
        """The scenario with every time multiplied by the factor (1 or more); the results scale with it."""
        return scale_fields(self, integer("scaled factor", factor, 1, 10**6))

    def to_toml(self, known: Iterable[Workload] = ()) -> str:
        """The scenario as TOML text; fields at their default are left out.

        A workload that equals one of `known` is written by its name only, any other in full.
        """
        shared = {workload.name: workload for workload in known}
        own = tuple(workload for name, workload in self.workloads.items() if shared.get(name) != workload)
        return toml.emit(self, own)

    @classmethod
    def from_toml(cls, path: str | Path, workloads: Mapping[str, Workload] | None = None) -> Scenario:
        """Read a scenario file. workloads: those that a VM may name besides the file's own (which come first).

        Errors: ValueError naming the file, the key and what is allowed; OSError when the file cannot be read.
        """
        file = shorten(str(path), 200)
        with open(path, "rb") as opened:
            content = opened.read(MAX_BYTES + 1)  # a device may have no end
        if len(content) > MAX_BYTES:
            raise ValueError(f"{file}: too long: must be a scenario of at most {MAX_BYTES:,} bytes")
        try:
            text = content.decode("utf-8").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"{file}: not UTF-8: {error.reason} at byte {error.start}") from None
        return cls.from_toml_text(text, workloads, file)

    @classmethod
    def from_toml_text(
        cls, text: str, workloads: Mapping[str, Workload] | None = None, file: str = "<text>"
    ) -> Scenario:
        """from_toml for text that was read already; file: what messages call it."""
        return toml.parse(cls, text, workloads or {}, file)
