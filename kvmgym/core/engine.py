"""The loop: take the earliest event, let it change the world, carry out what the schedulers ask for, go on.

One dynamics for all faces: a compiled rollout calls `advance` with a policy and never stops at decisions; the Gymnasium
environment stops at each, answers it with `answer`, and calls `advance` again.
"""

from __future__ import annotations

from kvmgym.core import account, events, layout, rng, shown
from kvmgym.core.guest import activity, ipi, locks, program, tasks
from kvmgym.core.host import balance, directed_yield, entities, fair, kvm, queues, ticks
from kvmgym.core.jit import jit
from kvmgym.core.layout import (
    ACT_COMPUTE,
    ACT_HALT,
    ACT_SEND,
    ACT_SPIN_LOCK,
    AT_DEADLOCK,
    AT_DECISION,
    AT_TIME,
    GOING_ON,
    INF,
    LINE,
    NO,
    NONE,
    READY,
    RUNNING,
    YES,
    YIELD_OK,
)
from kvmgym.core.memory import World, carve, fetch, span
from kvmgym.core.records import Bytes, Numbers, PolicyFunction, int64

STEPS = 1 << 18  # of the loop between two returns to Python, where Ctrl-C is heard: tens of milliseconds
_SWITCHED = 5  # lines of a vCPU's record that a switch touches, all but the last


@jit
def boot(w: World, random_phases: int) -> None:
    """Start every vCPU on its pCPU at time 0. With `random_phases`, ticks and first slices begin at random points."""
    events.rebuild(w)
    par, now = w.par[0], w.host[0].now_ns
    for p in range(w.par[0].pcpus):
        pcpu = w.pcpu[p]
        pcpu.curr = NONE
        pcpu.last_vm = NONE
        pcpu.next_tick_ns = INF
        pcpu.next_balance_ns = par.balance_interval_ns * (p + 1) // w.par[0].pcpus
        pcpu.idle = 0
        queues.set_idle(w, p, YES)
        queues.count_empty(w, 1)
    for g in range(w.par[0].vms):
        w.vm[g].load_x1024 = w.vm[g].vcpus * 1024
    for v in range(w.par[0].vcpus):
        program.start(w, v)
    tasks.start(w)
    for v in range(w.par[0].vcpus):
        queues.attach(w, v, w.vcpu[v].pcpu, now, YES)
        account.set_state(w, v, READY, now)
        w.vcpu[v].ready = 1
    if random_phases:
        for p in range(w.par[0].pcpus):
            _random_phase(w, p)
    for p in range(w.par[0].pcpus):
        if w.pcpu[p].nr_running > 0:
            queues.set_idle(w, p, NO)
            queues.request_resched(w, p)


@jit
def _random_phase(w: World, p: int) -> None:
    """Draw what is left of the first slice of each entity of a root queue from the stream of its own first vCPU, and
    the tick offset from that of the entity with the lowest label, so that labels decide and not places."""
    lowest = NONE
    k = int64(w.rq[p].head)
    while k != NONE:
        below = entities.own_queue(w, k)
        i = k if below == NONE else _lowest(w, int64(w.rq[below].head))
        left = w.par[0].unit_ns + rng.part_of(w, w.vcpu[i], w.ent[k].slice_ns)
        fair.begin(w, k, left)
        if lowest == NONE or w.ent[i].order < w.ent[lowest].order:
            lowest = i
        k = int64(w.se[k].next)
    if lowest != NONE:
        w.pcpu[p].tick_offset_ns = rng.part_of(w, w.vcpu[lowest], w.par[0].tick_ns)


@jit
def _lowest(w: World, k: int) -> int:
    """The entity with the lowest label of a list that begins with `k`."""
    best = k
    while k != NONE:
        if w.ent[k].order < w.ent[best].order:
            best = k
        k = int64(w.se[k].next)
    return best


