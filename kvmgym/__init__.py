"""kvmgym: simulate, measure and learn Linux KVM's directed yield."""

from kvmgym.env.single import DirectedYieldEnv, register
from kvmgym.env.vector import DirectedYieldVectorEnv
from kvmgym.measure.metrics import Result
from kvmgym.measure.simulate import simulate, simulate_batch
from kvmgym.params import Costs, Dist, Host, HostTask, Ple, Scenario, Vm, Workload
from kvmgym.policies import POLICIES, Policy
from kvmgym.world.deadlock import DeadlockError

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
