"""kvmgym: simulate, measure and learn Linux KVM's directed yield."""

from kvmgym.env import DirectedYieldEnv, register
from kvmgym.metrics import Result
from kvmgym.params import Costs, Dist, Host, HostTask, Ple, Scenario, Vm, Workload
from kvmgym.policies import POLICIES, Policy
from kvmgym.simulate import DeadlockError, simulate, simulate_batch
from kvmgym.vector import DirectedYieldVectorEnv

__version__ = "0.1.0"

register()

__all__ = [
    "POLICIES",
    "Costs",
    "DeadlockError",
    "DirectedYieldEnv",
    "DirectedYieldVectorEnv",
    "Dist",
    "Host",
    "HostTask",
    "Ple",
    "Policy",
    "Result",
    "Scenario",
    "Vm",
    "Workload",
    "__version__",
    "simulate",
    "simulate_batch",
]
