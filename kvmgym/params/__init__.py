"""Configuration: frozen dataclasses for hosts, VMs, workloads and scenarios.

Times are ns and say so in their names. A misspelt field is a TypeError, a bad value a ValueError that names the
field, the value and what is allowed. Left out: anything random and anything compiled; core builds the world.
"""

from kvmgym.codes import (
    DEBOOSTS,
    FORFEITS,
    IPI_MODES,
    IPI_TRACKING,
    KERNEL_MODES,
    KICK_TARGETS,
    LOCK_KINDS,
    SCHEDULERS,
    SHOOTDOWN_TARGETS,
    SPIN_KINDS,
    STARTS,
)
from kvmgym.params.dist import DIST_KINDS, Dist
from kvmgym.params.errors import check, nearest
from kvmgym.params.host import HZ, PLE_PRESETS, Costs, HaltPoll, Host, Ple
from kvmgym.params.kernels import KERNELS, Kernel
from kvmgym.params.program import (
    PHASES,
    Barrier,
    Block,
    Branch,
    Choose,
    Compute,
    Get,
    Kick,
    Lock,
    Ops,
    Phase,
    Put,
    Repeat,
    Shootdown,
    Unlock,
    walk,
)
from kvmgym.params.scenario import Scenario
from kvmgym.params.vm import HostTask, Vm
from kvmgym.params.workload import BarrierSpec, Burst, LockSpec, QueueSpec, Rates, Role, Workload

__all__ = [
    "DEBOOSTS",
    "DIST_KINDS",
    "FORFEITS",
    "HZ",
    "IPI_MODES",
    "IPI_TRACKING",
    "KERNELS",
    "KERNEL_MODES",
    "KICK_TARGETS",
    "LOCK_KINDS",
    "PHASES",
    "PLE_PRESETS",
    "SCHEDULERS",
    "SHOOTDOWN_TARGETS",
    "SPIN_KINDS",
    "STARTS",
    "Barrier",
    "BarrierSpec",
    "Block",
    "Branch",
    "Burst",
    "Choose",
    "Compute",
    "Costs",
    "Dist",
    "Get",
    "HaltPoll",
    "Host",
    "HostTask",
    "Kernel",
    "Kick",
    "Lock",
    "LockSpec",
    "Ops",
    "Phase",
    "Ple",
    "Put",
    "QueueSpec",
    "Rates",
    "Repeat",
    "Role",
    "Scenario",
    "Shootdown",
    "Unlock",
    "Vm",
    "Workload",
    "check",
    "nearest",
    "walk",
]
