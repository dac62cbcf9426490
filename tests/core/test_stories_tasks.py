"""Trace stories of a guest that schedules more tasks than it has vCPUs; tests/stories.py has the conventions.

Each task has a lock of its own name ("t0" is task 0's), which it takes and releases to be seen in the trace. The order
of a run queue and the guest's slice are a simplification of ours, not the kernel's EEVDF.
"""

from __future__ import annotations

from dataclasses import replace

from stories import FAR, Story, hold, kernel, multitasking, story, us, user

from kvmgym.params import Block, Costs, Get, Lock, LockSpec, Put, QueueSpec, Repeat, Unlock

FOREVER = Block(us(10**6))
TOLD = {"lock", "block", "wake"}


def seen(task: int, n: float = 10) -> tuple:
    """n µs in ring 0 under the task's own lock."""
    return hold(f"t{task}", n)


def guest(*programs: tuple, pcpus: int = 1, switch_us: float = 0, **tables) -> Story:
    """VM a: a vCPU a pCPU, and a task a program."""
    locks = tuple(LockSpec(f"t{i}", kind="fifo") for i in range(len(programs)))
    a = multitasking("a", *programs, pin=tuple(range(pcpus)), locks=locks, **tables)
    return story(a, pcpus=pcpus, costs=replace(Costs.zero(), guest_switch_ns=round(switch_us * 1_000)))


def test_when_a_task_blocks_another_runs():
    """Task 0: 100 + 10 µs, then it sleeps 450. Task 1: 300 + 10 from 110 on, then 500. Both asleep at 420, the vCPU
    halts; task 0's timer fires at 560 and it goes round again. Both asleep at 670; 1's timer at 920; 0's at 1120 finds
    the vCPU busy with 1, which sleeps at 1230, as 0 does at 1340."""
    told = guest((user(100), *seen(0), Block(us(450))), (user(300), *seen(1), Block(us(500)))).until(1_400)
    assert told.tell() == [
        "0us a0 run p0",
        "100us a0 lock t0",
        "110us a0 unlock t0",
        "410us a0 lock t1",
        "420us a0 unlock t1",
        "420us a0 block p0",
        "560us a0 wake p0",
        "560us a0 run p0",
        "560us a0 irq",
        "660us a0 lock t0",
        "670us a0 unlock t0",
        "670us a0 block p0",
        "920us a0 wake p0",
        "920us a0 run p0",
        "920us a0 irq",
        "1120us a0 irq",
        "1220us a0 lock t1",
        "1230us a0 unlock t1",
        "1330us a0 lock t0",
        "1340us a0 unlock t0",
        "1340us a0 block p0",
    ]


def test_one_task_a_vcpu_halts_it_whenever_it_blocks():
    """The same two programs, each on a vCPU of its own."""
    programs = (user(100), *seen(0), Block(us(450))), (user(300), *seen(1), Block(us(500)))
    told = guest(*programs, pcpus=2).until(600)
    assert told.tell(only=TOLD) == [
        "100us a0 lock t0",
        "110us a0 block p0",
        "300us a1 lock t1",
        "310us a1 block p1",
        "560us a0 wake p0",
    ]
    assert told.counts("a", "guest_switches") == [0]


def test_a_switch_of_tasks_costs_time():
    """1.5 µs: task 1's 300 µs begin at 111.5, and task 2's 100 at 111.5 + 310 + 1.5 = 423."""
    programs = (user(100), *seen(0), FOREVER), (user(300), *seen(1), FOREVER), (user(100), *seen(2), FOREVER)
    told = guest(*programs, switch_us=1.5).until(600)
    assert told.tell(only=TOLD) == [
        "100us a0 lock t0",
        "411.5us a0 lock t1",
        "523us a0 lock t2",
        "533us a0 block p0",
    ]
    assert told.counts("a", "guest_switches") == [2]


def test_runnable_tasks_take_turns_in_the_order_they_woke():
    """Each computes 1 µs and sleeps: task 0 until 1 + 9 = 10, task 1 until 2 + 40, task 2 until 3 + 20. Task 0 then
    works to 110; 2 woke at 23 and 1 at 42."""
    told = guest(
        (user(1), Block(us(9)), *seen(0, 100), FOREVER),
        (user(1), Block(us(40)), *seen(1, 100), FOREVER),
        (user(1), Block(us(20)), *seen(2, 100), FOREVER),
    ).until(400)
    assert told.tell(only=TOLD) == [
        "3us a0 block p0",
        "10us a0 wake p0",
        "10us a0 lock t0",
        "110us a0 lock t2",
        "210us a0 lock t1",
        "310us a0 block p0",
    ]


