"""A naive twin of CFS for tests: slow, plain Python, written from the description of the scheduler alone.

It shares no code with kvmgym. Tasks and groups are objects in lists, nothing is kept that can be counted anew, and the
running one stays in its queue's list. Times are whole ns; every division rounds down. The numbers of a Thing are set by
whoever makes it. Source: kernel/sched/fair.c of Linux 6.1 (and, for `each_level`, of 5.12).
"""

from __future__ import annotations

from dataclasses import dataclass, field

NICE_0 = 1024
MANY = 8  # tasks that latency is shared by; more of them stretch the period


@dataclass(frozen=True)
class Rules:
    """latency, minimum and wakeup granularity, in ns. each_level: the period before 5.13."""

    latency: int
    minimum: int
    wakeup: int
    each_level: bool = False


@dataclass(eq=False)
class Thing:
    """A task, or a group that has a queue of its own below it. v: virtual runtime; ran: real time since its pick."""

    name: str
    v: int = 0
    weight: int = NICE_0
    label: int = 0
    ran: int = 0
    home: Queue | None = None
    below: Queue | None = None


@dataclass(eq=False)
class Queue:
    """floor: min_vruntime. over: the group that this queue belongs to, None for a pCPU's own."""

    floor: int = 0
    over: Thing | None = None
    things: list[Thing] = field(default_factory=list)
    running: Thing | None = None
    marks: dict[str, Thing | None] = field(default_factory=lambda: {"next": None, "last": None, "skip": None})

    def add(self, thing: Thing) -> None:
        thing.home = self
        self.things.append(thing)

    def tasks(self) -> int:
        """Tasks below, at all levels."""
        return sum(1 if thing.below is None else thing.below.tasks() for thing in self.things)


def virtual(time: int, weight: int) -> int:
    """Virtual time of a real time at a weight."""
    return time * NICE_0 // weight


def upwards(thing: Thing) -> list[Thing]:
    """The thing, the group that it is in, and so on to the pCPU's own queue."""
    found = [thing]
    while found[-1].home is not None and found[-1].home.over is not None:
        found.append(found[-1].home.over)
    return found


def timeslice(rules: Rules, thing: Thing) -> int:
    """What a thing may run at a stretch; one that is not in its home's list counts as if it were."""
    assert thing.home is not None
    queues = [each.home for each in upwards(thing) if each.home is not None]
    newcomer = thing not in thing.home.things
    at_home = len(thing.home.things) + newcomer
    on_cpu = queues[-1].tasks() + newcomer
    tasks = at_home if rules.each_level else on_cpu
    share = rules.latency if tasks <= MANY else tasks * rules.minimum
    for each, queue in zip(upwards(thing), queues, strict=True):
        total = sum(other.weight for other in queue.things)
        if each not in queue.things:
            total += each.weight
        share = share * each.weight // total
    return share if rules.each_level else max(share, rules.minimum)


def forget(thing: Thing) -> None:
    """Clear the marks of a thing; a hint for it stands at the levels above as well, as long as they name its groups."""
    for kind in ("next", "last", "skip"):
        for each in upwards(thing):
            if each.home is None or each.home.marks[kind] is not each:
                break
            each.home.marks[kind] = None


def mark(kind: str, thing: Thing) -> None:
    """Name a thing and all groups above it."""
    for each in upwards(thing):
        assert each.home is not None
        each.home.marks[kind] = each


def raise_floor(queue: Queue) -> None:
    """min_vruntime never falls."""
    if queue.things:
        queue.floor = max(queue.floor, min(thing.v for thing in queue.things))


def charge(root: Queue, delta: int) -> None:
    """The running task and its groups have run for `delta`."""
    if root.running is None:
        return
    deepest = root.running
    while deepest.below is not None:
        assert deepest.below.running is not None
        deepest = deepest.below.running
    for each in upwards(deepest):
        assert each.home is not None
        each.v += virtual(delta, each.weight)
        each.ran += delta
        raise_floor(each.home)


def pick(rules: Rules, root: Queue) -> Thing:
    """Who runs next on a pCPU; what is picked on the way loses its marks."""
    queue: Queue | None = root
    way: list[Thing] = []
    while queue is not None:
        order = sorted(queue.things, key=lambda thing: (thing.v, thing.label))
        left, choice = order[0], order[0]
        reach = left.v + virtual(rules.wakeup, left.weight)
        if queue.marks["skip"] is left and len(order) > 1 and order[1].v <= reach:
            choice = order[1]
        for kind in ("next", "last"):
            named = queue.marks[kind]
            if named is not None and named.v <= reach:
                choice = named
                break
        way.append(choice)
        queue = choice.below
    for each in way:
        forget(each)
    return way[-1]


def tick(rules: Rules, task: Thing) -> bool:
    """The tick finds `task` running: must its pCPU pick anew?"""
    resched = False
    for each in upwards(task):
        queue = each.home
        assert queue is not None
        if len(queue.things) < 2:
            continue
        allowed = timeslice(rules, each)
        if each.ran > allowed:
            forget(each)
            resched = True
        elif each.ran >= rules.minimum and each.v - min(thing.v for thing in queue.things) > allowed:
            resched = True
    return resched


def wakeup(rules: Rules, running: Thing, wakee: Thing) -> bool:
    """Does the wakee, queued already on the pCPU where `running` runs, preempt it?"""
    for theirs in upwards(wakee):
        for ours in upwards(running):
            if ours.home is theirs.home:
                if ours.v - theirs.v <= virtual(rules.wakeup, theirs.weight):
                    return False
                mark("next", theirs)
                assert running.home is not None
                if len(running.home.things) >= MANY and ours.below is None:
                    mark("last", ours)
                return True
    raise AssertionError("two things on one pCPU meet at its own queue")


def yield_to(root: Queue, yielder: Thing, target: Thing) -> None:
    """The marks that a yield_to leaves. root: the pCPU's own queue of the yielder."""
    mark("next", target)
    if root.tasks() > 1:
        forget(yielder)
        mark("skip", yielder)


def place_sleeper(rules: Rules, thing: Thing, queue: Queue) -> None:
    """A thing that comes back has half a latency of credit at most."""
    thing.v = max(thing.v, queue.floor - rules.latency // 2)


def place_new(rules: Rules, thing: Thing) -> None:
    """A new task begins a virtual slice late."""
    assert thing.home is not None
    thing.v = thing.home.floor + virtual(timeslice(rules, thing), thing.weight)


def carry_over(thing: Thing, source: Queue, destination: Queue) -> None:
    """Migration keeps the distance to min_vruntime."""
    thing.v += destination.floor - source.floor
