"""CFS agrees with its naive twin (tests/support/cfs_twin.py) on random states: pick, tick, wakeup, placement, yield_to.

A state is drawn as objects of the twin and written into a world; then both do the same few things, one after the other,
and everything that CFS keeps is compared after each. Weights of groups are the VM's business, not CFS's: the twin is
told them. Numbers are small in most states, so that limits are met exactly and vruntimes tie.
"""

import random
from itertools import pairwise

import numba
import pytest
from cfs_twin import (
    Queue,
    Rules,
    Thing,
    carry_over,
    charge,
    pick,
    place_new,
    place_sleeper,
    raise_floor,
    tick,
    wakeup,
    yield_to,
)
from cfs_twin import forget as forget_marks
from stories import FAR, plain_host, work

from kvmgym.core import layout
from kvmgym.core.host import cfs, entities
from kvmgym.core.jit import jit
from kvmgym.core.layout import NO, YES
from kvmgym.core.memory import carve, view
from kvmgym.params import Dist, HostTask, Scenario, Vm
from kvmgym.world.blueprint import Blueprint

STATES = 400 if numba.config.DISABLE_JIT else 10_000  # a scenario
MARKS = {"next": "next_buddy", "last": "last_buddy", "skip": "skip_buddy"}
WEIGHTS = (1024, 1024, 512, 2048, 1000, 3, 262_144)


@jit
def pick_row(state, static, p):
    return cfs.pick_vcpu(carve(state, static), p)


@jit
def tick_row(state, static, p, now):
    w = carve(state, static)
    cfs.update_curr(w, p, now)
    return cfs.tick(w, p)


@jit
def wakeup_row(state, static, v, p):
    return cfs.wakeup_preempts(carve(state, static), v, p)


@jit
def dequeue_row(state, static, v, sleep):
    cfs.dequeue(carve(state, static), v, sleep, NO)


@jit
def enqueue_row(state, static, v, p, rq, initial):
    w = carve(state, static)
    w.vcpu[v].pcpu = p
    cfs.enqueue(w, v, rq, NO, initial)


@jit
def yield_row(state, static, me, target):
    w = carve(state, static)
    entities.set_next_buddy(w, target)
    cfs.forfeit(w, me)


