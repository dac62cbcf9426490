"""Microworkloads, one mechanism each: for tests, and to watch a policy at work.

Not from measurements: their numbers are round on purpose. One operation is one trip through the loop; of pingpong, one
round trip of the item.
"""

from kvmgym.params import (
    Block,
    Compute,
    Dist,
    Get,
    Lock,
    LockSpec,
    Ops,
    Put,
    QueueSpec,
    Rates,
    Role,
    Shootdown,
    Unlock,
    Workload,
)

THINK = Compute(Dist.exponential(4_000))
HOTLOCK = Workload(
    "hotlock",
    "one hot lock: 4 µs outside it, 1 µs inside",
    (Role("main", (THINK, Lock("hot"), Compute(Dist.constant(1_000), kernel_share=1.0), Unlock("hot"), Ops())),),
    locks=(LockSpec("hot"),),
    rates=Rates(kernel_share=0.2, lock_ops=200_000),
    marks="A",
)
SHOOTDOWNS = Workload(
    "shootdowns",
    "every vCPU shoots down the TLBs of all others, after 200 µs of user code",
    (Role("main", (Compute(Dist.exponential(200_000)), Shootdown("others"), Ops())),),
    marks="A",
)
PINGPONG = Workload(
    "pingpong",
    "pairs of vCPUs hand items to and fro through two queues, 20 µs of work at each end",
    (
        Role("ping", (Compute(Dist.exponential(20_000)), Put("to"), Get("fro"), Ops())),
        Role("pong", (Get("to"), Compute(Dist.exponential(20_000)), Put("fro"))),
    ),
    queues=(QueueSpec("to", 64), QueueSpec("fro", 64)),
    marks="A",
)
SERVER = Workload(
    "server",
    "requests of 50 µs, half in the kernel, and a halt of 150 µs after each",
    (Role("main", (Compute(Dist.exponential(50_000), kernel_share=0.5), Block(Dist.exponential(150_000)), Ops())),),
    progress="requests",
    marks="A",
)
