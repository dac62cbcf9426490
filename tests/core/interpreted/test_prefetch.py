"""What is asked of memory ahead of a step is what the step reads: cache lines are counted, access by access."""

from __future__ import annotations

import numpy as np
import pytest

from kvmgym.core import engine, layout
from kvmgym.core.memory import PARTS, World
from kvmgym.env import prefetch, reward, stepping
from kvmgym.env.single import DirectedYieldEnv
from kvmgym.policies import BY_NAME
from kvmgym.scenarios import equal_vms

STATIC = {name for name, _ in layout.STATIC_PARTS}
STEPS = 60


class Record:
    """A record whose reads and writes are noted as (part, line)."""

    __slots__ = ("_begin", "_lines", "_part", "_record")

    def __init__(self, record, part, begin, lines):
        for name, value in (("_record", record), ("_part", part), ("_begin", begin), ("_lines", lines)):
            object.__setattr__(self, name, value)

    def _note(self, name):
        self._lines.add((self._part, (self._begin + self._record.dtype.fields[name][1]) // 64))

    def __getattr__(self, name):
        self._note(name)
        return getattr(self._record, name)

    def __setattr__(self, name, value):
        self._note(name)
        setattr(self._record, name, value)


class Part:
    """One part of a world, whose accesses are noted."""

    def __init__(self, array, name, lines, first=0):
        self.array, self.name, self.lines, self.first, self.size = array, name, lines, first, array.size

    def begin(self, index):
        return (self.first + int(index)) * self.array.itemsize

    def __getitem__(self, index):
        if isinstance(index, slice):
            return Part(self.array[index], self.name, self.lines, self.first + index.start)
        if self.array.dtype.names:
            return Record(self.array[index], self.name, self.begin(index), self.lines)
        self.lines.add((self.name, self.begin(index) // 64))
        return self.array[index]

    def __setitem__(self, index, value):
        self.lines.add((self.name, self.begin(index) // 64))
        self.array[index] = value


@pytest.fixture
def asked(monkeypatch):
    """The lines that were asked for, (part, line)."""
    found = set()

    def note(part, index, shift):
        if isinstance(part, Part) and part.begin(index) + shift >= 0:  # before `host` lie the pointers
            found.add((part.name, (part.begin(index) + shift) // 64))

    for module in (prefetch, engine):
        monkeypatch.setattr(module, "fetch", note)
    return found


def counted(scenario, asked):
    """Lines that steps read, those of them that were not asked for, those asked for in vain; on average."""
    policy = BY_NAME["relaxed"]
    env = DirectedYieldEnv(scenario, duration_ns=10**12, kernel_agent=True)
    env.reset(seed=3)
    for _ in range(250):
        env.step(env.ask("relaxed"))
    plain, lines = env.worlds.world(0), set()
    world = World(*(Part(array, name, lines) for array, (name, _) in zip(plain, PARTS, strict=True)))
    row, mask, out = env.worlds.rows[0], env.worlds.masks[0], env.worlds.flat[0]
    totals = np.zeros(3)
    for _ in range(STEPS):
        ask = plain.ask[0]
        g, me = int(ask.vm), int(ask.me)
        vm = plain.vm[g]
        target = int(policy.engine_function(vm, plain.vcpu[vm.first : vm.first + vm.vcpus], me, ask))
        asked.clear()
        prefetch.head(world, 0)
        prefetch.early(world, g, 0)
        prefetch.late(world, g, me, target)
        prefetch.begin(world, g, me, target)
        lines.clear()
        engine.answer(world, target)
        status, _ = stepping._run_to_decision(world, row, policy.engine_function, mask, engine.STEPS)
        reward.read_sums(world, row[stepping.COLUMNS :], False)
        stepping._write_decision(world, status, row, out)
        assert status == layout.AT_DECISION
        read = {line for line in lines if line[0] not in STATIC}
        totals += len(read), len(read - asked), len(asked - read)
    return totals / STEPS


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("shape", [(8, 2, 16), (4, 1, 8)], ids=["two VMs", "one VM"])
def test_most_lines_that_a_step_reads_were_asked_for(shape, asked):
    """And not much more than is read: what is asked for in vain costs time too."""
    read, missed, in_vain = counted(equal_vms("counted", "dedup", *shape), asked)
    assert read > 30
    assert missed < read / 6 and in_vain < read * 0.6
