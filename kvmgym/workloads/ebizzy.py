"""ebizzy: memory is mapped and unmapped all the time; the mm lock is held across the shootdown to all others.

Of the 400 holds of the mm lock, 335 (the middle of 270-400) unmap and hold it across a shootdown. One operation is
one record: one cycle (100 µs), most without an event. Assumed (A): the length of a halt, and holds that do not spread
(the table has neither) but for the tail of all holds.
"""

from kvmgym.params import Ops, Role, Workload
from kvmgym.workloads.profile import Family, Profile


def build(profile: Profile) -> Workload:
    """One thread a vCPU; they meet at the mm lock only."""
    thread = Role("thread", (*profile.cycle(), Ops()))
    return profile.workload("unmapping with the mm lock held across a TLB shootdown to all others", (thread,))


FAMILY = Family(
    Profile(
        "ebizzy",
        "records",
        kernel_share=0.60,
        working_set_kib=512,
        lock_ops=400,
        locks=1,
        hold_median_ns=5_000,
        hold_sigma=0.0,
        shootdowns=335,
        shootdown_targets="others",
        shootdown_locked=True,
        kicks=50,
        halts=20,
        halt_mean_ns=100_000,
        quantum_ns=100_000,
        marks="D: kernel_share, lock_ops, shootdowns (270-400), hold; A: kicks, halts, working_set_kib",
    ),
    build,
)
