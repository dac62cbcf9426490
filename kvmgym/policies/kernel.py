"""The kernel's own heuristics as resumable scans: what kvm_vcpu_on_spin tries next.

A policy is asked once for each attempt of a spin exit. The scan keeps its place in the `ask` record between attempts:
`start` and `cursor` say which candidate comes next, `round` which pass this is, `tries` how many -ESRCH it may still
meet. Source: virt/kvm/kvm_main.c, kvm_vcpu_on_spin; the rounds of the 2025-26 series.
"""

from __future__ import annotations

import numpy as np

from kvmgym.core.jit import jit
from kvmgym.core.layout import NONE

RULE_LEGACY, RULE_STRICT, RULE_RELAXED = np.int64(0), np.int64(1), np.int64(2)


@jit
def eligible_for_directed_yield(candidate):
    """kvm_vcpu_eligible_for_directed_yield: true out of a spin loop, or when dy_eligible; a check of a spinner inverts
    its dy_eligible, whatever the answer."""
    answer = candidate.in_spin_loop == 0 or candidate.dy_eligible == 1
    if candidate.in_spin_loop:
        candidate.dy_eligible ^= 1
    return answer


@jit
def is_ipi_receiver(vm, vcpus, me, candidate, now_ns):
    """Tier 1: the candidate is the recent receiver of an IPI from `me` that it has not acknowledged."""
    sender = vcpus[me]
    return (
        vm.ipi_tracking != 0
        and sender.ipi_pending == 1
        and sender.ipi_receiver == candidate
        and now_ns - sender.ipi_time_ns <= vm.ipi_window_ns
    )


@jit
def passes(rule, vm, vcpus, me, index, ask):
    """Rule (d) of kvm_vcpu_on_spin for a ready candidate, by RULE_*.

    Legacy: skip what was preempted in user mode with no interrupt pending; woken vCPUs pass. Strict: IPI receiver,
    pending interrupt, or preempted where the caller wants it. Relaxed: preempted.
    """
    vcpu = vcpus[index]
    wanted = ask.yield_to_kernel_mode == 0 or vcpu.preempted_in_kernel == 1
    if rule == RULE_RELAXED:
        return vcpu.preempted == 1
    if rule == RULE_LEGACY:
        return vcpu.preempted == 0 or wanted or vcpu.pending_interrupt == 1
    if is_ipi_receiver(vm, vcpus, me, index, ask.now_ns) or vcpu.pending_interrupt == 1:
        return True
    return vcpu.preempted == 1 and wanted


@jit
def round_goes_on(ask):
    """False when the last result used up the tries of the round (tries that are negative never stop a round)."""
    return not (ask.last_result < 0 and ask.tries == 0)


@jit
def begin_round(vm, ask, number):
    """Start round `number` after the vCPU that was boosted last."""
    ask.scan_round = number
    ask.start = vm.last_boosted_vcpu + 1
    ask.cursor = 0


@jit
def next_candidate(vcpus, me, ask):
    """The next vCPU of the round that passes rules (a) to (c), or NONE at its end; the cursor moves past it."""
    n = vcpus.size
    while ask.cursor < n:
        index = (ask.start + ask.cursor) % n
        ask.cursor += 1
        vcpu = vcpus[index]
        if index == me or vcpu.ready == 0:
            continue
        if vcpu.blocking and not (vcpu.dy_runnable or vcpu.pending_interrupt):
            continue
        return index
    return NONE


@jit
def scan(rule, vm, vcpus, me, ask):
    """Go on with the round: the next candidate that passes the rule and is eligible, or NONE."""
    while True:
        index = next_candidate(vcpus, me, ask)
        if index == NONE:
            return NONE
        if passes(rule, vm, vcpus, me, index, ask) and eligible_for_directed_yield(vcpus[index]):
            return index


@jit
def one_round(rule, vm, vcpus, me, ask):
    """Round 1 under a rule, from its beginning or from where it stands; NONE once it has used up its tries."""
    if ask.attempt == 0:
        begin_round(vm, ask, 1)
    elif not round_goes_on(ask):
        return NONE
    return scan(rule, vm, vcpus, me, ask)


@jit
def legacy(vm, vcpus, me, ask):
    """Mainline 6.13 and later: one round robin pass over ready vCPUs, rule (d) and eligibility, three tries."""
    return one_round(RULE_LEGACY, vm, vcpus, me, ask)


@jit
def legacy_i_bug(vm, vcpus, me, ask):
    """Linux 6.13 to 6.18.0: as legacy, but success stores the loop offset in last_boosted_vcpu instead of the index
    (fixed by commit 32bd348be3fa)."""
    index = legacy(vm, vcpus, me, ask)
    ask.mark = ask.cursor - 1
    return index


@jit
def strict(vm, vcpus, me, ask):
    """Round 1 of the series alone, as v3 patch 9 behaves: it never retries."""
    return one_round(RULE_STRICT, vm, vcpus, me, ask)


@jit
def relaxed(vm, vcpus, me, ask):
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
def relaxed_only(vm, vcpus, me, ask):
    """The relaxed round alone, as an ablation: any preempted vCPU, three tries."""
    return one_round(RULE_RELAXED, vm, vcpus, me, ask)