@jit
def advance(w: World, until_ns: int, policy: PolicyFunction, stop: int, steps: int) -> tuple[int, int]:
    """Run the world to `until_ns`, for at most `steps` steps. With `stop`, return AT_DECISION at each attempt of a spin
    exit (answer it with `answer`); else ask `policy`. Returns the status, AT_TIME, AT_DECISION, AT_DEADLOCK or GOING_ON
    when the steps are used up (call it again: that changes nothing), and how many steps are left."""
    while steps > 0:
        steps -= 1
        status = step(w, until_ns, policy, stop)
        if status != GOING_ON:
            return status, steps
    return GOING_ON, steps


@jit
def step(w: World, until_ns: int, policy: PolicyFunction, stop: int) -> int:
    """One thing: an attempt of the open spin exit, else a pCPU that must pick anew, else the next event."""
    host, ask = w.host[0], w.ask[0]
    if ask.open:
        if host.shows:
            shown.show(w)
        if stop:
            return AT_DECISION
        vm = w.vm[ask.vm]
        answer(w, policy(vm, span(w.vcpu, vm.first, vm.vcpus), ask.me, ask))
        return GOING_ON
    if host.resched_head != NONE:
        _reschedule(w, queues.next_resched(w), host.now_ns)
        return GOING_ON
    if host.deadlock_vm != NONE:
        return AT_DEADLOCK
    leaf = events.first(w)
    now = w.tree_ns[leaf]
    if now > until_ns:
        host.now_ns = until_ns
        return AT_TIME
    host.now_ns = now
    if leaf < w.par[0].pcpus:
        _pcpu_event(w, leaf, now)
    else:
        owner = int64(w.by_leaf[leaf - w.par[0].pcpus])
        if owner < w.par[0].vcpus:
            program.timer_fired(w, owner, now)
        else:
            program.task_timer_fired(w, owner - w.par[0].vcpus, now)
    return GOING_ON


@jit
def _pcpu_event(w: World, p: int, now: int) -> None:
    """The next change on pCPU `p`: its tick, or that of the vCPU on it."""
    pcpu = w.pcpu[p]
    v = pcpu.curr
    if v == NONE:  # an idle pCPU has heard of a wakeup
        events.set_time(w, p, INF)
        queues.request_resched(w, p)
        return
    vcpu = w.vcpu[v]
    if pcpu.next_tick_ns <= now:
        w.host[0].events += 1
        ticks.tick(w, p, now)
        activity.set_event(w, v)
    elif vcpu.in_irq:
        ipi.end_irq(w, v, now)
    elif vcpu.act == ACT_COMPUTE:
        program.phase_ended(w, v, now)
    elif vcpu.act == ACT_SEND:
        if ipi.send_done(w, v, now):
            program.phase_ended(w, v, now)
    elif vcpu.act == ACT_HALT:
        if vcpu.polling:  # its poll has lasted long enough, or somebody wants the pCPU
            activity.halt(w, v, now)
        else:
            ipi.take_pending_or_go_on(w, v, now)
    elif activity.must_look(w, vcpu):
        locks.look_again(w, v, now)
    elif now >= vcpu.spin_from_ns + vcpu.spin_budget_ns:  # its patience ends; whoever releases it will wake it
        activity.halt(w, v, now)
    else:
        _spin_exit(w, v, now)


@jit
def _spin_exit(w: World, v: int, now: int) -> None:
    """A pause-loop exit: grow the window and open the frame of kvm_vcpu_on_spin."""
    vcpu, ask = w.vcpu[v], w.ask[0]
    vm = w.vm[vcpu.vm]
    account.spin_pause(w, vcpu, now)
    if w.par[0].ple_names_holder and vcpu.act == ACT_SPIN_LOCK and _named_holder(w, v, now):
        return
    w.host[0].events += 1
    vcpu.spin_exits += 1
    vcpu.ple_exits += 1
    vm.ple_exits += 1
    account.note(w, layout.TR_PLE, v, vcpu.ple_window_ns)
    kvm.grow_window(vcpu, w.par[0])
    kvm.begin_spin(ask, vcpu, vcpu.vm, kvm.wants_kernel_mode(w.par[0], vm, vcpu), now)
    if vm.vcpus < 2:
        _no_target(w, v, now)
    else:
        w.host[0].decisions += 1


