"""EEVDF by hand-computed numbers: virtual time, the pick, slices and their protection. Conventions: runqueue.py."""

from __future__ import annotations

import pytest
from entities import change
from runqueue import MS, NOBODY, average, numbers, pick, protect, put, queue, take_off
from stories import Story

from kvmgym.core.check import host
from kvmgym.core.host import eevdf, entities

# --- virtual time and eligibility -----------------------------------------------------------------------------------


def test_v_is_the_weighted_mean_with_the_current_included():
    """(2048*1 + 1024*4 + 1024*10) / 4096 = 4."""
    s = queue(3)
    put(s, 0, 1, weight=2048)
    put(s, 1, 4)
    put(s, 2, 10)
    assert average(s) == 4
    assert [bool(eevdf.eligible(s.world, k)) for k in range(3)] == [True, True, False]


def test_an_entity_at_v_is_eligible_and_one_just_past_it_is_not():
    """Exact at the ns: (0 + 1) / 2 = 0.5, so 1 ns is past V although V rounds either way."""
    s = queue(2)
    for k, v in enumerate((0, 1)):
        change(s.world, k, vruntime_ns=v)
    assert [bool(eevdf.eligible(s.world, k)) for k in range(2)] == [True, False]
    change(s.world, 1, vruntime_ns=0)
    assert [bool(eevdf.eligible(s.world, k)) for k in range(2)] == [True, True]


@pytest.mark.parametrize("base", [0, -(10**15), 10**15])
def test_v_does_not_depend_on_where_virtual_time_began(base):
    """-7 and +2 about the base, weights 1024 and 512: V = base + (-14 + 2) / 3 = base - 4."""
    s = queue(2)
    put(s, 0, 0)
    put(s, 1, 0, weight=512)
    change(s.world, 0, vruntime_ns=base - 7)
    change(s.world, 1, vruntime_ns=base + 2)
    assert int(entities.average(s.world, 0)) == base - 4
    assert [bool(eevdf.eligible(s.world, k)) for k in range(2)] == [True, False]


def test_many_of_the_heaviest_join_at_once_where_the_lightest_ran_alone():
    """V has gone 2^39 ns when a hundred entities of 2^18 come in the same ns: they join at V, none is passed over."""
    s = queue(101)
    for v in range(1, 101):
        take_off(s, v, sleep=False)
        s.world.se[v]["weight"], s.world.se[v]["vlag_ns"], s.world.se[v]["rel_deadline"] = 1 << 18, 0, 0
    change(s.world, 0, weight=2, vruntime_ns=int(s.world.rq[0]["zero_vruntime_ns"]) + (1 << 39))
    at = int(s.world.se[0]["vruntime_ns"])
    for v in range(1, 101):
        eevdf.enqueue(s.world, v, 0, 0, False)
    assert {int(s.world.se[v]["vruntime_ns"]) for v in range(1, 101)} == {at} == {int(entities.average(s.world, 0))}
    assert tuple(map(int, host.tally(s.world, 0))) == (2 + (100 << 18), int(s.world.rq[0]["moment"]))
    assert all(bool(eevdf.eligible(s.world, k)) for k in range(101))


def test_a_heavy_entity_beside_a_light_one_that_ran_for_days():
    """V has gone far when an entity of a hundred thousand joins: its sums must not overflow, and its lag is kept."""
    s = queue(2)
    day_ns = 24 * 3600 * 10**9
    change(s.world, 0, on_rq=0, weight=2)
    take_off(s, 1, sleep=False)
    root = s.world.rq[0]
    change(s.world, 0, on_rq=1)
    for _ in range(10):
        eevdf.advance_vruntime(s.world, 0, entities.fair(day_ns, 2))
    assert int(entities.average(s.world, 0)) == int(s.world.se[0]["vruntime_ns"]) == 10 * day_ns * 512
    assert 0 <= int(root["moment"]) < 2 and int(root["load"]) == 2
    s.world.se[1]["weight"], s.world.se[1]["vlag_ns"] = 100_000, 0
    eevdf.enqueue(s.world, 1, 0, 0, False)
    assert int(s.world.se[1]["vruntime_ns"]) == 10 * day_ns * 512
    assert [bool(eevdf.eligible(s.world, k)) for k in range(2)] == [True, True]
    assert tuple(map(int, host.tally(s.world, 0))) == (int(root["load"]), int(root["moment"]))


