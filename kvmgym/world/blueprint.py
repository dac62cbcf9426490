"""From a scenario to a world: the rows of bytes that the engine runs on.

A Blueprint holds what all worlds of a scenario share (the static row and a state row before the first event); `worlds`
makes E of them, one for each seed. The engine never sees a scenario.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from kvmgym import codes
from kvmgym.core import engine, layout, rng
from kvmgym.core.memory import POINTERS, view
from kvmgym.params import Barrier, Block, Compute, HostTask, Ops, Phase, Role, Scenario, Vm, Workload, walk
from kvmgym.params.errors import check, integer
from kvmgym.params.switches import engine_numbers
from kvmgym.world.programs import Program, Tables

Bytes = npt.NDArray[np.uint8]
MAX_SEED = 2**63 - 1
MAX_WORLDS, MAX_BYTES = 10**6, 2**33  # at once: worlds, and bytes of their states together


def _pack(parts: Sequence[npt.NDArray[Any]], head: int) -> Bytes:
    """One row: `head` free bytes, first byte and end of each part as int64, then the parts, each on a
    cache line."""
    bounds, end = [], head + 16 * len(parts)
    for part in parts:
        start = -(-end // layout.LINE) * layout.LINE
        end = start + part.nbytes
        bounds += [start, end]
    row = np.zeros(-(-end // layout.LINE) * layout.LINE, dtype=np.uint8)
    row[head : head + 8 * len(bounds)].view(np.int64)[:] = bounds
    for start, part in zip(bounds[::2], parts, strict=True):
        row[start : start + part.nbytes] = np.ascontiguousarray(part).view(np.uint8).reshape(-1)
    return row


def _copy(record: Any, *sources: Mapping[str, int]) -> None:
    """Write the numbers whose names a record has as fields: what kvmgym.params and core/layout.py call the same."""
    for name, value in ((name, value) for source in sources for name, value in source.items()):
        if name in record.dtype.names:
            record[name] = value


def _host_task_vm(task: HostTask) -> Vm:
    """A host task as a VM of one vCPU; the engine puts it into the root queue."""
    program: tuple[Phase, ...] = (Compute(task.run), Ops(1))
    if task.sleep is not None:
        program += (Block(task.sleep),)
    workload = Workload(task.name, "host task", (Role("task", program),), working_set_kib=0)
    pin = None if task.pin is None else (task.pin,)
    return Vm(task.name, 1, workload, weight=task.weight, pin=pin, cpus=task.cpus, ipi_tracking="off")


class Blueprint:
    """What all worlds of a scenario share.

    static: uint8 row. state: uint8 row before `boot`. trace_rows: capacity of the trace of each world.
    """

    def __init__(self, scenario: Scenario, trace_rows: int = 0) -> None:
        check(isinstance(scenario, Scenario), "scenario", scenario, "a Scenario")
        trace_rows = integer("trace_rows", trace_rows, 0, 10**9)
        self.scenario = scenario
        self.vms: tuple[Vm, ...] = (*scenario.vms, *map(_host_task_vm, scenario.host_tasks))
        self.trace_rows = trace_rows
        self.pcpus = scenario.host.pcpus
        self.firsts = [0, *np.cumsum([vm.vcpus for vm in self.vms]).tolist()]
        self.vcpus: int = self.firsts[-1]
        self.task_homes = [
            first + i % vm.vcpus
            for vm, first in zip(self.vms, self.firsts, strict=False)
            if vm.has_run_queues
            for i in range(len(vm.roles))
        ]
        counts = [len(vm.roles) if vm.has_run_queues else 0 for vm in self.vms]
        self.first_tasks = [0, *np.cumsum(counts).tolist()]
        self._build()

    @cached_property
    def labels(self) -> list[tuple[int, int]]:
        """(stream, index) of each vCPU; host tasks come after all VMs."""
        streams = [*self.scenario.streams]
        streams += [max(streams) + 1 + i for i in range(len(self.vms) - len(streams))]
        return [(stream, i) for stream, vm in zip(streams, self.vms, strict=True) for i in range(vm.vcpus)]

    def _build(self) -> None:
        tables = Tables()
        pend_words = -(-max(vm.vcpus for vm in self.vms) // 32)
        affin_words = -(-self.pcpus // 32)
        leaves = 1 << max(1, (self.pcpus + self.vcpus + len(self.task_homes) - 1).bit_length())
        vm_records, vcpus, tasks, locks, gates = self._vm_records(tables)
        order = np.argsort(np.array([stream * 4096 + i for stream, i in self.labels]), kind="stable").astype(np.int32)
        rank = np.empty_like(order)
        rank[order] = np.arange(self.vcpus, dtype=np.int32)
        vcpus["leaf"] = self.pcpus + rank
        tasks["home"][: len(self.task_homes)] = self.task_homes
        by_label = sorted(range(len(self.task_homes)), key=lambda t: (self.labels[self.task_homes[t]][0], t))
        tasks["leaf"][by_label] = self.pcpus + self.vcpus + np.arange(len(by_label))
        host = np.zeros(1, layout.HOST)
        for name in ("deadlock_vm", "resched_head", "resched_tail", "idle_head"):
            host[name] = layout.NONE
        pcpu = np.zeros(self.pcpus, layout.PCPU)
        pcpu["pair_from"] = pcpu["pair_to"] = layout.NONE
        pcpu["deboosted_ns"] = -layout.INF
        pcpu["credited_ns"] = -layout.INF
        groups = len(self.vms) * self.pcpus
        rq = np.zeros(self.pcpus + groups, layout.RQ)
        for name in ("head", "curr", "next_buddy", "last_buddy", "skip_buddy"):
            rq[name] = layout.NONE
        words = np.zeros(self.vcpus * pend_words, np.int64)
        affin = self._affinity(affin_words)
        vcpus["pcpu"] = self._placement()
        parts = {
            "host": host, "ask": np.zeros(1, layout.ASK), "pcpu": pcpu, "rq": rq,
            "se": self._entities(), "vm": vm_records, "vcpu": vcpus, "task": tasks, "lock": locks, "gate": gates,
            "pend": words, "serve": words, "goal": words, "tree_ns": np.zeros(leaves, np.int64),
            "tree": np.zeros(leaves, np.int32),
            "hist": np.zeros(len(self.vms) * layout.HISTS * layout.HIST_BINS, np.int32),
            "trace": np.zeros(max(self.trace_rows, 1), layout.TRACE),
        }  # fmt: skip
        param = self._params(leaves, pend_words, affin_words)
        phase = np.zeros(len(tables.phases), layout.PHASE)
        for i, fields in enumerate(tables.phases):
            for name, value in fields.items():
                phase[i][name] = value
        dist = np.zeros(max(len(tables.dists), 1), layout.DIST)
        for i, row in enumerate(tables.dists):
            dist[i]["unit_ns"], dist[i]["constant"], dist[i]["first"] = row
        quant = np.concatenate([np.zeros(1, np.int64), *tables.quantiles])
        dist["first"] += dist["first"] >= 0
        statics = {
            "par": param, "ent": self._constants(rank), "phase": phase, "dist": dist, "quant": quant,
            "cum": np.array([*tables.chances, 0], np.int64), "affin": affin,
            "by_leaf": np.array([*order, *(self.vcpus + t for t in by_label)], np.int32),
        }  # fmt: skip
        self.static = _pack([statics[name] for name, _ in layout.STATIC_PARTS], 0)
        self.state = _pack([parts[name] for name, _ in layout.STATE_PARTS], POINTERS)

    def _params(self, leaves: int, pend_words: int, affin_words: int) -> npt.NDArray[Any]:
        host, par = self.scenario.host, np.zeros(1, layout.PARAM)
        _copy(par[0], engine_numbers(host), engine_numbers(host.costs))
        _copy(par[0], engine_numbers(host.ple, "ple_"), engine_numbers(host.halt_poll, "poll_"))
        values: dict[str, int] = {
            "pcpus": self.pcpus, "vcpus": self.vcpus, "vms": len(self.vms),
            "locks": sum(spec.count for vm in self.vms for spec in vm.workload.locks),
            "gates": sum(len(vm.workload.queues) + len(vm.workload.barriers) for vm in self.vms), "leaves": leaves,
            "trace_cap": self.trace_rows, "pend_words": pend_words, "affin_words": affin_words,
            "tick_ns": host.tick_ns, "unit_ns": host.tick_scale, "slice_ns": host.turn_ns,
            "latency_ns": host.sched_latency_ns, "min_granularity_ns": host.sched_min_granularity_ns,
            "wakeup_granularity_ns": host.sched_wakeup_granularity_ns,
            "rewarm_q16": round(host.costs.rewarm_share * 65536),
            "lag_credit_q16": round(host.lag_credit_scale * 65536), "tasks": len(self.task_homes), "one_slice": 1,
        }  # fmt: skip
        for name, value in values.items():
            par[name] = value
        return par

    def _vm_records(self, tables: Tables) -> tuple[npt.NDArray[Any], ...]:
        """The records of VMs, vCPUs, locks and gates; the programs go into `tables`."""
        records, vcpus = np.zeros(len(self.vms), layout.VM), np.zeros(self.vcpus, layout.VCPU)
        tasks = np.zeros(max(len(self.task_homes), 1), layout.TASK)
        vcpus["boosted_ns"] = -layout.INF
        locks: list[tuple[int, int]] = []
        gates: list[tuple[int, int, int]] = []
        programs: dict[Workload, list[int]] = {}
        for g, vm in enumerate(self.vms):
            work, costs = vm.workload, self.scenario.host.costs
            burst = work.burst
            factor = burst.factor if burst else 1.0
            values: dict[str, float] = {
                "first": self.firsts[g], "vcpus": vm.vcpus, "shares": vm.weight, "locks": len(locks),
                "gates": len(gates),
                "tasks": len(vm.roles) if vm.has_run_queues else 0, "first_task": self.first_tasks[g],
                "is_task": int(g >= len(self.scenario.vms)), "bursty": int(burst is not None),
                "rewarm_ns": round(costs.rewarm_ns_at_1mib * (work.working_set_kib / 1024) ** 2),
                "burst_hi_q16": round(65536 * (1 + factor) / (2 * factor)),
                "burst_lo_q16": round(65536 * (1 + factor) / 2),
                "burst_dist": tables.dist(burst.dist) if burst else 0,
            }  # fmt: skip
            _copy(records[g], engine_numbers(vm))
            if vm.apicv:
                records[g]["ipi_tracking"] = codes.TRACK_OFF
            for name, value in values.items():
                records[g][name] = value
            for spec in work.locks:
                kind = spec.kind if spec.kind == "mutex" or vm.lock_kind is None else vm.lock_kind
                locks += [(g, codes.LOCK_KINDS.numbers[kind])] * spec.count
            of_tasks = int(vm.has_run_queues)
            gates += [(queue.capacity, 0, of_tasks) for queue in work.queues]
            gates += [(self._parties(vm, barrier.name), barrier.spin_ns, of_tasks) for barrier in work.barriers]
            if work not in programs:
                program = Program(tables, vm)
                programs[work] = [program.role(role.program) for role in work.roles]
            mine = vcpus[self.firsts[g] : self.firsts[g + 1]]
            mine["vm"], mine["idx"] = g, np.arange(vm.vcpus)
            starts = [programs[work][role] for role in vm.roles]
            mine["role_start"] = starts[: vm.vcpus]
            if vm.has_run_queues:
                first = self.first_tasks[g]
                tasks["pc"][first : first + len(starts)] = starts
        lock_records, gate_records = (
            np.zeros(max(len(locks), 1), layout.LOCK),
            np.zeros(max(len(gates), 1), layout.GATE),
        )
        for array in (lock_records, gate_records):
            array["head"] = array["tail"] = layout.NONE
        lock_records["owner"] = layout.NONE
        for i, (g, number) in enumerate(locks):
            lock_records[i]["vm"], lock_records[i]["kind"] = g, number
        for i, row in enumerate(gates):
            gate_records[i]["capacity"], gate_records[i]["spin_ns"], gate_records[i]["of_tasks"] = row
        return records, vcpus, tasks, lock_records, gate_records

    @staticmethod
    def _parties(vm: Vm, barrier: str) -> int:
        uses = [
            any(isinstance(phase, Barrier) and phase.barrier == barrier for _, phase in walk(role.program, ""))
            for role in vm.workload.roles
        ]
        return max(sum(uses[role] for role in vm.roles), 1)

    def _entities(self) -> npt.NDArray[Any]:
        """The scheduling entities: vCPUs, then the groups of each VM on each pCPU."""
        se = np.zeros(self.vcpus + len(self.vms) * self.pcpus, layout.SE)
        se["next"] = se["prev"] = layout.NONE
        se["weight"] = 1024
        for g, vm in enumerate(self.vms):
            if not self.scenario.host.group_scheduling or g >= len(self.scenario.vms):
                se["weight"][self.firsts[g] : self.firsts[g + 1]] = vm.weight
        return se

    def _constants(self, rank: npt.NDArray[np.int32]) -> npt.NDArray[Any]:
        """What never changes of the scheduling entities; a group has the label of its VM's first vCPU."""
        ent = np.zeros(self.vcpus + len(self.vms) * self.pcpus, layout.ENTITY)
        ent["slice_ns"] = self.scenario.host.turn_ns
        ent["order"][: self.vcpus] = rank
        ent["order"][self.vcpus :] = np.repeat(rank[self.firsts[:-1]], self.pcpus)
        return ent

    def _allowed(self, vm: Vm, i: int) -> list[int]:
        if vm.pin is not None:
            return [vm.pin[i]]
        return list(vm.cpus) if vm.cpus is not None else list(range(self.pcpus))

    def _affinity(self, words: int) -> npt.NDArray[np.int64]:
        rows = np.zeros((self.vcpus, words), np.int64)
        for g, vm in enumerate(self.vms):
            for i in range(vm.vcpus):
                for p in self._allowed(vm, i):
                    rows[self.firsts[g] + i, p >> 5] |= 1 << (p & 31)
        return rows.reshape(-1)

    def _placement(self) -> list[int]:
        """Where each vCPU starts: dealt round the pCPUs that it may use, across VMs in the order of their labels."""
        places, dealt = [0] * self.vcpus, 0
        for v in sorted(range(self.vcpus), key=self.labels.__getitem__):
            g = bisect_right(self.firsts, v) - 1
            vm, i = self.vms[g], v - self.firsts[g]
            allowed = self._allowed(vm, i)
            places[v] = allowed[dealt % len(allowed)]
            dealt += vm.pin is None
        return places

    def worlds(self, seeds: Sequence[int]) -> Bytes:
        """Booted state rows, uint8 [E, bytes], one for each seed. Errors: ValueError for a seed that is no whole number
        from 0 to MAX_SEED, or for more worlds than MAX_BYTES hold."""
        seeds = seed_list(seeds)
        check_room("seeds", len(seeds), self.state.size)
        rows = np.repeat(self.state[None], len(seeds), axis=0)
        for row, seed in zip(rows, seeds, strict=True):
            self._seed(row, seed)
            engine.boot_row(row, self.static, codes.STARTS.numbers[self.scenario.host.start])
        return rows

    def _seed(self, row: Bytes, seed: int) -> None:
        """Give each vCPU and lock a stream that depends on the seed and its label only (common random numbers)."""
        base = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
        world = view(row, self.static)
        labels = np.array([(stream + 1) << 20 | i for stream, i in self.labels], dtype=np.uint64)
        world.vcpu["rng"] = _mixed(base, labels)
        numbers_of_tasks = [
            (self.labels[self.firsts[g]][0] + 1) << 20 | i
            for g, vm in enumerate(self.vms)
            if vm.has_run_queues
            for i in range(len(vm.roles))
        ]
        world.task["rng"][: len(numbers_of_tasks)] = _mixed(base, np.array(numbers_of_tasks, dtype=np.uint64))
        streams = [self.labels[self.firsts[g]][0] for g in world.lock["vm"].tolist()]
        seen: dict[int, int] = {}
        numbers = []
        for stream in streams:
            seen[stream] = seen.get(stream, -1) + 1
            numbers.append(1 << 60 | (stream + 1) << 20 | seen[stream])
        world.lock["rng"] = _mixed(base, np.array(numbers, dtype=np.uint64))


