"""memclone: every thread maps memory of its own and touches page after page; two locks of the address space are hot.

One operation is one page: one cycle (25 µs). Assumed (A): the length of a halt, and that a page is a cycle. With 16
busy vCPUs the hotter lock is held nearly all the time, so that some of them always spin.
"""

from kvmgym.params import Ops, Role, Workload
from kvmgym.workloads.profile import Family, Profile


def build(profile: Profile) -> Workload:
    """One thread a vCPU; they meet at the locks of the address space."""
    thread = Role("thread", (*profile.cycle(), Ops()))
    return profile.workload("page faults of all vCPUs in one address space, two hot locks", (thread,))


FAMILY = Family(
    Profile(
        "memclone",
        "pages",
        kernel_share=0.90,
        working_set_kib=16_384,
        lock_ops=40_000,
        locks=2,
        hold_median_ns=1_200,
        hold_sigma=1.0,
        shootdowns=300,
        kicks=50,
        halts=10,
        halt_mean_ns=100_000,
        marks="R: kernel_share; A: lock_ops, locks, hold, shootdowns, kicks, halts, working_set_kib, page",
    ),
    build,
)
