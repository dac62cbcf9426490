"""EEVDF by hand-computed numbers: placement, lag, delayed dequeue, migration. Conventions: runqueue.py."""

from __future__ import annotations

import pytest
from runqueue import BUSY, MS, NOBODY, NOW, average, computing, lag, numbers, put, queue, take_off
from stories import Story, us, user, work

from kvmgym.core import layout
from kvmgym.core.host import eevdf
from kvmgym.params import Block, Vm

# --- placement ------------------------------------------------------------------------------------------------------


def test_a_new_task_gets_half_a_slice():
    s = queue(2)
    assert [numbers(s, k) for k in range(2)] == [(0, 1.5), (0, 1.5)]


@pytest.mark.parametrize(
    "others, weight, left_with, v, deadline",
    [
        ([(10, 1024)], 1024, 0, 10, 13),  # no lag: at V
        ([(10, 1024)], 1024, 1, 8, 11),  # 10 - 1 * 2048/1024
        ([(10, 1024)], 1024, -1, 12, 15),
        ([(10, 2048), (16, 1024)], 1024, 3, 8, 11),  # V = 12; 12 - 3 * 4096/3072
        ([(10, 2048), (16, 1024)], 1024, -3, 16, 19),
        ([(10, 1024)], 3072, 1, 6, 7),  # 10 - 1 * 4096/1024; a slice at weight 3072 is 1 ms
    ],
)
def test_placement_keeps_the_lag(others, weight, left_with, v, deadline):
    """v = V - lag * (W + w) / W, so that the lag in the new mean is the old one; deadline v + slice / weight."""
    s = queue(len(others) + 1)
    wakee = len(others)
    take_off(s, wakee, sleep=True)
    for k, (other_v, other_weight) in enumerate(others):
        put(s, k, other_v, other_v + 3, weight=other_weight)
    s.world.se[wakee]["weight"], s.world.se[wakee]["vlag_ns"] = weight, left_with * MS
    eevdf.enqueue(s.world, wakee, 0, NOW, layout.NO)
    assert numbers(s, wakee) == (v, deadline)
    assert average(s) - v == left_with


def test_placement_without_place_lag_is_at_v():
    s = queue(2, place_lag=False)
    take_off(s, 1, sleep=True)
    put(s, 0, 10, 13)
    s.world.se[1]["vlag_ns"] = 1 * MS
    eevdf.enqueue(s.world, 1, 0, NOW, layout.NO)
    assert numbers(s, 1) == (10, 13)


def test_an_empty_queue_keeps_its_virtual_time_and_forgets_lag():
    """The last to leave was at v = 7, so that is where the next one starts, whatever its lag."""
    s = queue(2)
    take_off(s, 1, sleep=True)
    put(s, 0, 7, 9)
    take_off(s, 0, sleep=True)
    s.world.se[1]["vlag_ns"] = 1 * MS
    eevdf.enqueue(s.world, 1, 0, NOW, layout.NO)
    assert numbers(s, 1) == (7, 10)


# --- lag ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "v, other_v, weight, other_slice, kept",
    [
        (8, 10, 1024, 3, 1),  # V = 9
        (0, 20, 1024, 3, 4),  # V = 10, but no more than a slice and a tick
        (20, 0, 1024, 3, -4),
        (0, 20, 1024, 6, 7),  # the largest queued slice counts
        (0, 30, 2048, 3, 2),  # V = 10; (3 + 1) ms at weight 2048
        (0, 20, 512, 3, 8),  # V = 40/3; (3 + 1) ms at weight 512
    ],
)
def test_lag_is_clamped_to_a_slice_and_a_tick(v, other_v, weight, other_slice, kept):
    s = queue(2)
    put(s, 0, other_v, other_v + 3, slice_ms=other_slice)
    put(s, 1, v, v + 3, weight=weight)
    take_off(s, 1, sleep=False)
    assert lag(s, 1) == kept


# --- sleeping with a negative lag -----------------------------------------------------------------------------------


def sleeper(v: float, other_v: float = 0, **host) -> Story:
    """Entity 1 at v goes to sleep beside entity 0 at other_v."""
    s = queue(2, **host)
    put(s, 0, other_v, other_v + 3)
    put(s, 1, v, v + 3)
    take_off(s, 1, sleep=True)
    return s


def state(s: Story) -> tuple[int, int, int]:
    """Of entity 1: on_rq, delayed; and the tasks of the queue."""
    return int(s.world.se[1]["on_rq"]), int(s.world.se[1]["delayed"]), int(s.world.pcpu[0]["nr_running"])


