"""vips (PARSEC): threads take tiles of an image from a pool that one thread fills.

Filling takes a 16th of a tile's work, so that one vCPU of 16 keeps the others busy. One operation is one tile: 3.2 ms
of useful time, the filling included. Assumed (A): the tile's work and the pool of two strips of 21 tiles.
"""

from kvmgym.params import Get, Ops, Put, QueueSpec, Repeat, Role, Workload
from kvmgym.workloads.profile import VCPUS, Family, Profile

FILL_NS = 200_000  # useful time to put one tile into the pool
POOL = 42  # tiles


def build(profile: Profile) -> Workload:
    """One vCPU in 16 fills the pool, the others work on tiles."""
    fill = profile.cycles_in(FILL_NS)
    source = Role("source", (Repeat(fill, profile.cycle(bursty=False)), Put("pool")), 1)
    worker = Role("worker", (Get("pool"), Repeat(fill * (VCPUS - 1), profile.cycle()), Ops()), VCPUS - 1)
    return profile.workload(
        "tiles taken from a pool, TLB shootdowns", (source, worker), queues=(QueueSpec("pool", POOL),)
    )


FAMILY = Family(
    Profile(
        "vips",
        "tiles",
        kernel_share=0.12,
        working_set_kib=2048,
        lock_ops=6_000,
        locks=4,
        hold_median_ns=800,
        hold_sigma=1.0,
        user_lock_ops=2_700,
        shootdowns=250,
        kicks=500,
        halts=510,
        halt_mean_ns=100_000,
        marks="R: kernel_share, user_lock_ops; D: shootdowns (80-800), kicks, halts; A: lock_ops, locks, hold, "
        "user_hold, pool",
    ),
    build,
)
