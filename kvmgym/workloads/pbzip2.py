"""pbzip2: a file is compressed block by block; one thread reads blocks into a queue, the others compress them.

Reading takes a 16th of a block's work, so that one vCPU of 16 keeps the others busy. One operation is one block: 50 ms
of useful time to compress it and 3.3 ms to read it. Assumed (A): the block's work, and at most 32 blocks waiting.
Left out: writing the blocks in order.
"""

from kvmgym.params import Get, Ops, Put, QueueSpec, Repeat, Role, Workload
from kvmgym.workloads.profile import VCPUS, Family, Profile

BLOCK_NS = 50_000_000  # useful time to compress one block
BLOCKS = 32  # read and waiting


def build(profile: Profile) -> Workload:
    """One vCPU in 16 reads, the others compress."""
    read = profile.cycles_in(BLOCK_NS / (VCPUS - 1))
    reader = Role("reader", (Repeat(read, profile.cycle(bursty=False)), Put("blocks")), 1)
    compressor = Role("compressor", (Get("blocks"), Repeat(read * (VCPUS - 1), profile.cycle()), Ops()), VCPUS - 1)
    return profile.workload(
        "blocks compressed from a queue, nearly all user code",
        (reader, compressor),
        queues=(QueueSpec("blocks", BLOCKS),),
    )


FAMILY = Family(
    Profile(
        "pbzip2",
        "blocks",
        kernel_share=0.05,
        working_set_kib=8192,
        lock_ops=1_000,
        locks=2,
        hold_median_ns=600,
        hold_sigma=1.0,
        shootdowns=40,
        kicks=100,
        halts=50,
        halt_mean_ns=200_000,
        quantum_ns=100_000,
        marks="V: kernel_share; A: lock_ops, locks, hold, shootdowns, kicks, halts, working_set_kib, block, queue",
    ),
    build,
)
