"""Each check of core/check can fail: a world is corrupted in one way for each violation, and the check names it."""

from functools import cache

import numpy as np
import pytest
from digests import booted, digest
from entities import change, plain
from examples import EXAMPLES, KERNEL_EXAMPLES, MS, US

from kvmgym.codes import MUTEX, TAS
from kvmgym.core.check import host, world
from kvmgym.core.check import violations as found
from kvmgym.core.check.violations import VIOLATIONS, code_of, describe
from kvmgym.core.layout import (
    ACT_COMPUTE,
    ACT_HALT,
    ACT_SPIN_ACK,
    BLOCKED,
    INF,
    NONE,
    PH_BARRIER,
    PH_COMPUTE,
    PH_GET,
    READY,
    RUNNING,
    TASK_CURRENT,
    TASK_RUNNABLE,
    TASK_WAITS,
)
from kvmgym.core.memory import view
from kvmgym.measure.simulate import advance
from kvmgym.policies import BY_NAME
from kvmgym.world.blueprint import Blueprint


def pick(world, part, test=lambda record: True):
    """The index of the first record of a part that passes; StopIteration when there is none at this time."""
    return next(place for place, record in enumerate(getattr(world, part)) if test(record))


def a_group(world):
    """The first queued group."""
    first = int(world.par[0].vcpus)
    return first + next(place for place, se in enumerate(world.se[first:]) if se.on_rq)


def need(condition):
    """As `pick`: the world of this instant has not what is to be corrupted."""
    if not condition:
        raise StopIteration


def any_vcpu(world, test=lambda vcpu: True):
    """The first vCPU that passes."""
    return world.vcpu[pick(world, "vcpu", test)]


def calm(vcpu):
    """Computes on its pCPU, outside a handler."""
    return vcpu.state == RUNNING and vcpu.act == ACT_COMPUTE and not vcpu.in_irq


def entity(world, test):
    """The scheduling entity of the first vCPU that passes."""
    return world.se[pick(world, "vcpu", test)]


def is_busy(pcpu):
    return pcpu.curr != NONE


def busy(world):
    """The first pCPU with a vCPU on it."""
    return world.pcpu[pick(world, "pcpu", is_busy)]


def idle(world):
    """The first idle pCPU."""
    return world.pcpu[pick(world, "pcpu", lambda pcpu: pcpu.idle == 1)]


def queued(world):
    """The first queue that holds more than one entity."""
    return world.rq[pick(world, "rq", lambda rq: rq.nr > 1)]


def corrupt(record, **fields):
    """Overwrite fields of a record; a callable gets the value before."""
    for name, value in fields.items():
        record[name] = value(record[name]) if callable(value) else value


def up(value):
    return value + 1


def next_tick(world, vcpu):
    return world.pcpu[vcpu.pcpu].next_tick_ns


def never_listed(world):
    v = pick(world, "vcpu", lambda vcpu: vcpu.state == BLOCKED)
    need(world.se[v].on_rq == 0)
    corrupt(world.se[v], on_rq=1)
    corrupt(world.pcpu[world.vcpu[v].pcpu], nr_running=up)


def banned(world):
    """A ready vCPU may not use the pCPU that it waits for."""
    v = pick(world, "vcpu", lambda vcpu: vcpu.state == READY)
    p = int(world.vcpu[v].pcpu)
    world.affin[v * int(world.par[0].affin_words) + (p >> 5)] &= ~(1 << (p & 31))


def delayed_and_ready(world):
    se = entity(world, lambda vcpu: vcpu.state == READY)
    corrupt(se, delayed=1)
    corrupt(world.rq[se.rq], nr_runnable=lambda nr: nr - 1, next_buddy=NONE)


def far_apart(world):
    se = world.se[world.rq[pick(world, "rq", lambda rq: rq.nr > 1)].head]
    corrupt(se, vruntime_ns=1 << 60, deadline_ns=1 << 61)


def negative_weight(world):
    head = world.se[queued(world).head]
    other = world.se[head.next]
    corrupt(head, weight=-3, vruntime_ns=lambda _: other.vruntime_ns + 10, deadline_ns=lambda _: other.vruntime_ns + 20)


def passed_over(world):
    k = pick(world, "lock", lambda lock: lock.kind == TAS and lock.head != NONE and lock.owner != NONE)
    waiter = world.vcpu[world.lock[k].head]
    need(waiter.state == RUNNING and not waiter.in_irq and not waiter.resume_check)
    corrupt(world.lock[k], owner=NONE)