@jit
def _named_holder(w: World, v: int, now: int) -> bool:
    """s390: a guest that spins for a lock looks at its holder. True when the holder decides what happens: one that runs
    is spun for without an exit, a preempted one is yielded to by name (diag 0x9c)."""
    vcpu = w.vcpu[v]
    owner = int64(w.lock[vcpu.wait_lock].owner)
    if owner == NONE:
        return False
    if w.vcpu[owner].state != RUNNING:
        w.host[0].events += 1
        vcpu.spin_exits += 1
        vcpu.ple_exits += 1
        w.vm[vcpu.vm].ple_exits += 1
        account.note(w, layout.TR_PLE, v, vcpu.ple_window_ns)
        if ipi.yield_named(w, v, owner, now) == YIELD_OK:
            w.pcpu[vcpu.pcpu].carry_ns += w.par[0].ple_exit_ns
            return True
        account.charge(w, v, w.par[0].ple_exit_ns, now)
    vcpu.spin_from_ns = account.guest_from(vcpu, now)
    activity.set_event(w, v)
    return True


@jit
def answer(w: World, target: int) -> None:
    """Attempt to yield to `target`, an index in the VM, in the open spin exit; anything unacceptable ends it."""
    ask = w.ask[0]
    vm = w.vm[ask.vm]
    vcpus = span(w.vcpu, vm.first, vm.vcpus)
    me = vm.first + ask.me
    now = w.host[0].now_ns
    if not kvm.acceptable(ask, vcpus, target):
        _no_target(w, me, now)
        return
    result = directed_yield.yield_to(w, me, vm.first + target, now)
    kvm.record_result(ask, vm, vcpus, target, result)
    account.note(w, layout.TR_YIELD, me, (vm.first + target) * 4 + result + 1)
    if result == YIELD_OK:
        w.pcpu[w.vcpu[me].pcpu].carry_ns += w.par[0].ple_exit_ns + w.par[0].yield_ns


@jit
def _no_target(w: World, v: int, now: int) -> None:
    """The spin exit ends without a yield: its cost delays the guest, which then spins on."""
    vcpu, par = w.vcpu[v], w.par[0]
    account.note(w, layout.TR_NO_TARGET, v, 0)
    kvm.end_spin(w.ask[0], vcpu)
    vcpu.spin_from_ns = now
    vcpu.resume_check = 1
    account.charge(w, v, par.ple_exit_ns + (w.vm[vcpu.vm].vcpus - 1) * par.scan_ns, now)
    vcpu.handler_until_ns = vcpu.overhead_until_ns
    activity.set_event(w, v)


@jit
def _reschedule(w: World, p: int, now: int) -> None:
    """__schedule on pCPU `p`: pick, and switch if the pick is another."""
    pcpu = w.pcpu[p]
    prev = pcpu.curr
    fair.update_curr(w, p, now)
    v = fair.pick_vcpu(w, p, now)
    if v == NONE and balance.pull_newidle(w, p, now):
        v = fair.pick_vcpu(w, p, now)
    if v == prev and v != NONE and w.vcpu[v].state == RUNNING:
        _stay(w, v, now)
        return
    if v != NONE:
        for line in range(_SWITCHED):  # its record will be needed after that of `prev`
            fetch(w.vcpu, v, line * LINE)
        fetch(w.se, v, 0)
    elapsed = now - pcpu.curr_since_ns
    pcpu.curr_since_ns = now
    if prev == NONE:
        pcpu.idle_ns += elapsed
    else:
        pcpu.used_ns += elapsed
        _switch_out(w, prev, now)
    fair.set_current(w, prev, v)
    pcpu.curr = v
    if prev == NONE or v == NONE:
        queues.count_empty(w, (1 if v == NONE else 0) - (1 if prev == NONE else 0))
    w.host[0].events += 1
    if v != NONE:
        _switch_in(w, p, v, prev == NONE, now)
        return
    queues.go_idle(w, p)
    events.set_time(w, p, INF)


