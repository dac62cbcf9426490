"""Where checks run: worlds on threads, progress, sample sizes, and the guests that several checks share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from kvmgym.measure.metrics import Result
from kvmgym.measure.simulate import simulate_batch
from kvmgym.params import Costs, Host, Phase, Ple, Repeat, Role, Scenario, Vm, Workload
from kvmgym.params.workload import LockSpec
from kvmgym.policies import as_policy
from kvmgym.world.blueprint import Blueprint

US, MS, S = 1_000, 1_000_000, 1_000_000_000
FOREVER = 10**9
CHUNK = 32  # worlds that are in memory at a time
Progress = Callable[[float, str], None]
T = TypeVar("T")


@dataclass
class Lab:
    """Runs the worlds of the checks. quick: fewer worlds and wider intervals; tell: called with the share done and what
    is being done."""

    quick: bool = False
    threads: int = 1
    tell: Progress | None = None
    title: str = ""
    _span: tuple[float, float] = field(default=(0.0, 1.0), repr=False)

    @property
    def limit(self) -> float:
        """The largest half-width that a statistical row may have, relative to the exact value."""
        return 0.05 if self.quick else 0.01

    def pick(self, full: T, quick: T) -> T:
        """The one that applies."""
        return quick if self.quick else full

    def each(self, items: Sequence[T]) -> Iterator[T]:
        """The items, while the share done moves on by one part in len(items) for each."""
        low, high = self._span
        step = (high - low) / max(len(items), 1)
        for place, item in enumerate(items):
            self._span = (low + step * place, low + step * (place + 1))
            yield item
            self._report(1.0)
        self._span = (low, high)

    def worlds(
        self,
        scenario: Scenario,
        policy: str,
        read: Callable[[Result], T],
        *,
        worlds: int,
        duration_ns: int,
        warmup_ns: int = 0,
    ) -> list[T]:
        """`read` of the result of each world, seeds 0, 1, 2, …, with what belongs to the policy switched on."""
        blueprint, found = Blueprint(as_policy(policy).prepare(scenario)), []
        for first in range(0, worlds, CHUNK):
            self._report(first / worlds)
            seeds = range(first, min(first + CHUNK, worlds))
            results = simulate_batch(
                blueprint, policy, seeds=seeds, duration_ns=duration_ns, warmup_ns=warmup_ns, threads=self.threads
            )
            found += [read(result) for result in results]
        return found

    def _report(self, share: float) -> None:
        if self.tell is not None:
            low, high = self._span
            self.tell(low + (high - low) * share, self.title)


def free_host(pcpus: int, slice_ns: int | None = None, grouped: bool = True) -> Host:
    """A host whose own work costs nothing, without pause-loop exits, with random ticks and first slices."""
    return Host(
        pcpus=pcpus, hz=1000, slice_ns=slice_ns, costs=Costs.zero(), ple=Ple(enabled=False), group_scheduling=grouped,
        start="random",
    )  # fmt: skip


def loop(*phases: Phase, before: tuple[Phase, ...] = ()) -> tuple[Phase, ...]:
    """A program that runs the phases for ever, after those of `before`."""
    return (*before, Repeat(FOREVER, phases))


def equal_vms(
    name: str, host: Host, program: tuple[Phase, ...], vms: int, locks: tuple[LockSpec, ...] = ()
) -> Scenario:
    """`vms` VMs that run one program, with one vCPU pinned to each pCPU."""
    work = Workload(name, "", (Role("main", program),), locks=locks)
    places = tuple(range(host.pcpus))
    return Scenario(name, host, tuple(Vm(f"vm{i}", host.pcpus, work, pin=places) for i in range(vms)))