def in_vain(world):
    k = pick(world, "lock", lambda lock: lock.kind == MUTEX and lock.head != NONE and lock.owner != NONE)
    retrying = (world.vcpu["wait_lock"] == k) & (world.vcpu["retry"] == 1)
    need(not retrying.any())
    corrupt(world.lock[k], owner=NONE)


def stale_level(world):
    v = pick(world, "vcpu", lambda vcpu: vcpu.wait_gate != NONE and world.phase[vcpu.pc].kind == PH_GET)
    corrupt(world.gate[world.vcpu[v].wait_gate], level=1)


def unawaited(world):
    v = pick(world, "vcpu", lambda vcpu: vcpu.in_irq and not vcpu.irq_call)
    world.serve[v * world.par[0].pend_words] |= 1


def goal(world):
    v = pick(world, "vcpu", calm)
    world.goal[v * world.par[0].pend_words] |= 1


def late_leaf(world):
    v = pick(world, "vcpu", lambda vcpu: vcpu.wake_ns != INF)
    corrupt(world.vcpu[v], wake_ns=up)


def loser_wins(world):
    world.tree[1] = pick(world, "tree_ns", lambda time_ns: time_ns == INF)


def lost_task(world):
    """The current task of a vCPU forgets that it is one."""
    t = pick(world, "task", lambda task: task.state == TASK_CURRENT)
    corrupt(world.task[t], state=TASK_WAITS, pc=pick(world, "phase", lambda phase: phase.kind == PH_COMPUTE))


def idle_task(world):
    """A timer runs for a task that waits for no timer."""
    t = pick(world, "task", lambda task: task.state == TASK_WAITS and task.wake_ns != INF)
    corrupt(world.task[t], pc=pick(world, "phase", lambda phase: phase.kind == PH_COMPUTE))


def tasks_at(world, kind):
    """A queue or barrier of tasks at which some wait in a phase of that kind."""
    return world.gate[
        pick(
            world,
            "gate",
            lambda gate: gate.of_tasks and gate.head != NONE and world.phase[world.task[gate.head].pc].kind == kind,
        )
    ]


def forgotten_task(world):
    """A vCPU halts although one of its tasks is runnable."""
    v = pick(world, "vcpu", lambda vcpu: vcpu.act == ACT_HALT and world.vm[vcpu.vm].tasks > 0)
    t = pick(world, "task", lambda task: task.home == v and task.state == TASK_WAITS and task.wake_ns == INF)
    corrupt(world.vcpu[v], run_head=t, run_tail=t)


def far_behind(world):
    """An entity on CFS has more credit than a sleep gives."""
    behind = -int(world.par[0].latency_ns) // 2 - 1
    change(world, int(queued(world).head), vruntime_ns=int(queued(world).zero_vruntime_ns) + behind)


