"""What each kernel does with a hint, a yielder and a delayed wakeup: one story for each effect that a preset has.

A story fails on every kernel whose row below is another, so a preset that loses an effect is noticed. EEVDF's slice is
3 ms, CFS has the tunables of one CPU (test_stories_cfs.py).
"""

import pytest
from stories import FAR, hog, hold, one_lock, story, us, user, vm

from kvmgym.params import KERNELS, Block

MS = 1_000_000
CFS = ("5.4", "5.15", "6.1")
EEVDF = tuple(name for name in KERNELS if name not in CFS)


def on(kernel, *vms, pcpus=1, **host):
    """A story on a kernel."""
    tunables = {"latency_ns": 6 * MS, "min_granularity_ns": 750_000, "wakeup_granularity_ns": MS}
    return story(*vms, pcpus=pcpus, policy=KERNELS[kernel].on_spin, kernel=kernel, **{**tunables, **host})


def runs(s, p=0):
    """Who began to run on a pCPU, and when, in ms."""
    told = (line.split() for line in s.tell(only=["run"]))
    return [(float(time[:-2]) / 1000, who) for time, who, _, where in told if where == f"p{p}"]


def held(kernel, after_us, before, after=()):
    """a0 takes the lock when it first runs on pCPU 0; a1, on pCPU 1, wants it once it has run for `after_us`."""
    guest = vm("a", (*hold("l", 9_000), FAR), (user(after_us), *hold("l", 10), FAR), pin=(0, 1), locks=one_lock())
    return on(kernel, *before, guest, *after, pcpus=2)


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_a_hint_is_worth(kernel):
    """EEVDF: b 0-2, c 2-4, a0 4-6 ms, then b. a1 yields at 6.246 ms, when V is 2.082: c and a0, both at 2 with deadline
    5, are eligible, and c has the lower label. CFS: a0 2 until 3 ms, then c 3; a1 yields at 4.202 ms, when a0 5 is 0.8
    ms ahead of c, whose slice of 2 ms ends at 6 ms."""
    s = held(kernel, 4_200, [hog("b", 0), hog("c", 0)]).until(6_300)
    if kernel in CFS:
        assert runs(s)[:3] == [(0, "a0"), (3, "c0"), (4.202, "a0")]
    else:
        before = [(0, "b0"), (2, "c0"), (4, "a0"), (6, "b0")]
        assert runs(s) == [*before, (6.246, "c0" if kernel in ("6.6", "6.12") else "a0")]


@pytest.mark.parametrize("kernel", EEVDF)
def test_what_a_yielder_loses_on_eevdf(kernel):
    """a1 0-2, c 2-4 ms, a1 at 2.102 when it yields at 4.102 ms: not eligible, V being 2.051. Its deadline was 5; only
    before 6.19 does it move, by a slice."""
    s = held(kernel, 2_100, [hog("b", 0)], [hog("c", 1)]).until(4_102)
    entity = s.entity("a1")
    assert s.tell(only=["yield_to"]) == ["4102us a1 yield_to a0"]
    assert entity["vruntime_ns"] == 2_102_000
    assert entity["deadline_ns"] == (5 if kernel == "6.19" else 8) * MS


@pytest.mark.parametrize("kernel", CFS)
def test_what_a_yielder_loses_on_cfs(kernel):
    """c 3 until 4 ms, then a1 6 until it yields at 6.102 ms, 1.102 ms ahead of c, whose turn it is, too: a1 is marked,
    and its vruntime stays."""
    s = held(kernel, 2_100, [hog("b", 0)], [hog("c", 1)]).until(6_102)
    assert s.tell(only=["yield_to"]) == ["6102us a1 yield_to a0"]
    assert s.world.rq["skip_buddy"].tolist()[:2] == [-1, s.names().index("a1")]
    assert s.entity("a1")["vruntime_ns"] == 8_102_000


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_a_short_sleep_costs(kernel):
    """b runs first, until 1.5 ms, and sleeps for 0.3 ms; on EEVDF it is not eligible then. Where dequeue is delayed it
    stays queued with its deadline of 4.5, and goes before a and c at 5 ms; else it is placed anew, with 4.65. What runs
    is charged at that wakeup but for 6.12 to 6.18."""
    sleeper = vm("b", (user(1_500), Block(us(300)), FAR), pin=(0,))
    if kernel in CFS:  # the last one runs first
        s = on(kernel, hog("a", 0), hog("c", 0), sleeper).until(1_500)
    else:
        s = on(kernel, sleeper, hog("a", 0), hog("c", 0)).until(1_500)
    delayed = kernel not in (*CFS, "6.6")
    assert (s.entity("b0")["delayed"], s.entity("b0")["on_rq"]) == (delayed, delayed)
    s.until(1_800)
    uncharged = kernel in ("6.12", "6.14", "6.18")
    assert s.world.pcpu[0]["exec_start_ns"] == (1_500_000 if uncharged else 1_800_000)
    if kernel in EEVDF:
        then = "b0" if delayed else "a0"
        assert runs(s.until(6_000)) == [(0, "b0"), (1.5, "a0"), (3, "c0"), (5, then)]


@pytest.mark.parametrize("kernel", CFS)
def test_what_a_period_counts_on_cfs(kernel):
    """Ten groups, the first of two vCPUs. Since 5.13 eleven tasks have 82.5 ms; half of a tenth of that is below
    the minimum granularity, 7.5 ms. Before, the group's own two had 60 ms: 3 ms."""
    pair = vm("a", (FAR,), (FAR,), pin=(0, 0))
    others = [hog(f"h{i}", 0) for i in range(9)]
    times = {"latency_ns": 60 * MS, "min_granularity_ns": 7_500_000}
    s = on(kernel, pair, *others, group_scheduling=True, **times).until(9_000)
    assert runs(s)[:2] == [(0, "a1"), (4 if kernel == "5.4" else 8, "h00")]
