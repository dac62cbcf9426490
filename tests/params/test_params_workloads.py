"""kvmgym.params: programs, and how roles are dealt to vCPUs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paramdata import NO_TIME, QUEUES, SPACE, US, WORK, message, workload

from kvmgym.params import (
    Barrier,
    Block,
    Branch,
    Choose,
    Compute,
    Dist,
    Get,
    Kick,
    Lock,
    Ops,
    Put,
    Repeat,
    Role,
    Shootdown,
    Unlock,
    Vm,
    Workload,
    walk,
)

BLOCKED = Block(Dist.constant(US))
PROGRAM_ERRORS = [
    (
        (WORK, Lock("nmm"), Unlock("nmm")),
        f'{SPACE}[1].lock: unknown lock "nmm": did you mean "mm"? allowed: mm, inode, heap',
    ),
    (
        (Repeat(2, (Put("item"),)),),
        f'{SPACE}[0].phases[0].queue: unknown queue "item": did you mean "items"? allowed: items',
    ),
    (
        (Choose((Branch(1, (Barrier("x"),)),)),),
        f'{SPACE}[0].branches[0].phases[0].barrier: unknown barrier "x": allowed: step',
    ),
    ((WORK, Lock("mm")), f'{SPACE}: takes "mm" and does not release it in the same block'),
    (
        (WORK, Lock("mm"), Choose((Branch(1, (Unlock("mm"),)),))),
        f'{SPACE}[2].branches[0].phases[0]: unlocks "mm", but none is the lock that this block took last',
    ),
    (
        (WORK, Repeat(2, (Lock("mm"),)), Unlock("mm")),
        f'{SPACE}[1].phases: takes "mm" and does not release it in the same block',
    ),
    ((WORK, Unlock("mm")), f'{SPACE}[1]: unlocks "mm", but none is the lock that this block took last'),
    (
        (WORK, Lock("mm"), Lock("inode"), Unlock("mm"), Unlock("inode")),
        f'{SPACE}[3]: unlocks "mm", but "inode" is the lock that this block took last',
    ),
    ((WORK, Lock("mm"), Lock("mm"), Unlock("mm"), Unlock("mm")), f'{SPACE}[2]: takes "mm", which is already held'),
    (
        (Lock("mm"), Repeat(2, (BLOCKED,)), Unlock("mm")),
        f'{SPACE}[1].phases[0]: block can block, but the spinlock "mm" is held',
    ),
    ((WORK, Lock("mm"), Get("items"), Unlock("mm")), f'{SPACE}[2]: get can block, but the spinlock "mm" is held'),
    ((WORK, Lock("mm"), Put("items"), Unlock("mm")), f'{SPACE}[2]: put can block, but the spinlock "mm" is held'),
    (
        (WORK, Lock("mm"), Barrier("step"), Unlock("mm")),
        f'{SPACE}[2]: barrier can block, but the spinlock "mm" is held',
    ),
    (
        (WORK, Lock("mm"), Lock("heap"), Unlock("heap"), Unlock("mm")),
        f'{SPACE}[2]: a mutex can block, but the spinlock "mm" is held',
    ),
    ((WORK, Lock("heap", irq_off=True), Unlock("heap")), f"{SPACE}[1]: a mutex cannot switch interrupts off"),
    (
        (WORK, Lock("mm", irq_off=True), Shootdown(), Unlock("mm")),
        f'{SPACE}[2]: a shootdown with interrupts off (lock "mm") can deadlock',
    ),
    (
        (Repeat(2, (Choose((Branch(1, (Repeat(2, (WORK,)),)),)),)),),
        f"{SPACE}[0].phases[0].branches[0].phases[0]: a repeat inside another repeat",
    ),
    ((WORK, Put("items")), 'Workload(demo).queues: "items" is put to but never got from, so its users would stop'),
    ((WORK, Get("items")), 'Workload(demo).queues: "items" is got from but never put to, so its users would stop'),
    (
        (
            WORK,
            Lock("mm"),
            Lock("inode"),
            Unlock("inode"),
            Unlock("mm"),
            Lock("inode"),
            Lock("mm"),
            Unlock("mm"),
            Unlock("inode"),
        ),
        'Workload(demo): locks "mm" and "inode" are taken in both orders',
    ),
    (
        (WORK, Lock("mm"), Shootdown(), Unlock("mm"), Lock("mm", irq_off=True), Unlock("mm")),
        f'{SPACE}[4]: waits with interrupts off behind "mm", held across the shootdown at {SPACE}[2]',
    ),
    (
        (
            *(WORK, Lock("mm"), Shootdown(), Unlock("mm"), Lock("inode"), Lock("mm"), Unlock("mm"), Unlock("inode")),
            *(Lock("inode", irq_off=True), Unlock("inode")),
        ),
        f'{SPACE}[8]: waits with interrupts off behind "mm", held across the shootdown at {SPACE}[2]',
    ),
]
TIMELESS = [
    (Ops(),),
    (Compute(Dist.constant(0)),),
    (Compute(Dist.constant(0.4)),),
    (Shootdown(), Kick(), Lock("mm"), Unlock("mm")),
    (Choose((Branch(1, (WORK,)), Branch(1))),),
    (Repeat(5, (Choose((Branch(1, (BLOCKED,)), Branch(0.1, (Ops(),)))),)),),
]


@pytest.mark.parametrize("phases, expected", PROGRAM_ERRORS, ids=[text for _, text in PROGRAM_ERRORS])
def test_a_faulty_program_is_refused_before_anything_runs(phases, expected):
    assert message(lambda: workload(*phases)) == expected


@pytest.mark.parametrize("phases", TIMELESS)
def test_a_program_that_can_take_no_time_is_refused(phases):
    assert message(lambda: workload(*phases)) == NO_TIME


@pytest.mark.parametrize(
    "phases",
    [
        (Choose((Branch(1, (WORK,)), Branch(0))),),  # a branch without weight is never taken
        (Choose((Branch(1, (WORK,)), Branch(1, (BLOCKED,)))),),
        (Lock("heap"), BLOCKED, Lock("mm"), Unlock("mm"), Unlock("heap")),  # a mutex may be held while blocked
        (WORK, Lock("mm"), Shootdown(), Unlock("mm"), Lock("inode", irq_off=True), Unlock("inode")),
        (WORK, Put("items"), Get("items"), Barrier("step"), Kick("next"), Ops(3)),
        (Repeat(2, (WORK,)), Repeat(3, (Ops(),))),
    ],
)
def test_a_sound_program_is_taken(phases):
    assert workload(*phases).roles[0].program == phases


def test_walk_gives_every_phase_with_its_path():
    program = (WORK, Repeat(2, (Choose((Branch(1), Branch(1, (Ops(),)))), Kick())))
    assert [(path, phase.kind) for path, phase in walk(program, "p")] == [
        ("p[0]", "compute"),
        ("p[1]", "repeat"),
        ("p[1].phases[0]", "choose"),
        ("p[1].phases[0].branches[1].phases[0]", "ops"),
        ("p[1].phases[1]", "kick"),
    ]


def dealt(shares, vcpus):
    roles = tuple(Role(f"r{place}", (WORK,), share) for place, share in enumerate(shares))
    counts = np.bincount(Workload("w", "", roles).deal_roles(vcpus), minlength=len(shares))
    return counts.tolist()


def test_roles_are_dealt_by_largest_remainder_with_one_each():
    assert dealt((0.5, 0.3, 0.2), 10) == [5, 3, 2]
    assert dealt((1, 1, 1), 16) == [6, 5, 5]
    assert dealt((0.1, 0.2, 0.7), 16) == [2, 3, 11]
    assert dealt((100, 1, 1), 4) == [2, 1, 1]
    assert dealt((1, 100, 1), 2) == [0, 2, 0]
    assert dealt((1, 1, 1), 2) == [1, 1, 0]
    assert Workload("w", "", (Role("a", (WORK,), 1), Role("b", (WORK,), 2))).deal_roles(3) == (0, 1, 1)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=8), st.integers(1, 64))
def test_dealing_keeps_the_number_and_gives_everybody_one(shares, vcpus):
    counts = dealt(shares, vcpus)
    assert sum(counts) == vcpus
    assert vcpus < len(shares) or min(counts) >= 1


def test_a_vm_has_vcpus_for_both_ends_of_its_queues():
    pipeline = Workload(
        "pipe", "", (Role("in", (WORK, Put("items"))), Role("out", (WORK, Get("items")))), queues=QUEUES
    )
    assert Vm("a", 2, pipeline).roles == (0, 1)
    expected = "Vm.vcpus = 1: must be 2 or more for workload pipe, one for each role, because its queues join them"
    assert message(lambda: Vm("a", 1, pipeline)) == expected