def _mixed(base: np.uint64, labels: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Two rounds of the splitmix64 finaliser over base and label, uint64 [N] -> [N]."""
    mix: Any = getattr(rng.mix, "py_func", rng.mix)
    with np.errstate(over="ignore"):
        mixed: npt.NDArray[np.uint64] = mix(mix(labels * np.uint64(0x9E3779B97F4A7C15)) ^ base)
    return mixed


def seed_list(seeds: Sequence[int] | npt.NDArray[Any]) -> list[int]:
    """Seeds as ints. Errors: ValueError for what is no sequence or none, or for a seed outside 0 to MAX_SEED."""
    right = isinstance(seeds, (list, tuple, range)) or (isinstance(seeds, np.ndarray) and seeds.ndim == 1)
    check(right, "seeds", seeds, "a sequence of whole numbers")
    check(len(seeds) <= MAX_WORLDS, "number of seeds", len(seeds), f"at most {MAX_WORLDS}")
    return [integer("seed", seed, 0, MAX_SEED) for seed in seeds]


def check_room(what: str, worlds: int, width: int) -> None:
    """Refuse more worlds of `width` bytes than MAX_BYTES hold."""
    most = min(MAX_BYTES // max(width, 1), MAX_WORLDS)
    check(worlds <= most, f"number of {what}", worlds, f"at most {most}: a world of this scenario has {width} bytes")
