"""yield_to on a small real world: each of its results, what it does to both run queues, and the forfeit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from stories import Story, plain_host, us, user, work

from kvmgym.core import layout
from kvmgym.core.host import directed_yield, eevdf
from kvmgym.params import Block, Costs, Scenario, Vm

MS = 1_000_000
BUSY = (user(10**6),)
GO = layout.YIELD_OK


def world(*vms: Vm, pcpus: int = 2, until_us: float = 0, **host) -> Story:
    """A story of VMs that only compute, stopped early in their first slices. Nobody spins."""
    return Story(Scenario("yield", plain_host(pcpus, **host), vms), "none").until(until_us)


def vm(name: str, *pin: int, **given) -> Vm:
    """A VM with one computing vCPU on each of the pCPUs `pin`."""
    return Vm(name, len(pin), work(BUSY, name=f"work-{name}"), pin=pin, **given)


def yield_to(story: Story, me: str, target: str) -> int:
    """me yields to target at the present moment."""
    names = story.names()
    now = int(story.world.host[0]["now_ns"])
    return int(directed_yield.yield_to(story.world, names.index(me), names.index(target), now))


def entities(story: Story) -> list:
    return story.world.se.tolist()


def buddies(story: Story) -> dict[str, str]:
    """The next buddies: "p0" is a root queue, "a/p0" the queue of VM a's group on p0."""
    found = {}
    for q, record in enumerate(story.world.rq):
        if record["next_buddy"] != layout.NONE:
            found[queue_name(story, q)] = entity_name(story, int(record["next_buddy"]))
    return found


def queue_name(story: Story, q: int) -> str:
    pcpus = story.blueprint.pcpus
    group, p = divmod(q - pcpus, pcpus)
    return f"p{q}" if q < pcpus else f"{story.blueprint.vms[group].name}/p{p}"


def entity_name(story: Story, k: int) -> str:
    if k < story.blueprint.vcpus:
        return story.name(k)
    group, p = divmod(k - story.blueprint.vcpus, story.blueprint.pcpus)
    return f"{story.blueprint.vms[group].name}/p{p}"


def group_entity(story: Story, name: str):
    """The record of "a/p0", the entity of VM a's group on pCPU 0."""
    return next(
        record
        for k, record in enumerate(story.world.se)
        if k >= story.blueprint.vcpus and entity_name(story, k) == name
    )


def rescheduled(story: Story) -> list[int]:
    return [p for p, pcpu in enumerate(story.world.pcpu) if pcpu["need_resched"]]


def runs_next(story: Story, p: int) -> str:
    """Who __schedule would pick on pCPU p now."""
    return story.name(int(eevdf.pick_vcpu(story.world, p, int(story.world.host[0]["now_ns"]))))


# --- results --------------------------------------------------------------------------------------------------------


def test_esrch_when_both_queues_have_one_task():
    story = world(vm("a", 0, 1))
    before = entities(story)
    assert yield_to(story, "a0", "a1") == layout.YIELD_ESRCH
    assert (buddies(story), rescheduled(story), entities(story)) == ({}, [], before)


def test_esrch_comes_before_the_look_at_the_target():
    """The same when the target is not even runnable: its pCPU has one task, and so has mine."""
    sleeper = Vm("a", 2, work(BUSY, (user(10), Block(us(10**6)))), pin=(0, 1), weight=2048)
    story = world(sleeper, vm("b", 1), until_us=100)  # a1 ran first on p1; now b0 is alone there
    assert story.vcpu("a1")["state"] == layout.BLOCKED and story.entity("a1")["on_rq"] == 0
    assert story.world.pcpu["nr_running"].tolist() == [1, 1]
    assert yield_to(story, "a0", "a1") == layout.YIELD_ESRCH


def test_one_task_here_but_two_there_is_no_esrch():
    story = world(vm("b", 1), vm("a", 0, 1))  # p1: b0 runs, a1 waits
    assert yield_to(story, "a0", "a1") == GO