class Pair:
    """A random state twice: as objects of the twin, and in a world of the engine."""

    def __init__(self, blueprint, row, grouped, seed):
        self.blueprint, self.row, self.grouped = blueprint, row, grouped
        self.world = view(row, blueprint.static)
        self.lot = random.Random(seed)
        self.unit = self.lot.choice((1, 1, 1, 997, 1_000_000))
        self.rules = Rules(
            24 * self.unit, self.lot.choice((2, 3, 4)) * self.unit, 4 * self.unit, self.lot.random() < 0.2
        )
        self.now = 0
        self.draw()
        self.write()

    def time(self, low, high):
        """A time in small steps, now and then between them."""
        return self.lot.randint(low, high) * self.unit + (self.unit > 1 and self.lot.random() < 0.3)

    def draw(self):
        """Queues, groups and tasks of the twin; the number of a thing is its entity's."""
        world, pcpus = self.world, self.blueprint.pcpus
        self.queues = [Queue(floor=self.time(0, 60)) for _ in range(len(world.rq))]
        labels = world.ent["order"].tolist()
        self.things = [
            Thing(str(k), self.time(0, 90), self.lot.choice(WEIGHTS), labels[k], self.time(0, 30))
            for k in range(len(world.se))
        ]
        vcpus = self.blueprint.vcpus
        for k, group in enumerate(self.things[vcpus:]):
            group.weight = self.lot.choice((1024, 1024, 700, 100, 2))
            group.below, group.home = self.queues[pcpus + k], self.queues[k % pcpus]
            group.below.over = group
        many = self.lot.choice((0.3, 0.7, 1.0))
        for v, task in enumerate(self.things[:vcpus]):
            task.home = self.queues[self.queue_of(v, self.lot.randrange(pcpus))]
            if self.lot.random() < many:
                self.add(task)
        for root in self.queues[:pcpus]:
            if root.things and self.lot.random() < 0.8:
                self.start(root)
        for queue in self.queues:
            for kind in MARKS:
                if queue.things and self.lot.random() < 0.35:
                    queue.marks[kind] = self.lot.choice(queue.things)

    def queue_of(self, v, p):
        g = int(self.world.vcpu[v]["vm"])
        return self.blueprint.pcpus * (1 + g) + p if self.grouped and not self.world.vm[g]["is_task"] else p

    def add(self, task):
        """Put a task in its queue with a vruntime near the others', and its group as well."""
        task.v = task.home.floor + self.time(-12, 40)
        task.home.add(task)
        group = task.home.over
        if group is not None and group not in group.home.things:
            group.v = group.home.floor + self.time(-12, 40)
            group.home.add(group)

    def start(self, queue):
        """Somebody of the queue, and below it, runs."""
        queue.running = self.lot.choice(queue.things)
        if queue.running.below is not None:
            self.start(queue.running.below)

    def number(self, thing):
        return -1 if thing is None else int(thing.name)

    def write(self):
        """The same in the world; lists are in any order."""
        world, par = self.world, self.world.par[0]
        par["latency_ns"], par["min_granularity_ns"] = self.rules.latency, self.rules.minimum
        par["wakeup_granularity_ns"], par["alt_period"] = self.rules.wakeup, not self.rules.each_level
        for name, field in (("vruntime_ns", "v"), ("weight", "weight"), ("vprot_ns", "ran")):
            world.se[name] = [getattr(thing, field) for thing in self.things]
        world.se["rq"] = [self.queues.index(thing.home) for thing in self.things]
        world.se["on_rq"] = [thing in thing.home.things for thing in self.things]
        for name in ("next", "prev"):
            world.se[name] = layout.NONE
        for queue, record in zip(self.queues, world.rq, strict=True):
            order = [int(thing.name) for thing in queue.things]
            self.lot.shuffle(order)
            for before, after in pairwise(order):
                world.se["next"][before], world.se["prev"][after] = after, before
            record["head"] = order[0] if order else layout.NONE
            record["nr"] = len(order)
            record["curr"] = self.number(queue.running)
            record["nr_runnable"] = sum(thing.below is None for thing in queue.things)
            record["zero_vruntime_ns"] = queue.floor
            record["load"], record["moment"] = self.sums(queue)
            for kind, name in MARKS.items():
                record[name] = self.number(queue.marks[kind])
        for p, root in enumerate(self.queues[: self.blueprint.pcpus]):
            world.pcpu[p]["nr_running"] = root.tasks()
            world.pcpu[p]["curr"] = self.number(self.running(p))
            world.pcpu[p]["exec_start_ns"] = 0
        world.vcpu["pcpu"] = world.se["rq"][: self.blueprint.vcpus] % self.blueprint.pcpus
        world.vm["nr_runnable"] = 20

    def sums(self, queue):
        total = sum(thing.weight for thing in queue.things)
        return total, sum(thing.weight * (thing.v - queue.floor) for thing in queue.things)

    def running(self, p):
        """The task that runs on a pCPU, or None."""
        found = self.queues[p].running
        while found is not None and found.below is not None:
            found = found.below.running
        return found

    def compare(self, said):
        """Everything that CFS keeps."""
        world = self.world
        for name, field in (("vruntime_ns", "v"), ("vprot_ns", "ran")):
            assert world.se[name].tolist() == [getattr(thing, field) for thing in self.things], (said, name)
        assert world.rq["zero_vruntime_ns"].tolist() == [queue.floor for queue in self.queues], said
        for kind, name in MARKS.items():
            assert world.rq[name].tolist() == [self.number(queue.marks[kind]) for queue in self.queues], (said, name)
        found = list(zip(world.rq["load"].tolist(), world.rq["moment"].tolist(), strict=True))
        assert found == [self.sums(queue) for queue in self.queues], said
        assert world.rq["nr"].tolist() == [len(queue.things) for queue in self.queues], said

    def picks(self):
        for p, root in enumerate(self.queues[: self.blueprint.pcpus]):
            if root.things:
                chosen = pick(self.rules, root)
                assert int(pick_row(self.row, self.blueprint.static, p)) == int(chosen.name)

    def ticks(self):
        delta = self.time(1, 30)
        self.now += delta
        for p, root in enumerate(self.queues[: self.blueprint.pcpus]):
            task = self.running(p)
            if task is not None:
                charge(root, delta)
                expected = tick(self.rules, task)
                assert bool(tick_row(self.row, self.blueprint.static, p, self.now)) == expected
            else:
                self.world.pcpu[p]["exec_start_ns"] = self.now

    def wakeups(self):
        for p, root in enumerate(self.queues[: self.blueprint.pcpus]):
            curr = self.running(p)
            waiting = [task for task in self.waiting() if root in (task.home, task.home.over and task.home.over.home)]
            if curr is not None and waiting:
                wakee = self.lot.choice(waiting)
                expected = wakeup(self.rules, curr, wakee)
                assert bool(wakeup_row(self.row, self.blueprint.static, int(wakee.name), p)) == expected

    def waiting(self):
        """Tasks that are queued and do not run."""
        runs = [self.running(p) for p in range(self.blueprint.pcpus)]
        return [task for task in self.things[: self.blueprint.vcpus] if task in task.home.things and task not in runs]

    def moves(self):
        """A task that waits leaves its queue, asleep or to migrate, and comes to any pCPU; or a new one comes."""
        waiting = self.waiting()
        asleep = [task for task in self.things[: self.blueprint.vcpus] if task not in task.home.things]
        if waiting and (not asleep or self.lot.random() < 0.5):
            task, sleeps = self.lot.choice(waiting), self.lot.random() < 0.5
            self.leave(task)
            dequeue_row(self.row, self.blueprint.static, int(task.name), YES if sleeps else NO)
            self.come(task, sleeps, False)
        elif asleep:
            self.come(self.lot.choice(asleep), True, self.lot.random() < 0.5)

    def leave(self, task):
        self.left_at = task.home.floor
        for each in (task, task.home.over):
            if each is not None and not (each.below and each.below.things):
                forget_marks(each)
                each.home.things.remove(each)
                if each.home.running is each:
                    each.home.running = None
                raise_floor(each.home)

    def come(self, task, slept, new):
        v, p = int(task.name), self.lot.randrange(self.blueprint.pcpus)
        old, task.home = task.home, self.queues[self.queue_of(v, p)]
        if new:
            place_new(self.rules, task)
        elif slept:
            carry_over(task, old, task.home)
            place_sleeper(self.rules, task, task.home)
        else:
            carry_over(task, Queue(floor=self.left_at), task.home)
        task.home.add(task)
        group = task.home.over
        if group is not None and group not in group.home.things:
            place_sleeper(self.rules, group, group.home)
            group.home.add(group)
        enqueue_row(self.row, self.blueprint.static, v, p, self.queue_of(v, p), YES if new else NO)
        for group, weight in zip(
            self.things[self.blueprint.vcpus :], self.world.se["weight"][self.blueprint.vcpus :].tolist(), strict=True
        ):
            group.weight = weight

    def yields(self):
        """A running vCPU yields to any that waits, here or elsewhere."""
        waiting = self.waiting()
        for p, root in enumerate(self.queues[: self.blueprint.pcpus]):
            curr = self.running(p)
            if curr is not None and waiting:
                target = self.lot.choice(waiting)
                yield_to(root, curr, target)
                yield_row(self.row, self.blueprint.static, int(curr.name), int(target.name))


def make(grouped):
    """Three VMs, one of them with more vCPUs than share a latency, and two tasks, on two pCPUs."""
    far = Dist.constant(10**9)
    vms = tuple(Vm(name, n, work(*[(FAR,)] * n, name=name)) for name, n in (("a", 11), ("b", 3), ("c", 2)))
    host = plain_host(2, scheduler="cfs", group_scheduling=grouped)
    return Blueprint(Scenario("twin", host, vms, (HostTask("t", far), HostTask("u", far))))


@pytest.mark.parametrize("grouped", [True, False])
def test_cfs_agrees_with_its_twin(grouped):
    blueprint = make(grouped)
    (booted,) = blueprint.worlds([0])
    acts = (Pair.picks, Pair.ticks, Pair.wakeups, Pair.moves, Pair.yields)
    done = dict.fromkeys(acts, 0)
    for seed in range(STATES):
        pair = Pair(blueprint, booted.copy(), grouped, seed)
        for act in pair.lot.sample(acts, len(acts)):
            act(pair)
            pair.compare((seed, act.__name__))
            done[act] += 1
    assert set(done.values()) == {STATES}
