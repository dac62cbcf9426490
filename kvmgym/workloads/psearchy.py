"""psearchy: parallel indexing of files; every thread takes a job of its own and builds a table in memory.

The kernel's share is .05 to .23 of the time; this is the middle. One operation is one job. Assumed (A): 1 ms of useful
time for it.
"""

from kvmgym.params import Ops, Repeat, Role, Workload
from kvmgym.workloads.profile import Family, Profile

JOB_NS = 1_000_000  # useful time


def build(profile: Profile) -> Workload:
    """Every vCPU works on its own jobs."""
    indexer = Role("indexer", (Repeat(profile.cycles_in(JOB_NS), profile.cycle()), Ops()))
    return profile.workload("files indexed by all vCPUs, each on its own", (indexer,))


FAMILY = Family(
    Profile(
        "psearchy",
        "jobs",
        kernel_share=0.14,
        working_set_kib=8192,
        lock_ops=8_000,
        locks=2,
        hold_median_ns=1_000,
        hold_sigma=1.0,
        shootdowns=120,
        kicks=100,
        halts=100,
        halt_mean_ns=300_000,
        marks="R: kernel_share (.05-.23); A: lock_ops, locks, hold, shootdowns, kicks, halts, working_set_kib, job",
    ),
    build,
)
