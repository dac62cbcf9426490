"""dbench: file-server clients, nearly all kernel, on a few hot locks. One operation is one cycle (16 µs)."""

from kvmgym.params import Ops, Role, Workload
from kvmgym.workloads.profile import Family, Profile


def build(profile: Profile) -> Workload:
    """One client a vCPU, each in its own loop."""
    client = Role("client", (*profile.cycle(), Ops()))
    return profile.workload("file-server clients, nearly all in the kernel, on a few hot locks", (client,))


FAMILY = Family(
    Profile(
        "dbench",
        "ops",
        kernel_share=0.85,
        working_set_kib=256,
        lock_ops=60_000,
        locks=6,
        hold_median_ns=800,
        hold_sigma=1.2,
        shootdowns=2,
        kicks=500,
        halts=300,
        halt_mean_ns=60_000,
        marks="R: kernel_share; A: lock_ops, locks, hold, shootdowns, kicks, halts, working_set_kib",
    ),
    build,
)