def test_an_empty_queue_lets_another_task_run():
    """Task 0 finds the queue empty at 0; task 1 works 100 µs and puts an item, for which task 0 need not be kicked; it
    goes on when task 1 sleeps, at 210."""
    told = guest(
        (Get("q"), *seen(0), FOREVER),
        (user(100), Put("q"), *seen(1, 110), FOREVER),
        queues=(QueueSpec("q", 1),),
    ).until(400)
    assert told.tell() == [
        "0us a0 run p0",
        "100us a0 lock t1",
        "210us a0 unlock t1",
        "210us a0 lock t0",
        "220us a0 unlock t0",
        "220us a0 block p0",
    ]


def test_a_full_queue_lets_another_task_run():
    """Capacity 1. Task 0 puts two items: the second waits until task 1 has taken the first, at 50."""
    told = guest(
        (Put("q"), Put("q"), *seen(0), FOREVER),
        (user(50), Get("q"), *seen(1), FOREVER),
        queues=(QueueSpec("q", 1),),
    ).until(400)
    assert told.tell(only=TOLD) == ["50us a0 lock t1", "60us a0 lock t0", "70us a0 block p0"]


def test_a_slice_of_3_ms_ends_at_the_next_phase():
    """Task 0 computes a ms at a time: its turn is over at 3 ms. Task 1 has 0.5 ms of its own and sleeps."""
    told = guest((user(1_000),), (user(500), *seen(1), FOREVER)).until(5_000)
    assert told.tell(only=TOLD) == ["3500us a0 lock t1"]
    assert told.counts("a", "guest_switches") == [2]


def test_a_phase_is_not_cut():
    """Task 0's first phase is 5 ms long. Task 1 begins at 5 ms; its turn is over at the end of its third phase.
    Its third lock comes when task 0 has gone to sleep, at 8330."""
    told = guest((user(5_000), *seen(0), FOREVER), (Repeat(4, (user(1_100), *seen(1))), FAR)).until(9_000)
    assert told.tell(only={"lock"}) == [
        "6100us a0 lock t1",
        "7210us a0 lock t1",
        "8320us a0 lock t0",
        "8330us a0 lock t1",
    ]


def test_two_tasks_that_never_sleep_share_the_vcpu():
    """Phases of a ms, and locks held for no time: 0-3 ms task 0, 3-6 task 1, 6-9 task 0, 9-12 task 1. The lock after a
    third phase comes with the next turn."""
    told = guest((kernel(1_000), *seen(0, 0)), (kernel(1_000), *seen(1, 0))).until(11_500)
    times = {"t0": (1, 2, 6, 7, 8), "t1": (4, 5, 9, 10, 11)}
    expected = sorted((ms, lock) for lock, at in times.items() for ms in at)
    assert told.tell(only={"lock"}) == [f"{ms}000us a0 lock {lock}" for ms, lock in expected]


def test_nobody_loses_the_vcpu_under_a_spinlock():
    """Task 0 holds its lock 4 ms in four phases: its turn is over, but goes on until the unlock."""
    held = (Lock("t0"), *[kernel(1_000)] * 4, Unlock("t0"))
    told = guest((*held, user(100), FOREVER), (*seen(1), FOREVER)).until(5_000)
    assert told.tell(only={"lock", "unlock"}) == [
        "0us a0 lock t0",
        "4000us a0 unlock t0",
        "4000us a0 lock t1",
        "4010us a0 unlock t1",
    ]


def test_a_task_is_woken_on_its_home_vcpu_by_a_reschedule_ipi():
    """Tasks 0 and 2 belong to a0, 1 and 3 to a1. Task 1 waits at the queue and 3 sleeps, so a1 halts at 0. Task 0 puts
    an item at 10 µs."""
    told = guest(
        (user(10), Put("q"), *seen(0), FOREVER),
        (Get("q"), *seen(1), FOREVER),
        (*seen(2), FOREVER),
        (FOREVER,),
        pcpus=2,
        queues=(QueueSpec("q", 1),),
    ).until(100)
    assert told.tell(leave={"unlock"}) == [
        "0us a0 run p0",
        "0us a1 run p1",
        "0us a1 block p1",
        "10us a1 wake p1",
        "10us a0 send a1",
        "10us a0 lock t0",
        "10us a1 run p1",
        "10us a1 irq",
        "10us a1 lock t1",
        "20us a0 lock t2",
        "20us a1 block p1",
        "30us a0 block p0",
    ]


def test_a_task_whose_vcpu_is_busy_waits_there():
    """Task 1's item comes at 10 µs, but its home a1 is with task 3 until 200; a0, halted since 30, takes nothing over.
    Whether a1 hears of it is not asked here."""
    told = guest(
        (user(10), Put("q"), *seen(0), FOREVER),
        (Get("q"), *seen(1), FOREVER),
        (*seen(2), FOREVER),
        (user(190), *seen(3), FOREVER),
        pcpus=2,
        queues=(QueueSpec("q", 1),),
    ).until(300)
    assert told.tell(only=TOLD) == [
        "10us a0 lock t0",
        "20us a0 lock t2",
        "30us a0 block p0",
        "190us a1 lock t3",
        "200us a1 lock t1",
        "210us a1 block p1",
    ]
