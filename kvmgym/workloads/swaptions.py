"""swaptions (PARSEC): Monte Carlo pricing; every thread runs its own trials, and nothing joins them.

The hog beside other workloads: it takes all the time that it gets. One operation is a batch of trials, one cycle
(100 µs). Assumed (A): the batch, one hot lock with holds that do not spread but for the tail, and the length of a halt.
"""

from kvmgym.params import Ops, Role, Workload
from kvmgym.workloads.profile import Family, Profile


def build(profile: Profile) -> Workload:
    """Every vCPU runs its own trials."""
    return profile.workload(
        "Monte Carlo trials, user code without synchronisation", (Role("trial", (*profile.cycle(), Ops())),)
    )


FAMILY = Family(
    Profile(
        "swaptions",
        "trials",
        kernel_share=0.01,
        working_set_kib=512,
        lock_ops=50,
        locks=1,
        hold_median_ns=500,
        hold_sigma=0.0,
        shootdowns=1,
        kicks=5,
        halts=1,
        halt_mean_ns=100_000,
        quantum_ns=100_000,
        marks="A: kernel_share, lock_ops, locks, hold, shootdowns, kicks, halts, working_set_kib",
    ),
    build,
)