def test_0_for_a_target_on_its_pcpu():
    story = world(vm("a", 0, 1), vm("b", 0), group_scheduling=False)  # p0: a0 runs and b0 waits; p1: a1 runs
    before = entities(story)
    assert yield_to(story, "a0", "a1") == layout.YIELD_FREE
    assert (buddies(story), rescheduled(story), entities(story)) == ({}, [], before)


def test_0_for_a_sleeping_target():
    sleeper = Vm("a", 2, work(BUSY, (user(10), Block(us(10**6)))), pin=(0, 1))
    story = world(sleeper, vm("b", 0), vm("c", 1), delay_dequeue=False, group_scheduling=False, until_us=100)
    assert story.vcpu("a1")["state"] == layout.BLOCKED and story.entity("a1")["on_rq"] == 0
    assert yield_to(story, "a0", "a1") == layout.YIELD_FREE
    assert (buddies(story), rescheduled(story)) == ({}, [])


def test_0_for_a_sleeping_target_that_is_still_queued():
    """a1 ran 500 us beside an equal b1 that waited: its lag is negative, so its dequeue is delayed."""
    sleeper = Vm("a", 2, work(BUSY, (user(500), Block(us(10**6)))), pin=(0, 1))
    story = world(sleeper, vm("b", 0, 1), group_scheduling=False, until_us=600)
    assert story.vcpu("a1")["state"] == layout.BLOCKED
    assert (story.entity("a1")["on_rq"], story.entity("a1")["delayed"]) == (1, 1)
    assert yield_to(story, "a0", "a1") == layout.YIELD_FREE
    assert (buddies(story), rescheduled(story)) == ({}, [])


def test_a_delayed_task_still_counts_as_a_task_of_its_queue():
    """Mainline's nr_running counts what is queued, sleeping or not, so no -ESRCH here (an inference; kernel 6.13+)."""
    sleeper = Vm("a", 2, work(BUSY, (user(500), Block(us(10**6)))), pin=(0, 1))
    story = world(sleeper, vm("b", 1), group_scheduling=False, until_us=600)
    assert story.world.pcpu["nr_running"].tolist() == [1, 2]
    assert yield_to(story, "a0", "a1") == layout.YIELD_FREE


# --- success --------------------------------------------------------------------------------------------------------


def test_success_on_another_pcpu_sets_the_buddy_at_both_levels_and_moves_nobody():
    story = world(vm("b", 1), vm("a", 0, 1, weight=2048), vm("c", 0))  # p0: a0 runs, c0 waits; p1: b0 runs, a1 waits
    assert story.tell() == ["0us a0 run p0", "0us b0 run p1"]
    assert yield_to(story, "a0", "a1") == GO
    assert buddies(story) == {"a/p1": "a1", "p1": "a/p1"}
    assert rescheduled(story) == [0, 1]
    assert (story.vcpu("a1")["pcpu"], story.entity("a1")["on_rq"]) == (1, 1)
    assert story.vcpu("a1")["state"] == layout.READY


def test_success_on_the_same_pcpu_reschedules_it_once():
    story = world(vm("a", 0), vm("b", 0))
    assert yield_to(story, "a0", "b0") == GO
    assert buddies(story) == {"b/p0": "b0", "p0": "b/p0"}
    assert rescheduled(story) == [0]
    assert int(story.world.host[0]["resched_head"]) == int(story.world.host[0]["resched_tail"]) == 0


def test_without_groups_there_is_one_level():
    story = world(vm("a", 0, 1), vm("c", 1), group_scheduling=False)
    assert yield_to(story, "a0", "c0") == GO
    assert buddies(story) == {"p1": "c0"}


def test_a_newer_hint_replaces_an_older_one():
    story = world(vm("a", 0), vm("b", 0), vm("c", 0), pcpus=1)
    assert [yield_to(story, "a0", "b0"), yield_to(story, "a0", "c0")] == [GO, GO]
    assert buddies(story) == {"b/p0": "b0", "c/p0": "c0", "p0": "c/p0"}


