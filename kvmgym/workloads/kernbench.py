"""kernbench (kernel compile): make forks jobs, the other vCPUs run them.

Forking and linking take a 16th of a job's work, so that make on one vCPU of 16 keeps the others busy. One operation is
one job: 9.6 ms of useful time, make's part included. Assumed (A): the job's work, and at most 16 jobs waiting.
"""

from kvmgym.params import Get, Ops, Put, QueueSpec, Repeat, Role, Workload
from kvmgym.workloads.profile import VCPUS, Family, Profile

FORK_NS = 600_000  # useful time of make for one job
JOBS = 16  # forked and waiting


def build(profile: Profile) -> Workload:
    """One vCPU in 16 runs make, the others its jobs."""
    fork = profile.cycles_in(FORK_NS)
    make = Role("make", (Repeat(fork, profile.cycle(bursty=False)), Put("jobs")), 1)
    job = Role("job", (Get("jobs"), Repeat(fork * (VCPUS - 1), profile.cycle()), Ops()), VCPUS - 1)
    return profile.workload("compile jobs, mostly user code", (make, job), queues=(QueueSpec("jobs", JOBS),))


FAMILY = Family(
    Profile(
        "kernbench",
        "jobs",
        kernel_share=0.08,
        working_set_kib=1024,
        lock_ops=20_000,
        locks=8,
        hold_median_ns=600,
        hold_sigma=1.0,
        shootdowns=5,
        kicks=10,
        halts=9,
        halt_mean_ns=3_000_000,
        marks="V: kernel_share, kicks, halts; D: lock_ops; A: locks, hold, shootdowns, working_set_kib, jobs",
    ),
    build,
)