def test_runtime_counts_by_weight():
    """3 ms at weight 1024, 2048 and 512 are 3, 1.5 and 6 ms of virtual time."""
    assert [int(entities.fair(3 * MS, weight)) / MS for weight in (1024, 2048, 512)] == [3, 1.5, 6]


# --- the pick -------------------------------------------------------------------------------------------------------


def test_one_queued_entity_is_picked():
    s = queue(1)
    put(s, 0, 7, 9)
    assert pick(s) == 0


def test_the_earliest_deadline_among_the_eligible():
    """V = (1 + 2 + 3 + 6) / 4 = 3. Entity 3 has the earliest deadline but is not eligible; of the others 1 is first."""
    s = queue(4)
    s.world.rq[0]["curr"] = NOBODY
    for k, (v, deadline) in enumerate([(1, 8), (2, 5), (3, 6), (6, 4)]):
        put(s, k, v, deadline)
    assert average(s) == 3
    assert pick(s) == 1


def test_equal_deadlines_go_to_the_lower_label():
    """An inference: the kernel's order depends on the shape of its tree; here the rule is fixed."""
    s = queue(3)
    s.world.rq[0]["curr"] = NOBODY
    for k in range(3):
        put(s, k, 0, 5)
    assert pick(s) == 0
    put(s, 0, 0, 6)
    assert pick(s) == 1
    s.world.ent["order"][:3] = [0, 2, 1]
    assert pick(s) == 2


def test_an_eligible_buddy_beats_protection_and_deadline():
    s = queue(3)
    put(s, 0, 0, 1)  # the current, protected, with the earliest deadline
    protect(s, 0, 1)
    put(s, 1, 0, 2)
    put(s, 2, 0, 9)
    s.world.rq[0]["next_buddy"] = 2
    assert pick(s) == 2
    s.world.par[0]["pick_buddy"] = 0
    assert pick(s) == 0


def test_an_ineligible_buddy_is_passed_over():
    """V = (0 + 0 + 3) / 3 = 1 < 3."""
    s = queue(3)
    put(s, 0, 0, 1)
    put(s, 1, 0, 2)
    put(s, 2, 3, 1)
    s.world.rq[0]["next_buddy"] = 2
    assert pick(s) == 0


def test_a_protected_eligible_current_runs_on():
    """V = (1 + 1) / 2: both eligible; entity 1 has the earlier deadline."""
    s = queue(2)
    put(s, 0, 1, 9)
    put(s, 1, 1, 2)
    protect(s, 0, 1.000001)
    assert pick(s) == 0
    protect(s, 0, 1)  # v has reached the end of the protection
    assert pick(s) == 1
    protect(s, 0, 2)
    s.world.par[0]["run_to_parity"] = 0
    assert pick(s) == 1


def test_protection_does_not_help_an_ineligible_current():
    """V = (2 + 1) / 2 = 1.5 < 2."""
    s = queue(2)
    put(s, 0, 2, 3)
    put(s, 1, 1, 9)
    protect(s, 0, 3)
    assert pick(s) == 1


