"""The kernel's own heuristics as resumable scans: what kvm_vcpu_on_spin tries next.

A policy is asked once for each attempt of a spin exit. The scan keeps its place in the `ask` record between attempts:
`start` and `cursor` say which candidate comes next, `round` which pass this is, `tries` how many -ESRCH it may still
meet. Source: virt/kvm/kvm_main.c, kvm_vcpu_on_spin; the rounds of the 2025-26 series.

The heuristics of earlier years are rules of the same scan. They are what their year asked of a candidate, on today's
yield_to: three tries, -ESRCH and the state of the scan are as in today's kernel.
"""

from __future__ import annotations

from kvmgym.codes import TRACK_OFF
from kvmgym.core.jit import jit
from kvmgym.core.layout import NONE
from kvmgym.core.records import Ask, Vcpu, Vcpus, Vm, int64

# In the order of their years: what a rule asks of a candidate can be told from its place.
(RULE_2011, RULE_2012, RULE_2017, RULE_2019, RULE_LEGACY, RULE_STRICT, RULE_RELAXED) = (
    int64(code) for code in range(7)
)


@jit
def eligible_for_directed_yield(candidate: Vcpu) -> int:
    """kvm_vcpu_eligible_for_directed_yield: true out of a spin loop, or when dy_eligible; a check of a spinner inverts
    its dy_eligible, whatever the answer."""
    answer = candidate.in_spin_loop == 0 or candidate.dy_eligible == 1
    if candidate.in_spin_loop:
        candidate.dy_eligible ^= 1
    return answer


@jit
def awaits_ack(vm: Vm, sender: Vcpu, now_ns: int) -> int:
    """The vCPU's own tracked IPI is not acknowledged and not too old."""
    tracked = vm.ipi_tracking != TRACK_OFF and sender.ipi_pending == 1
    return tracked and now_ns - sender.ipi_time_ns <= vm.ipi_window_ns


@jit
def sent_lately(vm: Vm, sender: Vcpu, receiver: int, now_ns: int) -> int:
    """The vCPU's own tracked IPI went to `receiver`, an index in the VM, which has not acknowledged it and ought to."""
    return sender.ipi_receiver == receiver and awaits_ack(vm, sender, now_ns)


@jit
def is_ipi_receiver(vm: Vm, vcpus: Vcpus, me: int, candidate: int, now_ns: int) -> int:
    """Tier 1: the candidate is the recent receiver of an IPI from `me` that it has not acknowledged."""
    return sent_lately(vm, vcpus[me], candidate, now_ns)


@jit
def waits_for_pcpu(vcpu: Vcpu) -> bool:
    """Rules (b) and (c): ready, and not blocking unless it has an event to handle."""
    return vcpu.ready == 1 and (vcpu.blocking == 0 or vcpu.dy_runnable == 1 or vcpu.pending_interrupt == 1)


@jit
def may_try(vcpu: Vcpu, me: int, index: int, ask: Ask) -> bool:
    """Another vCPU that waits for a pCPU (rules a to c of kvm_vcpu_on_spin) and has not failed in this exit."""
    return index != me and waits_for_pcpu(vcpu) and vcpu.tried_serial != ask.serial


@jit
def is_candidate(rule: int, vcpu: Vcpu) -> bool:
    """Rules (b) and (c) as of the rule's year: before 2019 only a preempted vCPU counted, and a blocking one never."""
    if rule <= RULE_2017:
        return vcpu.preempted == 1 and vcpu.blocking == 0
    return waits_for_pcpu(vcpu)


@jit
def passes(rule: int, vm: Vm, vcpus: Vcpus, me: int, index: int, ask: Ask) -> int:
    """Rule (d) of kvm_vcpu_on_spin for a candidate, by RULE_*.

    2011, 2012: nothing. 2017, 2019: skip what was preempted in user mode, where the caller wants kernel mode; woken
    vCPUs pass. Legacy (since 2021): the same, but not with an interrupt pending. Strict: IPI receiver, pending
    interrupt, or preempted where the caller wants it. Relaxed: preempted.
    """
    vcpu = vcpus[index]
    wanted = ask.yield_to_kernel_mode == 0 or vcpu.preempted_in_kernel == 1
    if rule == RULE_RELAXED:
        return vcpu.preempted == 1
    if rule <= RULE_2012:
        return True
    if rule <= RULE_LEGACY:
        return vcpu.preempted == 0 or wanted or (rule == RULE_LEGACY and vcpu.pending_interrupt == 1)
    if is_ipi_receiver(vm, vcpus, me, index, ask.now_ns) or vcpu.pending_interrupt == 1:
        return True
    return vcpu.preempted == 1 and wanted


@jit
def round_goes_on(ask: Ask) -> bool:
    """False when the last result used up the tries of the round (tries that are negative never stop a round)."""
    return not (ask.last_result < 0 and ask.tries == 0)


