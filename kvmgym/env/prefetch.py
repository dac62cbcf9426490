"""What a step will read of a world, asked of memory before it is needed.

A batch of worlds does not fit the nearer caches, and a step follows chains of indices from record to record: each link
that is not cached costs a hundred times what the work on it does. A step on 16 x 64 reads some 120 cache lines; asked
for together, as here, they come in the time of a few. Nothing here changes a world. A row is asked for three times
while those before it run: `head` and `early` by addresses alone, `late` with what that brought, `begin` just before its
turn; then `seen` and `queued` at its next decision.
"""

from __future__ import annotations

from kvmgym.core.jit import face_jit
from kvmgym.core.layout import ACT_COMPUTE, LINE, NONE, PH_LOCK, PH_UNLOCK, VCPU
from kvmgym.core.memory import HOST_AT, POINTERS, World, fetch
from kvmgym.core.records import Vcpu

_RUNS, _ACTS = 4, VCPU.itemsize // LINE  # lines of a vCPU's record: what most events read, all
CACHED = 1 << 20  # bytes of worlds that stay cached without help


@face_jit
def head(w: World, shift: int) -> None:
    """What lies at the beginning of any row, here of the one `shift` bytes after that of `w`: pointers, host, ask."""
    for at in range(-HOST_AT, POINTERS - HOST_AT, LINE):
        fetch(w.host, 0, shift + at)
    for at in range(0, 2 * LINE, LINE):
        fetch(w.host, 0, shift + at)
        fetch(w.ask, 0, shift + at)


@face_jit
def early(w: World, g: int, shift: int) -> None:
    """What every step on a decision of VM `g` reads in the row `shift` bytes after that of `w`, a world of the same
    scenario."""
    par = w.par[0]
    for k in range(par.vms):
        for at in range(0, 3 * LINE, LINE):
            fetch(w.vm, k, shift + at)
    for at in range(3 * LINE, 6 * LINE, LINE):
        fetch(w.vm, g, shift + at)
    for leaf in range(0, par.pcpus + par.vcpus, 8):
        fetch(w.tree_ns, leaf, shift)
    for p in range(par.pcpus):
        fetch(w.pcpu, p, shift)
    node, below = par.leaves >> 1, (par.pcpus + 1) >> 1  # the part of the tree above the pCPUs' leaves
    while node >= 16:
        for i in range(0, below, 16):
            fetch(w.tree, node + i, shift)
        node >>= 1
        below = (below + 1) >> 1
    fetch(w.tree, 0, shift)


@face_jit
def _vcpu(w: World, v: int, lines: int) -> None:
    """The first lines of the vCPU's record, and its entity."""
    for at in range(0, lines * LINE, LINE):
        fetch(w.vcpu, v, at)
    fetch(w.se, v, 0)


@face_jit
def _soon(w: World) -> int:
    """The time within which pCPUs with an event are likely to act in the next step: that of two steps [ns]."""
    host = w.host[0]
    return host.now_ns + 2 * ((host.now_ns - host.window_since_ns) // max(host.decisions, 1))


@face_jit
def late(w: World, g: int, me: int, target: int) -> None:
    """What the vCPUs that act next need: the spinner, the target of its yield, those with an event soon."""
    vm = w.vm[g]
    _vcpu(w, vm.first + me, _ACTS)
    if 0 <= target < vm.vcpus:
        _vcpu(w, vm.first + target, _RUNS)
    soon = _soon(w)
    for p in range(w.par[0].pcpus):
        if w.tree_ns[p] < soon:
            fetch(w.pcpu, p, LINE)
            fetch(w.rq, p, 0)
            v = w.pcpu[p].curr
            if v != NONE:
                _vcpu(w, v, _RUNS)
                fetch(w.pend, v * w.par[0].pend_words, 0)


@face_jit
def begin(w: World, g: int, me: int, target: int) -> None:
    """The queues on the pCPUs of the spinner and the target, which will pick anew, who runs there, and locks."""
    vm = w.vm[g]
    _pcpu(w, w.vcpu[vm.first + me].pcpu)
    if 0 <= target < vm.vcpus:
        _pcpu(w, w.vcpu[vm.first + target].pcpu)
    soon = _soon(w)
    for p in range(w.par[0].pcpus):
        if w.tree_ns[p] < soon and w.pcpu[p].curr != NONE:
            _lock(w, w.vcpu[w.pcpu[p].curr])


@face_jit
def _pcpu(w: World, p: int) -> None:
    par = w.par[0]
    fetch(w.pcpu, p, LINE)
    fetch(w.pcpu, p, 2 * LINE)
    fetch(w.rq, p, 0)
    if w.pcpu[p].curr != NONE:
        _vcpu(w, w.pcpu[p].curr, _RUNS)
    if par.group_scheduling:
        for k in range(par.vms):
            fetch(w.rq, (1 + k) * par.pcpus + p, 0)
            fetch(w.se, par.vcpus + k * par.pcpus + p, 0)


@face_jit
def _lock(w: World, vcpu: Vcpu) -> None:
    """The lock that a vCPU takes or passes on when its compute ends."""
    if vcpu.act == ACT_COMPUTE:
        phase = w.phase[w.phase[vcpu.pc].next]
        if phase.kind == PH_LOCK:
            fetch(w.lock, w.vm[vcpu.vm].locks + phase.a, 0)
        elif phase.kind == PH_UNLOCK and vcpu.held_lock != NONE:
            fetch(w.lock, vcpu.held_lock, 0)


@face_jit
def seen(w: World) -> None:
    """What the mask and the observation read of the vCPUs of the open spin exit's VM."""
    vm = w.vm[w.ask[0].vm]
    for v in range(vm.first, vm.first + vm.vcpus):
        fetch(w.vcpu, v, 0)


@face_jit
def queued(w: World) -> None:
    """What the observation reads of the queues that these vCPUs wait in."""
    par, vm = w.par[0], w.vm[w.ask[0].vm]
    for v in range(vm.first, vm.first + vm.vcpus):
        vcpu = w.vcpu[v]
        fetch(w.pcpu, vcpu.pcpu, 0)
        if vcpu.ready:
            fetch(w.se, v, 0)
            fetch(w.rq, vcpu.pcpu, 0)
            if par.group_scheduling:
                group = w.ask[0].vm * par.pcpus + vcpu.pcpu
                fetch(w.rq, par.pcpus + group, 0)
                fetch(w.se, par.vcpus + group, 0)