@jit
def _stay(w: World, v: int, now: int) -> None:
    """The pick is the vCPU that runs: it goes on after host work on its pCPU, out of any spin-exit handler."""
    vcpu = w.vcpu[v]
    pcpu = w.pcpu[vcpu.pcpu]
    if vcpu.in_spin_loop:
        kvm.end_spin(w.ask[0], vcpu)
        vcpu.spin_from_ns = now
        vcpu.resume_check = 1
        account.charge(w, v, pcpu.carry_ns, now)
        vcpu.handler_until_ns = vcpu.overhead_until_ns
    else:
        account.charge(w, v, pcpu.carry_ns, now)
    pcpu.carry_ns = 0
    activity.set_event(w, v)


@jit
def _switch_out(w: World, v: int, now: int) -> None:
    vcpu = w.vcpu[v]
    activity.suspend(w, v, now)
    if vcpu.state == RUNNING:
        account.set_state(w, v, READY, now)
        account.note(w, layout.TR_PREEMPT, v, vcpu.pcpu)
        kvm.on_preempt(vcpu, w.vm[vcpu.vm], now)
    vcpu.last_ran_ns = now
    if entities.parent(w, v) != NONE:
        w.rq[w.se[v].rq].last_ran_ns = now


@jit
def _switch_in(w: World, p: int, v: int, was_idle: int, now: int) -> None:
    vcpu, pcpu, par = w.vcpu[v], w.pcpu[p], w.par[0]
    vm = w.vm[vcpu.vm]
    if was_idle:
        queues.set_idle(w, p, NO)
        ticks.start_ticks(w, p, now)
    account.set_state(w, v, RUNNING, now)
    account.note(w, layout.TR_RUN, v, p)
    kvm.on_sched_in(vcpu, par)
    cost = pcpu.carry_ns + par.switch_ns
    if vcpu.woken and par.poll_max_ns > 0:
        activity.adapt_poll(vcpu, par, now)
    if vcpu.woken:  # part of the cost has passed while an idle pCPU woke up
        cost = pcpu.carry_ns + max(par.halt_ns - (par.wake_ns if was_idle else 0), 0)
    if vcpu.pv_flush:
        vcpu.pv_flush = 0
        cost += par.pv_flush_ns
    pcpu.carry_ns = 0
    vcpu.woken = 0
    if pcpu.last_vm != vcpu.vm and vm.rewarm_ns > 0:
        since = vcpu.last_ran_ns
        if entities.parent(w, v) != NONE:
            since = w.rq[w.se[v].rq].last_ran_ns
        away = ((((now - since) // par.unit_ns) * par.rewarm_q16) >> 16) * par.unit_ns
        vcpu.rewarm_debt_ns = max(vcpu.rewarm_debt_ns, min(vm.rewarm_ns, away))
    pcpu.last_vm = vcpu.vm
    pcpu.switches += 1
    activity.resume(w, v, cost, now)
    ipi.take_pending_or_go_on(w, v, now)


@jit
def boot_row(state: Bytes, static: Bytes, random_phases: int) -> None:
    """`boot` for one row of bytes."""
    boot(carve(state, static), random_phases)


@jit
def advance_row(state: Bytes, static: Bytes, until_ns: int, policy: PolicyFunction, stop: int) -> int:
    """`advance` for one row of bytes and STEPS steps; returns the status."""
    return advance(carve(state, static), until_ns, policy, stop, STEPS)[0]


@jit
def advance_rows(
    states: Bytes, statics: Bytes, which: Numbers, until_ns: int, policy: PolicyFunction, stop: int, status: Numbers
) -> None:
    """`advance` for rows [E, bytes], one after the other; row e uses statics[which[e]]; results go into status [E]."""
    for e in range(states.shape[0]):
        status[e] = GOING_ON
        while status[e] == GOING_ON:
            status[e] = advance(carve(states[e], statics[which[e]]), until_ns, policy, stop, STEPS)[0]


@jit
def settle_row(state: Bytes, static: Bytes, reset: int) -> None:
    """Bring the counters of one row up to now; with `reset`, start the measured window now."""
    w = carve(state, static)
    if reset:
        account.reset(w)
    else:
        account.settle(w)


@jit
def answer_row(state: Bytes, static: Bytes, target: int) -> None:
    """`answer` for one row of bytes."""
    answer(carve(state, static), target)