@jit
def begin_round(vm: Vm, ask: Ask, number: int) -> None:
    """Start round `number` after the vCPU that was boosted last."""
    ask.scan_round = number
    ask.start = vm.last_boosted_vcpu + 1
    ask.cursor = 0


@jit
def next_candidate(rule: int, vcpus: Vcpus, me: int, ask: Ask) -> int:
    """The next vCPU of the round that passes rules (a) to (c), or NONE at its end; the cursor moves past it."""
    n = vcpus.size
    while ask.cursor < n:
        index = (ask.start + ask.cursor) % n
        ask.cursor += 1
        if index != me and is_candidate(rule, vcpus[index]):
            return index
    return NONE


@jit
def scan(rule: int, vm: Vm, vcpus: Vcpus, me: int, ask: Ask) -> int:
    """Go on with the round: the next candidate that passes the rule and is eligible (asked since 2012), or NONE."""
    while True:
        index = next_candidate(rule, vcpus, me, ask)
        if index == NONE:
            return NONE
        if not passes(rule, vm, vcpus, me, index, ask):
            continue
        if rule == RULE_2011 or eligible_for_directed_yield(vcpus[index]):
            return index


@jit
def one_round(rule: int, vm: Vm, vcpus: Vcpus, me: int, ask: Ask) -> int:
    """Round 1 under a rule, from its beginning or from where it stands; NONE once it has used up its tries."""
    if ask.attempt == 0:
        begin_round(vm, ask, 1)
    elif not round_goes_on(ask):
        return NONE
    return scan(rule, vm, vcpus, me, ask)


@jit
def year_2011(vm: Vm, vcpus: Vcpus, me: int, ask: Ask) -> int:
    """The first of them: one round robin pass over preempted vCPUs, spinners or not."""
    return one_round(RULE_2011, vm, vcpus, me, ask)


@jit
def year_2012(vm: Vm, vcpus: Vcpus, me: int, ask: Ask) -> int:
    """2011 with the eligibility check: a spinner is taken every other time it is asked about."""
    return one_round(RULE_2012, vm, vcpus, me, ask)


@jit
def year_2017(vm: Vm, vcpus: Vcpus, me: int, ask: Ask) -> int:
    """2012 with yield_to_kernel_mode: what was preempted in user mode is skipped where the caller asks for it."""
    return one_round(RULE_2017, vm, vcpus, me, ask)


@jit
def year_2019(vm: Vm, vcpus: Vcpus, me: int, ask: Ask) -> int:
    """2017 with `ready` and dy_runnable: woken vCPUs count too, and blocking ones that have an event."""
    return one_round(RULE_2019, vm, vcpus, me, ask)


@jit
def year_2021(vm: Vm, vcpus: Vcpus, me: int, ask: Ask) -> int:
    """2019 with the pending-interrupt hint: it lets a vCPU pass that was preempted in user mode. Today's rule."""
    return one_round(RULE_LEGACY, vm, vcpus, me, ask)


@jit
def legacy(vm: Vm, vcpus: Vcpus, me: int, ask: Ask) -> int:
    """Mainline 6.13 and later: one round robin pass over ready vCPUs, rule (d) and eligibility, three tries."""
    return one_round(RULE_LEGACY, vm, vcpus, me, ask)


@jit
def legacy_i_bug(vm: Vm, vcpus: Vcpus, me: int, ask: Ask) -> int:
    """Linux 6.13 to 6.18.0: as legacy, but success stores the loop offset in last_boosted_vcpu instead of the index
    (fixed by commit 32bd348be3fa)."""
    index = legacy(vm, vcpus, me, ask)
    ask.mark = ask.cursor - 1
    return index


@jit
def strict(vm: Vm, vcpus: Vcpus, me: int, ask: Ask) -> int:
    """Round 1 of the series alone, as v3 patch 9 behaves: it never retries."""
    return one_round(RULE_STRICT, vm, vcpus, me, ask)


@jit
def relaxed(vm: Vm, vcpus: Vcpus, me: int, ask: Ask) -> int:
    """The series: the strict round, then the relaxed one when nothing was yielded to. `start` is read again; the tries
    go on, so that three -ESRCH in round 1 leave round 2 without a limit."""
    if ask.scan_round == 1:
        index = one_round(RULE_STRICT, vm, vcpus, me, ask)
        if index != NONE or not vm.enable_relaxed_boost:
            return index
        begin_round(vm, ask, 2)
    elif not round_goes_on(ask):
        return NONE
    return scan(RULE_RELAXED, vm, vcpus, me, ask)


@jit
def relaxed_only(vm: Vm, vcpus: Vcpus, me: int, ask: Ask) -> int:
    """The relaxed round alone, as an ablation: any preempted vCPU, three tries."""
    return one_round(RULE_RELAXED, vm, vcpus, me, ask)