def test_an_eligible_sleeper_leaves_at_once_with_its_lag():
    s = sleeper(0, 2)  # V = 1
    assert (state(s), lag(s, 1)) == ((0, 0, 1), 1)


def test_an_ineligible_sleeper_stays_queued():
    s = sleeper(2)  # V = 1
    assert state(s) == (1, 1, 2)
    assert average(s) == 1  # and still counts in V


@pytest.mark.parametrize("v", [0, 2])
def test_a_sleeper_is_nobodys_buddy(v):
    """Whether it leaves at once (v = 0) or stays queued (v = 2)."""
    s = queue(2)
    put(s, 0, 0, 3)
    put(s, 1, v, v + 3)
    s.world.rq[0]["next_buddy"] = 1
    take_off(s, 1, sleep=True)
    assert s.world.rq[0]["next_buddy"] == NOBODY


def test_without_delay_dequeue_it_leaves_with_its_debt():
    s = sleeper(2, delay_dequeue=False)
    assert (state(s), lag(s, 1)) == ((0, 0, 1), -1)


def test_it_leaves_when_the_pick_comes_to_it_and_owes_nothing():
    """Entity 0 goes on to v = 4, V = 3: entity 1 is eligible with the earlier deadline. It leaves, its lag of +1
    forgiven (DELAY_ZERO), and 0 is picked."""
    s = sleeper(2)
    put(s, 0, 4, 7)
    assert eevdf.pick_vcpu(s.world, 0, NOW) == 0
    assert (state(s), lag(s, 1)) == ((0, 0, 1), 0)


def test_it_stays_while_it_is_ineligible():
    s = sleeper(2)
    put(s, 0, 1, 4)  # V = 1.5
    assert eevdf.pick_vcpu(s.world, 0, NOW) == 0
    assert state(s) == (1, 1, 2)


def test_a_wakeup_of_a_delayed_sleeper_that_still_owes():
    """V = 1: it takes up its place again, at v = 2."""
    s = sleeper(2)
    eevdf.wake_delayed(s.world, 1, NOW)
    assert (state(s), numbers(s, 1)) == ((1, 0, 2), (2, 5))


def test_a_wakeup_of_a_delayed_sleeper_that_would_have_gained():
    """Entity 0 went on to v = 6: V = 4, its lag would be +2. DELAY_ZERO places it without lag: at 6, V of the rest."""
    s = sleeper(2)
    put(s, 0, 6, 9)
    eevdf.wake_delayed(s.world, 1, NOW)
    assert (state(s), numbers(s, 1)) == ((1, 0, 2), (6, 9))


def test_delayed_dequeue_of_a_whole_group():
    """VMs a and b, one vCPU each, in groups. a0 ran 500 us and sleeps: alone in its group it is eligible and
    leaves, but its group (0.5 ms > V = 0.25 ms) stays queued, delayed, until b has run on past it: b 1 ms, V =
    0.75 ms, at a tick."""
    vm = Vm("a", 1, work((user(500), Block(us(10**6))), name="sleeps"), pin=(0,))
    s = computing(vm, Vm("b", 1, work(BUSY), pin=(0,)), until_us=600)
    group_a = s.world.se[2]
    assert (s.entity("a0")["on_rq"], group_a["on_rq"], group_a["delayed"]) == (0, 1, 1)
    assert s.world.rq[0]["nr"] == 2
    s.until(4_000)
    assert (group_a["on_rq"], group_a["delayed"], group_a["vlag_ns"]) == (0, 0, 0)


# --- migration ------------------------------------------------------------------------------------------------------


def test_a_migrating_task_keeps_what_is_left_to_its_deadline():
    """2 of 3 ms left to the deadline, lag +1 (V = 9): on a queue at V = 100 it is at 100 - 1 * 2 = 98, deadline 100."""
    s = queue(2)
    put(s, 0, 10, 13)
    put(s, 1, 8, 10)
    take_off(s, 1, sleep=False)
    put(s, 0, 100, 103)
    eevdf.enqueue(s.world, 1, 0, NOW, layout.NO)
    assert numbers(s, 1) == (98, 100)


def test_a_sleeper_asks_for_a_whole_new_slice():
    s = queue(2)
    put(s, 0, 10, 13)
    put(s, 1, 8, 10)
    take_off(s, 1, sleep=True)
    put(s, 0, 100, 103)
    eevdf.enqueue(s.world, 1, 0, NOW, layout.NO)
    assert numbers(s, 1) == (98, 101)