CORRUPTIONS = {
    found.TIME_BACK: lambda w: corrupt(w.host[0], now_ns=INF - 1),
    found.TREE: loser_wins,
    found.LEAF: late_leaf,
    found.PCPU_LEAF: lambda w: corrupt(busy(w), ev_ns=0),
    found.PCPU_EVENT: lambda w: corrupt(any_vcpu(w, lambda v: calm(v) and v.t_end_ns > next_tick(w, v)), t_end_ns=up),
    found.PCPU_TICK: lambda w: corrupt(busy(w), tick_offset_ns=up),
    found.PCPU_CURR: lambda w: corrupt(any_vcpu(w, calm), state=BLOCKED),
    found.PCPU_IDLE: lambda w: corrupt(idle(w), next_tick_ns=1),
    found.PCPU_COUNTS: lambda w: corrupt(w.pcpu[0], nr_running=up),
    found.PCPU_TIME: lambda w: corrupt(w.pcpu[0], used_ns=up),
    found.IDLE_LIST: lambda w: corrupt(w.host[0], idle_nr=up),
    found.RESCHED_LIST: lambda w: corrupt(w.host[0], resched_head=0, resched_tail=0),
    found.RQ_LIST: lambda w: corrupt(w.se[queued(w).head], prev=0),
    found.RQ_COUNTS: lambda w: corrupt(queued(w), nr_runnable=up),
    found.RQ_CURR: lambda w: corrupt(w.rq[pick(w, "pcpu", is_busy)], curr=NONE),
    found.RQ_BUDDY: lambda w: corrupt(w.rq[0], next_buddy=pick(w, "se", lambda se: se.on_rq == 0)),
    found.RQ_ELIGIBLE: negative_weight,
    found.RQ_OVERFLOW: far_apart,
    found.SE_DEADLINE: lambda w: corrupt(w.se[queued(w).head], deadline_ns=-1),
    found.SE_LISTED: never_listed,
    found.RQ_SUMS: lambda w: corrupt(queued(w), moment=up),
    found.SE_GROUP: lambda w: change(w, a_group(w), weight=1),
    found.SE_STATE: delayed_and_ready,
    found.SE_PLACE: banned,
    found.RUNNING_FLAGS: lambda w: corrupt(any_vcpu(w, calm), ready=1),
    found.READY_FLAGS: lambda w: corrupt(any_vcpu(w, lambda v: v.state == READY), ready=0),
    found.BLOCKED_FLAGS: lambda w: corrupt(any_vcpu(w, lambda v: v.state == BLOCKED), blocking=0),
    found.SPIN_LOOP: lambda w: corrupt(any_vcpu(w, calm), in_spin_loop=1),
    found.PLE_WINDOW: lambda w: corrupt(any_vcpu(w, calm), ple_window_ns=0),
    found.LOST_WAKEUP: lambda w: corrupt(any_vcpu(w, lambda v: v.wait_gate != NONE), wait_gate=NONE),
    found.ACTIVITY: lambda w: corrupt(any_vcpu(w, calm), wait_gate=0),
    found.TIMER: lambda w: corrupt(any_vcpu(w, lambda v: v.wake_ns != INF), pc=0),
    found.PENDING: lambda w: corrupt(any_vcpu(w, calm), irq_arrived_ns=0),
    found.HANDLER: lambda w: corrupt(any_vcpu(w, lambda v: v.in_irq == 1), irq_call=0, irq_resched=0, irq_timer=0),
    found.TIME_LEFT: lambda w: corrupt(any_vcpu(w, lambda v: v.state == READY and v.act == ACT_COMPUTE), t_end_ns=-1),
    found.VCPU_TIME: lambda w: corrupt(w.vcpu[0], run_ns=up),
    found.SPIN_TIME: lambda w: corrupt(w.vcpu[0], spin_ns=INF),
    found.HOLDS: lambda w: corrupt(any_vcpu(w, calm), holds=up),
    found.LHP: lambda w: corrupt(any_vcpu(w, calm), lhp_since_ns=1),
    found.LOCK_OWNER: lambda w: corrupt(w.lock[0], owner=w.vm[1].first),
    found.LOCK_LIST: lambda w: corrupt(w.lock[0], waiting=up),
    found.LOCK_FREE: in_vain,
    found.LOCK_PASSED: passed_over,
    found.GATE_LIST: lambda w: corrupt(w.gate[0], waiting=up),
    found.GATE_LEVEL: stale_level,
    found.ACKS: lambda w: corrupt(any_vcpu(w, lambda v: v.act == ACT_SPIN_ACK), acks_left=up),
    found.GOALS: goal,
    found.SERVING: unawaited,
    found.VM_COUNTS: lambda w: corrupt(w.vm[0], nr_waiting=up),
    found.VM_LOAD: lambda w: corrupt(w.vm[0], load_x1024=-1),
    found.OVERHEAD_SUM: lambda w: corrupt(idle(w), overhead_ns=up),
    found.READY_SUM: lambda w: corrupt(w.pcpu[0], ready_integral_ns=up),
    found.TASK_PLACE: lambda w: corrupt(w.vcpu[0], task=0),
    found.POLLING: lambda w: corrupt(any_vcpu(w, calm), polling=1),
}  # fmt: skip
MORE = (  # further ways to break the same rules, in examples that have guest tasks or halt polling
    ("tasked", found.TASK_PLACE, lost_task),
    ("tasked", found.TASK_PLACE, lambda w: corrupt(any_vcpu(w, lambda v: v.run_head != NONE), run_tail=NONE)),
    ("tasked", found.TASK_PLACE, lambda w: corrupt(any_vcpu(w, lambda v: v.run_head != NONE), run_head=NONE)),
    ("tasked", found.TASK_PLACE, lambda w: corrupt(any_vcpu(w, lambda v: calm(v) and v.task != NONE), task=NONE)),
    ("tasked", found.TASK_PLACE,
     lambda w: corrupt(w.task[pick(w, "task", lambda t: t.state == TASK_RUNNABLE)], home=lambda home: (home + 1) % 3)),
    ("tasked", found.TIMER, idle_task),
    ("tasked", found.LEAF, lambda w: corrupt(w.task[pick(w, "task", lambda t: t.wake_ns != INF)], wake_ns=up)),
    ("tasked", found.GATE_LIST, lambda w: corrupt(tasks_at(w, PH_GET), tail=NONE)),
    ("tasked", found.GATE_LIST, lambda w: corrupt(tasks_at(w, PH_BARRIER), waiting=up)),
    ("tasked", found.GATE_LEVEL, lambda w: corrupt(tasks_at(w, PH_GET), level=1)),
    ("tasked", found.GATE_LEVEL, lambda w: corrupt(tasks_at(w, PH_BARRIER), level=up)),
    ("tasked", found.LOST_WAKEUP, forgotten_task),
    ("paravirtual", found.POLLING, lambda w: corrupt(any_vcpu(w, lambda v: v.polling), poll_ns=-1)),
    ("paravirtual", found.POLLING, lambda w: corrupt(any_vcpu(w), poll_ns=100 * US + 1)),
    ("paravirtual", found.POLLING, lambda w: corrupt(any_vcpu(w, lambda v: v.state == READY), polling=1)),
    ("mixed_on_6.1", found.RQ_MIN, far_behind),
    ("mixed_on_6.1", found.RQ_BUDDY, lambda w: corrupt(w.rq[0], last_buddy=pick(w, "se", lambda se: se.on_rq == 0))),
    ("mixed_on_6.1", found.RQ_BUDDY, lambda w: corrupt(w.rq[0], skip_buddy=pick(w, "se", lambda se: se.on_rq == 0))),
    ("mixed", found.RQ_BUDDY, lambda w: corrupt(w.rq[0], skip_buddy=pick(w, "se", lambda se: se.on_rq and se.rq == 0))),
)  # fmt: skip


