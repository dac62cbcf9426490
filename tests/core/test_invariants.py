"""Every invariant at every event of random scenarios, and conservation laws of results."""

from dataclasses import replace

import numpy as np
import pytest
from digests import booted
from examples import EXAMPLES, MS, US
from hypothesis import given
from strategies import many, policies, policies_without_deboost, scenarios, seeds

from kvmgym.core import engine, layout
from kvmgym.core.check import world
from kvmgym.core.check.violations import describe
from kvmgym.core.layout import YES
from kvmgym.core.memory import view
from kvmgym.measure.simulate import simulate_batch
from kvmgym.params import (
    Compute,
    Dist,
    HaltPoll,
    Host,
    Kick,
    Lock,
    LockSpec,
    Ops,
    Ple,
    Role,
    Scenario,
    Unlock,
    Vm,
    Workload,
)
from kvmgym.policies import BY_NAME, as_policy
from kvmgym.world.deadlock import explain_deadlock


def run_checked(blueprint, row, policy, until_ns):
    """Run to `until_ns` with all invariants checked after every event."""
    with np.errstate(over="ignore"):
        chosen = as_policy(policy).engine_function
        status, violation = world.advance_checked_row(row, blueprint.static, until_ns, chosen)
    found = view(row, blueprint.static)
    assert violation == 0, f"{describe(int(violation))} at {found.host[0].now_ns} ns"
    assert status != layout.AT_DEADLOCK, explain_deadlock(blueprint, found)
    assert found.host[0].now_ns == until_ns


@many(150)
@given(scenarios(), policies, seeds)
def test_invariants_hold_at_every_event_and_nothing_deadlocks(scenario, policy, seed):
    blueprint, (row,) = booted(scenario, policy, seed)
    run_checked(blueprint, row, policy, MS)
    engine.settle_row(row, blueprint.static, YES)
    run_checked(blueprint, row, policy, 3 * MS)
    if any(vm.has_run_queues for vm in scenario.vms):  # a guest's slice is 3 ms
        run_checked(blueprint, row, policy, 8 * MS)


def wild(vm, vcpus, me, ask):
    """Any answer: itself, a vCPU that runs, one that failed before, none, one that there is not."""
    return (ask.serial * 7 + ask.attempt * 3) % (vcpus.size + 4) - 2


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("policy", [*BY_NAME, wild])
def test_invariants_hold_in_the_examples(name, policy):
    blueprint, (row,) = booted(EXAMPLES[name], policy, 1)
    run_checked(blueprint, row, policy, 10 * MS)


@many(150)
@given(scenarios(scheduler="cfs"), policies_without_deboost, seeds)
def test_invariants_hold_at_every_event_on_cfs(scenario, policy, seed):
    blueprint, (row,) = booted(scenario, policy, seed)
    run_checked(blueprint, row, policy, 3 * MS)


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("policy", ["legacy", "2012", "relaxed", "random", "clairvoyant", wild])
@pytest.mark.parametrize("short", [{}, {"latency_ns": 400 * US, "min_granularity_ns": 50 * US, "alt_period": False,
                                        "wakeup_granularity_ns": 70 * US}], ids=["default", "short"])  # fmt: skip
def test_invariants_hold_in_the_examples_on_cfs(name, policy, short):
    host = replace(EXAMPLES[name].host, scheduler="cfs", yield_deboost="none", **short)
    blueprint, (row,) = booted(replace(EXAMPLES[name], host=host), policy, 1)
    run_checked(blueprint, row, policy, 10 * MS)


def test_an_interrupt_that_cannot_be_taken_ends_no_halt_poll():
    """Once broken: a pvq waiter that polls with interrupts off was left without an event by a kick."""
    held = (Lock("l", irq_off=True), Kick(), Compute(Dist.constant(1)), Unlock("l"))
    program = (*held, Compute(Dist.constant(3 * US)), Ops())
    workload = Workload("held", "", (Role("all", program),), (LockSpec("l", kind="pvq"),), working_set_kib=0)
    host = Host(2, hz=100, ple=Ple(window_ns=300, grow=0), halt_poll=HaltPoll(200 * US), group_scheduling=False)
    guest = Vm("a", 2, workload, pv_spin_ns=0, pv_kick_yields=False)
    blueprint, (row,) = booted(Scenario("held", host, (guest,)), "2011", 0)
    run_checked(blueprint, row, "2011", MS)
    assert view(row, blueprint.static).vm[0]["polls"] > 10


# --- conservation laws ------------------------------------------------------------------------------------------------


def assert_conserved(result):
    """What must add up in a Result, exactly and in whole ns."""
    every = [*result.vms, *result.tasks]
    for vm in every:
        for vcpu in vm.vcpus:
            assert vcpu.run_ns + vcpu.ready_ns + vcpu.blocked_ns == result.duration_ns
            assert 0 <= vcpu.spin_ns + vcpu.overhead_ns <= vcpu.run_ns
        assert vm.total("ple_exits") == vm.ple_exits
        assert 0 <= vm.yields_ok + vm.yields_esrch <= vm.yields_attempted
        assert 0 <= vm.relaxed_ok + vm.relaxed_esrch <= vm.relaxed_attempted
        assert vm.shootdown_latency.count == vm.shootdowns
        assert vm.shootdowns <= vm.shootdowns_sent + len(vm.vcpus)  # one a vCPU may have been sent before the window
        assert vm.wakeups_queued <= vm.wakeups
        assert 0 <= vm.named_ok <= vm.named_attempted
        assert 0 <= vm.polls_ok <= vm.polls + len(vm.vcpus)  # one a vCPU may have begun before the window
    for pcpu in result.pcpus:
        assert pcpu.busy_ns + pcpu.idle_ns + pcpu.overhead_ns == result.duration_ns
        assert min(pcpu.busy_ns, pcpu.idle_ns, pcpu.overhead_ns) >= 0
    for name, total in (
        ("run_ns", sum(pcpu.busy_ns + pcpu.overhead_ns for pcpu in result.pcpus)),
        ("ready_ns", sum(pcpu.ready_integral_ns for pcpu in result.pcpus)),
        ("overhead_ns", sum(pcpu.overhead_ns for pcpu in result.pcpus)),
    ):
        assert sum(vm.total(name) for vm in every) == total, name
    for place, vm in enumerate(every):
        locks = [lock for lock in result.locks if lock.vm == place]
        assert vm.lock_wait.count == sum(lock.contended for lock in locks)
        assert vm.lock_acquires + vm.mutex_acquires == sum(lock.acquires for lock in locks)
    for lock in result.locks:
        assert lock.wait_integral_ns == lock.wait_sum_ns  # Little's law
        assert lock.contended <= lock.acquires
    assert 0 <= result.wasted_share <= 1 and 0 < result.fairness <= 1 + 1e-12


@many(60)
@given(scenarios(), policies, seeds)
def test_times_and_counts_are_conserved(scenario, policy, seed):
    for result in simulate_batch(scenario, policy, seeds=[seed, seed + 1], duration_ns=2 * MS, warmup_ns=500 * US):
        assert_conserved(result)