def test_the_costs_fall_on_the_targets_pcpu():
    costs = replace(Costs.zero(), yield_target_ns=1_500)
    story = world(vm("b", 1), vm("a", 0, 1), costs=costs)
    yield_to(story, "a0", "a1")
    assert story.world.pcpu["carry_ns"].tolist() == [0, 1_500]


# --- the forfeit ----------------------------------------------------------------------------------------------------
# Flat queues, slice 3 ms. At boot every entity has v = 0 and, as a new task, deadline = half a slice = 1.5 ms.


def leaf(story: Story, name: str) -> tuple[int, int]:
    return int(story.entity(name)["vruntime_ns"]), int(story.entity(name)["deadline_ns"])


def test_forfeit_of_an_eligible_yielder():
    """v = 0 = V, so a0 is eligible: v = its deadline 1.5 ms, and the deadline one slice later, 4.5 ms."""
    story = world(vm("a", 0), vm("b", 0), group_scheduling=False)
    yield_to(story, "a0", "b0")
    assert leaf(story, "a0") == (1.5 * MS, 4.5 * MS)
    assert leaf(story, "b0") == (0, 1.5 * MS)


def test_forfeit_moves_the_deadline_by_a_weighted_slice():
    """Weight 2048: the first deadline is 3 ms / 2 / 2 = 0.75 ms, the forfeit adds 3 ms / 2."""
    story = world(vm("a", 0, weight=2048), vm("b", 0), group_scheduling=False)
    assert leaf(story, "a0") == (0, 0.75 * MS)
    yield_to(story, "a0", "b0")
    assert leaf(story, "a0") == (0.75 * MS, 2.25 * MS)


def test_forfeit_is_void_for_an_ineligible_yielder():
    """a0 ran 500 us beside b0 that did not: v = 0.5 ms > V = 0.25 ms. Only its runtime is charged."""
    story = world(vm("a", 0), vm("b", 0), group_scheduling=False, until_us=500)
    yield_to(story, "a0", "b0")
    assert leaf(story, "a0") == (0.5 * MS, 1.5 * MS)


def test_forfeit_is_void_when_the_yielder_is_alone():
    """Its queue has one task; the target's has two, so the yield itself succeeds."""
    story = world(vm("a", 0, 1), vm("b", 1), group_scheduling=False)
    assert yield_to(story, "a0", "b0") == GO
    assert leaf(story, "a0") == (0, 1.5 * MS)


def test_forfeit_clears_the_yielders_own_buddy():
    """c0 (on p1) had named a0; when a0 yields to b0 on another pCPU, the hint for a0 is gone, eligible or not."""
    for until_us in (0, 500):
        story = world(vm("a", 0), vm("b", 1), vm("c", 1), vm("d", 0), group_scheduling=False, until_us=until_us)
        story.world.rq[0]["next_buddy"] = story.names().index("a0")
        waits = "c0" if story.vcpu("c0")["state"] == layout.READY else "b0"
        assert yield_to(story, "a0", waits) == GO
        assert buddies(story) == {"p1": waits}


def test_forfeit_leaves_group_entities_alone():
    """Two levels: the leaf a0 moves, the entities of both groups stay (v = 0, deadline 1.5 ms)."""
    story = world(vm("a", 0, 0), vm("b", 0), pcpus=1)
    before = [group_entity(story, name).tolist() for name in ("a/p0", "b/p0")]
    yield_to(story, "a0", "b0")
    assert leaf(story, "a0") == (1.5 * MS, 4.5 * MS)
    assert [group_entity(story, name).tolist() for name in ("a/p0", "b/p0")] == before


def test_forfeit_of_a_leaf_alone_in_its_group():
    """The queue counts as a whole (two tasks), so the leaf forfeits although its own level has no competitor."""
    story = world(vm("a", 0), vm("b", 0))
    yield_to(story, "a0", "b0")
    assert leaf(story, "a0") == (1.5 * MS, 4.5 * MS)