@cache
def moments(name):
    """A blueprint of an example, and copies of one world at 400 instants."""
    blueprint, (row,) = booted({**EXAMPLES, **KERNEL_EXAMPLES}[name], "relaxed", 5)
    rows = []
    for until_ns in range(0, 6 * MS, 15 * US):
        advance(blueprint, row, until_ns, BY_NAME["relaxed"])
        rows.append(row.copy())
    return blueprint, rows


def test_checking_changes_nothing():
    blueprint = Blueprint(EXAMPLES["mixed"])
    plain, checked = blueprint.worlds([3, 3])
    advance(blueprint, plain, 2 * MS, BY_NAME["relaxed"])
    with np.errstate(over="ignore"):
        world.advance_checked_row(checked, blueprint.static, 2 * MS, BY_NAME["relaxed"].engine_function)
    assert digest(blueprint, checked) == digest(blueprint, plain)


def test_violations_are_described():
    assert describe(0) == "no violation"
    assert describe(5 + 1000 * 7) == f"{VIOLATIONS[found.PCPU_EVENT]} (index 7)"


def test_there_is_a_corruption_for_every_violation():
    assert {*CORRUPTIONS, *(code for _, code, _ in MORE)} == set(VIOLATIONS)


def test_a_min_vruntime_that_falls_is_noticed():
    blueprint, rows = moments("mixed_on_6.1")
    w = view(rows[-1].copy(), blueprint.static)
    before = w.rq["zero_vruntime_ns"].copy()
    assert plain(host.min_vruntimes)(w, before) == 0
    corrupt(w.rq[2], zero_vruntime_ns=lambda ns: ns - 1)
    assert code_of(int(plain(host.min_vruntimes)(w, before))) == found.RQ_MIN


@pytest.mark.parametrize(
    "name, code, broken_by",
    [*(("mixed", code, broken_by) for code, broken_by in CORRUPTIONS.items()), *MORE],
    ids=lambda value: VIOLATIONS.get(value, "") if isinstance(value, np.integer) else None,
)
def test_a_corrupt_world_is_noticed(name, code, broken_by):
    blueprint, rows = moments(name)
    for row in rows:
        broken, static = row.copy(), blueprint.static.copy()
        assert int(world.violation_row(broken, static)) == 0
        try:
            broken_by(view(broken, static))
        except StopIteration:
            continue
        violation = int(world.violation_row(broken, static))
        assert code_of(violation) == code, describe(violation)
        return
    pytest.fail("no instant has what is to be corrupted")