@pytest.mark.parametrize(
    "weight, slice_ms, deadline, other_slice, end",
    [
        (1024, 3, 20, 3, 13),  # v + the slice of both
        (1024, 3, 20, 1, 11),  # the shortest queued slice
        (1024, 1, 20, 3, 11),  # its own is the shortest
        (2048, 3, 20, 3, 11.5),  # over its weight
        (1024, 3, 12, 3, 12),  # but not past its deadline
    ],
)
def test_protection_lasts_for_the_shortest_slice_or_to_the_deadline(weight, slice_ms, deadline, other_slice, end):
    """min(deadline, v + shortest queued slice / weight), set when the entity starts to run; v = 10."""
    s = queue(2)
    s.world.rq[0]["curr"] = NOBODY
    put(s, 0, 10, deadline, weight=weight, slice_ms=slice_ms)
    put(s, 1, 10, 30, slice_ms=other_slice)
    eevdf.set_current(s.world, NOBODY, 0)
    assert int(s.world.se[0]["vprot_ns"]) == end * MS


# --- the end of a slice ---------------------------------------------------------------------------------------------


def run_for(s: Story, ms: float) -> bool:
    """The current of p0 runs on for that long; whether it should be rescheduled."""
    s.world.pcpu[0]["exec_start_ns"] = 0
    return bool(eevdf.update_curr(s.world, 0, round(ms * MS)))


@pytest.mark.parametrize(
    "ran, deadline, resched",
    [
        (2, 4, False),  # v = 3
        (3, 7, True),  # v = 4 has reached the deadline: a new one from there, 4 + 3
        (5, 9, True),  # v = 6: 6 + 3
    ],
)
def test_a_passed_deadline_is_renewed(ran, deadline, resched):
    s = queue(2)
    put(s, 0, 1, 4)
    protect(s, 0, 4)
    put(s, 1, 1, 9)
    assert run_for(s, ran) is resched
    assert numbers(s, 0) == (1 + ran, deadline)


def test_the_end_of_protection_reschedules_before_the_deadline():
    """Entity 1 asks for 1 ms slices, so the protection of 0 ends at v = 2; its deadline stays."""
    s = queue(2)
    put(s, 0, 1, 4)
    protect(s, 0, 2)
    put(s, 1, 1, 9, slice_ms=1)
    assert run_for(s, 1) is True
    assert numbers(s, 0) == (2, 4)


def test_a_passed_deadline_ends_a_hint_for_the_current_itself():
    for deadline, buddy in ((4, 0), (3, NOBODY)):
        s = queue(2)
        put(s, 0, 1, deadline)
        protect(s, 0, 4)
        put(s, 1, 1, 9)
        s.world.rq[0]["next_buddy"] = 0
        run_for(s, 2)
        assert s.world.rq[0]["next_buddy"] == buddy


def test_nobody_else_no_reschedule():
    s = queue(1)
    put(s, 0, 1, 4)
    assert run_for(s, 5) is False
    assert numbers(s, 0) == (6, 9)


def test_a_slice_ends_at_a_tick():
    """Two flat vCPUs, ticks each ms. First deadlines are half a slice, 1.5 ms, and protection ends there.
    0-2: a0; the tick at 1 ms finds v = 1, the one at 2 ms v = 2 > 1.5: deadline 5. V = (2 + 0) / 2, a0 ineligible: a1.
    2-4: a1 the same way; at 4 ms both are at v = 2 with deadline 5: the lower label. Protected to 5 now:
    4-7: a0 to v = 5, deadline 8. V = 3.5: a1, protected to 5. 7-10: a1. Then a0 and a1 for 3 ms each again."""
    s = queue(2).until(14_000)
    assert s.tell(only={"run"}) == [
        "0us a0 run p0",
        "2000us a1 run p0",
        "4000us a0 run p0",
        "7000us a1 run p0",
        "10000us a0 run p0",
        "13000us a1 run p0",
    ]


def test_with_slow_ticks_it_ends_later():
    """HZ 250: the same slices are seen to end at 4, 8, ... ms only: a tick each. At 4 ms a0 has v = 4 > 1.5; a1 at
    8 ms too; then both have v = 4 and deadline 7: a0 to v = 8 at 12 ms, and so on."""
    s = queue(2, hz=250).until(20_000)
    runs = [line.split()[:2] for line in s.tell(only={"run"})]
    assert runs == [[f"{4_000 * i}us", f"a{i % 2}"] for i in range(6)]
