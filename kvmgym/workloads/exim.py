"""exim: a mail server; each message forks, writes files and delivers, mostly in the kernel, on a dozen hot locks.

One operation is one message. Assumed (A): 1 ms of useful time for it.
"""

from kvmgym.params import Ops, Repeat, Role, Workload
from kvmgym.workloads.profile import Family, Profile

MESSAGE_NS = 1_000_000  # useful time


def build(profile: Profile) -> Workload:
    """Every vCPU delivers its own messages; they meet at the kernel's locks only."""
    server = Role("server", (Repeat(profile.cycles_in(MESSAGE_NS), profile.cycle()), Ops()))
    return profile.workload("a mail server, mostly in the kernel, on a dozen hot locks", (server,))


FAMILY = Family(
    Profile(
        "exim",
        "messages",
        kernel_share=0.69,
        working_set_kib=512,
        lock_ops=50_000,
        locks=12,
        hold_median_ns=1_000,
        hold_sigma=1.2,
        shootdowns=30,
        kicks=800,
        halts=600,
        halt_mean_ns=100_000,
        marks="R: kernel_share; A: lock_ops, locks, hold, shootdowns, kicks, halts, working_set_kib, message",
    ),
    build,
)
