"""dedup (PARSEC): a pipeline that compresses a stream of chunks, with many TLB shootdowns.

A batch of CHUNKS chunks passes all stages; the share of a stage in its work is the stage's share of the vCPUs, so
that the stages keep each other busy. One operation is one chunk: a 32nd of the batch's work, about 150 µs of useful
time over all stages. Assumed (A): the shares, the batch, the queues' capacity. Left out: chunks that are found to be
duplicates skip no stage.
"""

from dataclasses import replace

from kvmgym.params import Get, Ops, Phase, Put, QueueSpec, Repeat, Role, Workload
from kvmgym.workloads.profile import Family, Profile

STAGES = (("fragment", 1), ("refine", 3), ("deduplicate", 4), ("compress", 7), ("reorder", 1))
FEW_STAGES = (("fragment", 1), ("deduplicate", 1), ("compress", 1), ("reorder", 1))
BEAT_NS = 300_000  # useful time between two batches: work on a batch of a stage with one vCPU of 16
CHUNKS = 32  # in a batch
CAPACITY = 64  # batches in a queue


def pipeline(profile: Profile, stages: tuple[tuple[str, int], ...]) -> Workload:
    """The workload with these stages (name, vCPUs); queue i leads to stage i."""
    last = len(stages) - 1
    roles = []
    for place, (name, vcpus) in enumerate(stages):
        take: tuple[Phase, ...] = (Get(f"q{place}"),) if place > 0 else ()
        give: tuple[Phase, ...] = (Put(f"q{place + 1}"),) if place < last else (Ops(CHUNKS),)
        work = Repeat(profile.cycles_in(BEAT_NS) * vcpus, profile.cycle(bursty=vcpus > 1))
        roles.append(Role(name, (*take, work, *give), vcpus))
    queues = tuple(QueueSpec(f"q{place}", CAPACITY) for place in range(1, len(stages)))
    return profile.workload(f"pipeline of {len(stages)} stages, many TLB shootdowns", tuple(roles), queues=queues)


def build(profile: Profile) -> Workload:
    """The five stages; a VM needs 5 vCPUs or more and is balanced at 16."""
    return pipeline(profile, STAGES)


def build_small(profile: Profile) -> Workload:
    """Four stages, for VMs of 4 vCPUs: the first refines as well."""
    return pipeline(profile, FEW_STAGES)


PROFILE = Profile(
    "dedup",
    "chunks",
    kernel_share=0.30,
    working_set_kib=4096,
    lock_ops=15_000,
    locks=4,
    hold_median_ns=1_000,
    hold_sigma=1.0,
    user_lock_ops=10_700,
    shootdowns=600,
    kicks=400,
    halts=110,
    halt_mean_ns=150_000,
    marks="R: kernel_share, user_lock_ops; D: shootdowns (150-2000), kicks, halts; A: lock_ops, locks, hold, "
    "user_hold, pipeline",
)
FAMILY = Family(PROFILE, build)
SMALL = Family(replace(PROFILE, name="dedup-small"), build_small)
