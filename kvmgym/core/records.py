"""Types of what compiled functions take: a record of core/layout.py each, and arrays of them.

numpy and numba know the fields of a record; here is only what tells a VM from a vCPU and both from an index, so that
mypy checks calls. Compiled code never looks at annotations, and nothing is ever made of these classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

int64: Any = np.int64  # of compiled code; an int in every respect, which numpy's types do not say
Numbers = npt.NDArray[Any]  # an array of numbers or flags that is read or written in place
Bytes = npt.NDArray[np.uint8]  # rows of worlds


class Record:
    """One record: its fields are numbers."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(name)


class Stream(Record):
    """A record with a random stream: a vCPU, a guest task or a lock."""


class Waited(Record):
    """A record with a list of waiters: a lock or a gate."""


class Vcpu(Stream):
    """VCPU_FIELDS."""


class Task(Stream):
    """TASK_FIELDS: a guest task."""


class Lock(Stream, Waited):
    """LOCK_FIELDS."""


class Gate(Waited):
    """GATE_FIELDS: a queue or barrier of a guest."""


class Vm(Record):
    """VM_FIELDS."""


class Queue(Record):
    """RQ_FIELDS: a run queue."""


class Entity(Record):
    """SE_FIELDS: a scheduling entity."""


class Ask(Record):
    """ASK_FIELDS: the open spin exit."""


class Param(Record):
    """PARAM_FIELDS: what a scenario sets."""


class Phase(Record):
    """PHASE_FIELDS: one phase of a guest program."""


class Vcpus:
    """The vCPUs of one VM, by their index in it."""

    size: int

    def __getitem__(self, index: int) -> Vcpu:
        raise IndexError(index)


PolicyFunction = Callable[[Vm, Vcpus, int, Ask], int]
