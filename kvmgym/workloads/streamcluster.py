"""streamcluster (PARSEC): all threads meet at a barrier after each iteration of about 1 ms.

The halts of the table are the waits at the barrier (all vCPUs but the last to arrive halt: 900 a CPU-second of 16 vCPUs
are an iteration each 1.04 ms), and as many of its reschedule IPIs are the last one's, which wakes the others one by
one. How unequal the iterations of the vCPUs are follows from the mean halt. One operation is one vCPU's iteration.
Assumed (A): halting at once at the barrier, one hot lock with holds that do not spread but for the tail. No bursts: a
vCPU in a slow turn would throttle all others for its length.
"""

import math
from dataclasses import replace

from kvmgym.params import Barrier, BarrierSpec, Ops, Repeat, Role, Workload
from kvmgym.workloads.profile import VCPUS, Family, Profile

SPREAD = 0.46  # standard deviation of a vCPU's work in an iteration, for a mean halt of 1 (measured, alone)


def build(profile: Profile) -> Workload:
    """Every vCPU works on its part, and waits for all others."""
    iterations = profile.halts * VCPUS / (VCPUS - 1)  # a CPU-second
    cycles = max(1, math.ceil(profile.cycles / iterations))
    even = replace(profile, quantum_ns=1e9 / (cycles * iterations))
    sigma = SPREAD * profile.halt_mean_ns / even.cycle_ns / math.sqrt(cycles)
    gap, event = even.cycle(bursty=False, sigma=sigma)
    work = Repeat(cycles, (event, gap))  # at the end of an iteration most others sleep, and an IPI would wake them
    return profile.workload(
        "iterations that end at a barrier of all vCPUs",
        (Role("worker", (work, Barrier("iteration"), Ops())),),
        barriers=(BarrierSpec("iteration"),),
    )


FAMILY = Family(
    Profile(
        "streamcluster",
        "iterations",
        kernel_share=0.03,
        working_set_kib=16_384,
        lock_ops=500,
        locks=1,
        hold_median_ns=500,
        hold_sigma=0.0,
        shootdowns=1,
        kicks=2_000,
        halts=900,
        halt_mean_ns=50_000,
        barrier_halts=True,
        marks="A: kernel_share, lock_ops, locks, hold, shootdowns, kicks, halts, working_set_kib, barrier",
    ),
    build,
)
