"""A run queue to set by hand: entities with a vruntime, a deadline and a weight, in ms.

Flat run queue of one pCPU unless a test says otherwise: vCPU i of VM a is entity i. Slice 3 ms, tick 1 ms, so a lag is
clamped to 4 ms at weight 1024. Times in ms in the tests, in ns in the records.
"""

from __future__ import annotations

from typing import Any

from entities import change, give_slice
from stories import Story, plain_host, user, work

from kvmgym.core import layout
from kvmgym.core.host import eevdf, entities
from kvmgym.params import Scenario, Vm

MS = 1_000_000
BUSY = (user(10**6),)
NOBODY = layout.NONE
NOW = 0


def computing(*vms: Vm, until_us: float = 0, pcpus: int = 1, **host: Any) -> Story:
    """A story of those VMs in which nobody yields."""
    return Story(Scenario("eevdf", plain_host(pcpus, **host), vms), "none").until(until_us)


def queue(n: int, **host: Any) -> Story:
    """n equal vCPUs of one VM in the root queue of the only pCPU; entity 0 runs."""
    vm = Vm("a", n, work(BUSY), pin=(0,) * n)
    return computing(vm, **{"group_scheduling": False, **host})


def put(s: Story, k: int, v: float, deadline: float = 0, *, weight: int = 1024, slice_ms: float = 3) -> None:
    """Give entity k its numbers; its protection is over."""
    v_ns = round(v * MS)
    change(s.world, k, vruntime_ns=v_ns, deadline_ns=round(deadline * MS), weight=weight, vprot_ns=v_ns)
    give_slice(s.world, k, round(slice_ms * MS))


def protect(s: Story, k: int, until_v: float) -> None:
    """Let the slice protection of entity k last to that vruntime."""
    s.world.se[k]["vprot_ns"] = round(until_v * MS)


def numbers(s: Story, k: int) -> tuple[float, float]:
    """vruntime and deadline of entity k, in ms."""
    return int(s.world.se[k]["vruntime_ns"]) / MS, int(s.world.se[k]["deadline_ns"]) / MS


def lag(s: Story, k: int) -> float:
    """The lag that entity k left its queue with, in ms."""
    return int(s.world.se[k]["vlag_ns"]) / MS


def average(s: Story, rq: int = 0) -> float:
    """V of a queue, in ms."""
    return int(entities.average(s.world, rq)) / MS


def pick(s: Story, rq: int = 0) -> int:
    """The entity that the queue would let run."""
    return int(eevdf.pick(s.world, rq, NOBODY))


def take_off(s: Story, v: int, *, sleep: bool) -> None:
    """Dequeue vCPU v, which neither runs nor is anybody's current."""
    if s.world.rq[0]["curr"] == v:
        s.world.rq[0]["curr"] = NOBODY
    eevdf.dequeue(s.world, v, layout.YES if sleep else layout.NO, NOW)
