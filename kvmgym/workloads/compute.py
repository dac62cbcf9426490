"""compute: the control. User code alone; no policy can change anything. One operation is one quantum of 1 ms."""

from kvmgym.params import Ops, Role, Workload
from kvmgym.workloads.profile import Family, Profile


def build(profile: Profile) -> Workload:
    """Every vCPU computes by itself."""
    return profile.workload("user code alone, the control", (Role("loop", (*profile.cycle(), Ops())),))


FAMILY = Family(Profile("compute", "quanta", kernel_share=0.0, working_set_kib=64, marks="A: working_set_kib"), build)
