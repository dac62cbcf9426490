"""Trace stories of the series' scheduler half, computed by hand; tests/stories.py has the conventions.

tests/core/interpreted/test_deboost.py has the single clauses.
"""

from __future__ import annotations

import pytest
from stories import FAR, Story, hog, hold, one_lock, story, user, vm

from kvmgym.params import Ops


def beside_the_holder(version: str, **host) -> Story:
    """a0 and a1 share p0. a0 takes the lock at 0 and needs 2.1 ms; a1 gets p0 at 2 ms and comes for the lock."""
    a = vm("a", (*hold("l", 2_100), Ops(), FAR), (*hold("l", 10), Ops(), FAR), pin=(0, 0), locks=one_lock())
    return story(a, pcpus=1, yield_deboost=version, **host)


def test_without_the_series_a_yielder_holds_on_until_it_has_forfeited_twice():
    """At 2002 a1 has v = 0.002 and a0 2, past V = 1.001. a1 forfeits: v = 1.5, V = 1.75, a0 is still passed over. At
    2006 a1 (1.504) forfeits again: v = 4.5, V = 3.25, so a0 runs. Its slice ends at v = 5, seen at 6 ms."""
    assert beside_the_holder("none").until(6_500).tell() == [
        "0us a0 run p0",
        "0us a0 lock l",
        "2000us a0 preempt p0",
        "2000us a1 run p0",
        "2000us a1 wait l",
        "2002us a1 PLE",
        "2002us a1 yield_to a0",
        "2006us a1 PLE",
        "2006us a1 yield_to a0",
        "2006us a1 preempt p0",
        "2006us a0 run p0",
        "2106us a0 unlock l",
        "2106us a1 lock l",
        "2106us a0 ops",
        "6000us a0 preempt p0",
        "6000us a1 run p0",
        "6010us a1 unlock l",
        "6010us a1 ops",
    ]


@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
def test_with_the_series_the_first_yield_is_enough(version):
    """v1, v2: need = 1.998, so a1 moves by 3 + 2.1978 to 5.1998 and V = 3.6. v3: a0 is placed 0.75 before V, at
    0.002 - 1.5. a0 runs until 6 ms either way: v = 5.998 >= 5 there, or 2.5 >= 1.502."""
    told = beside_the_holder(version).until(6_500).tell(start_us=2_001)
    assert told == [
        "2002us a1 PLE",
        "2002us a1 yield_to a0",
        "2002us a1 preempt p0",
        "2002us a0 run p0",
        "2102us a0 unlock l",
        "2102us a1 lock l",
        "2102us a0 ops",
        "6000us a0 preempt p0",
        "6000us a1 run p0",
        "6010us a1 unlock l",
        "6010us a1 ops",
    ]


def holder_past_v(version: str, *, grouped: bool = False, **host) -> Story:
    """p0: a0 runs 0-2 ms with the lock, then b0. p1: a1 alone, which comes for the lock at 2.1 ms. While b0 runs, a0
    (in groups: the group a on p0, whose weight is 2048 / 2) is at v = 2 and past V."""
    a = vm("a", (*hold("l", 2_100), FAR), (user(2_100), *hold("l", 10), FAR), pin=(0, 1), locks=one_lock(),
           weight=2048 if grouped else 1024)  # fmt: skip
    return story(a, hog("b", 0), yield_deboost=version, group_scheduling=grouped, **host)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("version", ["none", "v1", "v2", "v3"])
def test_a_hint_to_another_pcpu_is_lost_without_the_credit(version, grouped):
    """a0 has to wait for 4 ms: the debooster looks at its own pCPU only, and so does the credit unless told."""
    told = holder_past_v(version, grouped=grouped).until(4_500)
    assert told.tell(only={"lock", "unlock"}) == [
        "0us a0 lock l",
        "4100us a0 unlock l",
        "4100us a1 lock l",
        "4110us a1 unlock l",
    ]
    assert told.counts("a", "yields_attempted", "yields_ok") == [9, 9]  # at 2100 + 2 (2^k - 1), k = 1 .. 9


@pytest.mark.parametrize("grouped", [False, True])
def test_the_credit_makes_the_hint_count_on_another_pcpu(grouped):
    """At 2102 b0 is at 0.102 and a0 at 2; it is placed at 0.102 - 1.5 and has 0.75 of lag. That the credit may reach
    other queues is a switch of its own: the series' texts disagree on it."""
    told = (
        holder_past_v("v3", grouped=grouped, lag_credit_across=True).until(4_500).tell(start_us=2_000, leave={"wait"})
    )
    assert told[2:] == [
        "2102us a1 PLE",
        "2102us a1 yield_to a0",
        "2102us b0 preempt p0",
        "2102us a0 run p0",
        "2106us a1 PLE",
        "2106us a1 no target",
        "2114us a1 PLE",
        "2114us a1 no target",
        "2130us a1 PLE",
        "2130us a1 no target",
        "2162us a1 PLE",
        "2162us a1 no target",
        "2202us a0 unlock l",
        "2202us a1 lock l",
        "2212us a1 unlock l",
    ]
