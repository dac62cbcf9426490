"""V12: names, numbers and units do not matter. The same world under other labels gives the same numbers, exactly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

from kvmgym.core.memory import view
from kvmgym.measure.metrics import Result
from kvmgym.measure.simulate import advance, simulate, simulate_batch
from kvmgym.params import (
    Branch,
    Choose,
    Compute,
    Dist,
    Host,
    Kick,
    Lock,
    Ops,
    Role,
    Scenario,
    Shootdown,
    Unlock,
    Vm,
    Workload,
)
from kvmgym.policies import POLICIES
from kvmgym.validate.conservation import SPIN_LOCKS, everything
from kvmgym.validate.lab import MS, US, Lab
from kvmgym.validate.rows import Row, exact
from kvmgym.world.blueprint import Blueprint

Readings = dict[str, int]
BIG_HOST = 11  # pCPUs that everything's 6 are moved to, order kept
MOVED = (0, 2, 3, 7, 8, 10)
SHUFFLED = (4, 0, 5, 2, 1, 3)


def readings(result: Result, places: Sequence[int] | None = None) -> Readings:
    """Every whole number of a result, by name. places: which pCPU to read as pCPU 0, 1, …; histograms are left out, for
    their bins do not scale."""
    found: Readings = {"events": result.events, "decisions": result.decisions}
    for vm in (*result.vms, *result.tasks):
        found |= dict(_flat(vm.name, asdict(vm)))
    for place, p in enumerate(places or range(len(result.pcpus))):
        found |= dict(_flat(f"pcpu{place}", asdict(result.pcpus[p])))
    numbers: dict[int, int] = {}
    for lock in result.locks:
        numbers[lock.vm] = numbers.get(lock.vm, -1) + 1
        values = {name: value for name, value in asdict(lock).items() if name != "vm"}
        found |= dict(_flat(f"{result.vms[lock.vm].name}.lock{numbers[lock.vm]}", values))
    return found


def _flat(path: str, value: Any) -> Iterable[tuple[str, int]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _flat(f"{path}.{name}", part)
    elif isinstance(value, (list, tuple)):
        for place, part in enumerate(value):
            yield from _flat(f"{path}[{place}]", part)
    elif isinstance(value, int):
        yield path, value


def differences(a: Readings, b: Readings, factor: int = 1) -> int:
    """How many of the numbers of `a`, times multiplied by `factor`, are not the same in `b`."""
    expected = {name: value * factor if name.endswith("_ns") else value for name, value in a.items()}
    return sum(expected.get(name) != b.get(name) for name in expected.keys() | b.keys())


def pinned(places: Sequence[int], pcpus: int) -> Scenario:
    """`everything` with each vCPU pinned, the pin p to pCPU places[p] of `pcpus`; ticks and slices begin at random."""
    scenario = everything(start="random", pcpus=pcpus, slice_ns=2_100_000)
    vms = tuple(replace(vm, pin=tuple(places[i % 6] for i in range(vm.vcpus))) for vm in scenario.vms)
    tasks = tuple(replace(task, pin=places[1 + i]) for i, task in enumerate(scenario.host_tasks))
    return replace(scenario, vms=vms, host_tasks=tasks)


def awake() -> Scenario:
    """Guests that never sleep and stay on their pCPUs: locks, shootdowns, kicks and yields, with all costs.

    A scheduler that counts whole ns must round where it divides: the mean of virtual times at which a waking or moving
    vCPU is placed, and virtual time at a weight that is no power of two. Neither happens here.
    """
    held = Compute(Dist.exponential(3 * US), kernel_share=1.0)
    kinds = [Branch(1, (Lock(lock.name), held, Unlock(lock.name))) for lock in SPIN_LOCKS[:2]]
    sends = [Branch(1, (phase,)) for phase in (Shootdown("others"), Shootdown("one"), Kick("next"))]
    choice = Choose((*kinds, *sends))
    program = (Compute(Dist.lognormal(60 * US, 0.8), kernel_share=0.3), choice, Ops())
    work = Workload("awake", "", (Role("main", program),), SPIN_LOCKS, working_set_kib=256)
    host = Host(pcpus=8, start="random", balance=False)
    return Scenario("awake", host, tuple(Vm(f"vm{i}", 8, work) for i in range(3)))


def check_invariance(lab: Lab) -> list[Row]:
    """V12: VMs and pCPUs in another order, all times multiplied, the same seed again."""
    parts = (_relabelled_vms, _permuted_pcpus, _moved_pcpus, _scaled, _again, _batched)
    return [row for part in lab.each(parts) for row in part(lab)]


def _read(lab: Lab, scenario: Scenario, policy: str, factor: int = 1) -> list[Result]:
    return lab.worlds(
        scenario,
        policy,
        lambda result: result,
        worlds=lab.pick(4, 1),
        duration_ns=lab.pick(200 * MS, 50 * MS) * factor,
        warmup_ns=10 * MS * factor,
    )


def _count(name: str, pairs: Sequence[tuple[Readings, Readings]], factor: int = 1) -> Row:
    numbers = sum(len(a) for a, _ in pairs)
    worst = sum(differences(a, b, factor) for a, b in pairs)
    return exact(f"{name}: of {numbers:,} numbers differ", 0, worst)


def _relabelled_vms(lab: Lab) -> list[Row]:
    before = everything(start="random")
    after = replace(before, vms=tuple(before.vms[i] for i in (2, 0, 1)))
    pairs = []
    for policy in lab.each(POLICIES):
        runs = zip(_read(lab, before, policy.name), _read(lab, after, policy.name), strict=True)
        pairs += [(readings(a), readings(b)) for a, b in runs]
    return [_count("VMs in another order, all policies", pairs)]


def _permuted_pcpus(lab: Lab) -> list[Row]:
    """Policy `none`: yields bring pCPUs in step, and events of the same ns go by pCPU number."""
    runs = zip(_read(lab, pinned(range(6), 6), "none"), _read(lab, pinned(SHUFFLED, 6), "none"), strict=True)
    pairs = [(readings(a), readings(b, SHUFFLED)) for a, b in runs]
    return [_count("pCPUs permuted, none", pairs)]


def _moved_pcpus(lab: Lab) -> list[Row]:
    pairs = []
    for policy in lab.each(POLICIES):
        runs = zip(
            _read(lab, pinned(range(6), 6), policy.name), _read(lab, pinned(MOVED, BIG_HOST), policy.name), strict=True
        )
        pairs += [(readings(a), readings(b, MOVED)) for a, b in runs]
    return [_count("pCPUs moved in a larger host, all policies", pairs)]


def _scaled(lab: Lab) -> list[Row]:
    rows = []
    scenario = awake()
    for factor in lab.each((2, 3, 1000)):
        pairs = []
        for policy in lab.each(("none", "legacy", "relaxed")):
            short = _read(lab, scenario, policy)
            long = _read(lab, scenario.scaled(factor), policy, factor)
            pairs += [(readings(a), readings(b)) for a, b in zip(short, long, strict=True)]
        rows.append(_count(f"times × {factor}", pairs, factor))
    return rows


def _again(lab: Lab) -> list[Row]:
    scenario, rows = everything(start="random"), 0
    differing = 0
    for policy in POLICIES:
        blueprint = Blueprint(policy.prepare(scenario), trace_rows=lab.pick(500_000, 50_000))
        traces = []
        for row in (blueprint.worlds([5])[0], blueprint.worlds([5])[0]):
            world = view(row, blueprint.static)
            policy.install(world)
            advance(blueprint, row, lab.pick(200 * MS, 20 * MS), policy)
            traces.append(world.trace[: int(world.host[0]["trace_len"])].copy())
        rows += len(traces[0])
        length = max(map(len, traces))
        differing += length if len(traces[0]) != len(traces[1]) else int((traces[0] != traces[1]).sum())
    return [exact(f"same seed again: of {rows:,} trace rows differ", 0, differing)]


def _batched(lab: Lab) -> list[Row]:
    """Worlds alone and in a batch on threads."""
    scenario = everything(start="random")
    times: dict[str, Any] = {"duration_ns": lab.pick(200 * MS, 50 * MS), "warmup_ns": 10 * MS}
    pairs = []
    for policy in lab.each(("legacy", "relaxed")):
        batch = simulate_batch(scenario, policy, seeds=range(4), threads=4, **times)
        pairs += [(readings(a), readings(simulate(scenario, policy, seed=a.seed, **times))) for a in batch]
    return [_count("alone or in a batch on 4 threads", pairs)]
