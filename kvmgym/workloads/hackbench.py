"""hackbench: groups of senders and receivers that pass short messages through pipes, nearly all kernel.

A group is 20 senders and 20 receivers, so 40 guest tasks, which the guest schedules on fewer vCPUs. The halts are the
tasks' own: a vCPU halts only when none of its tasks can run, about once in ten of them on 16 vCPUs. One operation is
one message: a cycle (9 µs) at each end. Assumed (A): the work of a message, and a pipe of 64 messages. Left out: a
pipe for each pair; the group's senders and receivers share one.
"""

from kvmgym.params import Get, Ops, Put, QueueSpec, Role, Workload
from kvmgym.workloads.profile import Family, Profile

PEERS = 20  # senders, and as many receivers
PIPE = 64  # messages in the pipe


def build(profile: Profile) -> Workload:
    """Half of the guest tasks send, half receive."""
    sender = Role("sender", (*profile.cycle(), Put("pipe")), PEERS)
    receiver = Role("receiver", (Get("pipe"), *profile.cycle(), Ops()), PEERS)
    return profile.workload(
        "messages through pipes, very many wake-ups", (sender, receiver), queues=(QueueSpec("pipe", PIPE),)
    )


FAMILY = Family(
    Profile(
        "hackbench",
        "messages",
        kernel_share=0.85,
        working_set_kib=64,
        lock_ops=80_000,
        locks=8,
        hold_median_ns=500,
        hold_sigma=0.8,
        kicks=20_000,
        halts=8_000,
        halt_mean_ns=20_000,
        marks="R: kernel_share; A: lock_ops, locks, hold, kicks, halts, working_set_kib, message, pipe",
    ),
    build,
    tasks=2 * PEERS,
)