@pytest.mark.parametrize("until_us, v", [(0, 0), (500, 500_000)])
def test_before_6_19_only_the_deadline_moves_by_a_slice_a_call(until_us, v):
    """Eligible (at 0) or not (at 500 us): 1.5 + 3 + 3 = 7.5 ms after two calls."""
    story = world(vm("a", 0), vm("b", 0), group_scheduling=False, forfeit="pre-6.19", until_us=until_us)
    yield_to(story, "a0", "b0")
    assert leaf(story, "a0") == (v, 4.5 * MS)
    yield_to(story, "a0", "b0")
    assert leaf(story, "a0") == (v, 7.5 * MS)


def test_before_6_19_a_yielder_alone_forfeits_nothing_either():
    story = world(vm("a", 0, 1), vm("b", 1), group_scheduling=False, forfeit="pre-6.19")
    assert yield_to(story, "a0", "b0") == GO
    assert leaf(story, "a0") == (0, 1.5 * MS)


def test_no_forfeit_at_all():
    story = world(vm("a", 0), vm("b", 0), group_scheduling=False, forfeit="none")
    yield_to(story, "a0", "b0")
    assert leaf(story, "a0") == (0, 1.5 * MS)


# --- the hint is a hint ---------------------------------------------------------------------------------------------
# One pCPU; VM a has a0, VM b has b0 and b1, so a0 runs first (labels break the tie at time 0).


def three() -> Story:
    return world(vm("a", 0), vm("b", 0, 0), pcpus=1)


def place(record, v_ms: float, deadline_ms: float) -> None:
    record["vruntime_ns"], record["deadline_ns"] = int(v_ms * MS), int(deadline_ms * MS)
    record["vprot_ns"] = record["vruntime_ns"]


def test_hint_honoured_when_eligible_at_both_levels():
    """Root: a 1, b 0, V = 1/2, so b is eligible. In b: b0 0, b1 0: b1 is eligible and the buddy, b0 would win the
    tie."""
    story = three()
    place(group_entity(story, "a/p0"), 1, 4)
    assert runs_next(story, 0) == "b0"
    assert yield_to(story, "a0", "b1") == GO
    assert runs_next(story, 0) == "b1"


def test_hint_lost_when_the_group_is_ineligible():
    """Root: a 0, b 1, V = 1/2: b is not eligible, so its hint is passed over and a runs on; yield_to said success."""
    story = three()
    place(group_entity(story, "b/p0"), 1, 2)
    assert yield_to(story, "a0", "b1") == GO
    assert buddies(story) == {"b/p0": "b1", "p0": "b/p0"}
    assert runs_next(story, 0) == "a0"


def test_hint_lost_when_the_leaf_is_ineligible():
    """Root: b eligible. In b: b0 0, b1 2, V = 1: b1 is not eligible, so its sibling b0 gets the boost."""
    story = three()
    place(group_entity(story, "a/p0"), 1, 4)
    place(story.entity("b1"), 2, 3)
    place(story.entity("b0"), 0, 9)
    assert yield_to(story, "a0", "b1") == GO
    assert runs_next(story, 0) == "b0"


def test_hint_ignored_without_pick_buddy():
    story = world(vm("a", 0), vm("b", 0, 0), pcpus=1, pick_buddy=False)
    place(group_entity(story, "a/p0"), 1, 4)
    yield_to(story, "a0", "b1")
    assert runs_next(story, 0) == "b0"


def test_hint_is_used_up_by_the_switch_to_the_target():
    """After the target was put on its pCPU the hint is gone at both levels."""
    story = three()
    place(group_entity(story, "a/p0"), 1, 4)
    yield_to(story, "a0", "b1")
    story.until(0)  # lets p0 reschedule
    assert story.tell(start_us=0, only={"run"})[-1] == "0us b1 run p0"
    assert buddies(story) == {}
