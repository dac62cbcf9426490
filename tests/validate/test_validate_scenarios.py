"""The scenarios of the checks are what their closed forms assume, and each check can fail."""

from dataclasses import replace

import pytest

from kvmgym import simulate
from kvmgym.measure.stats import Interval
from kvmgym.params import Ple
from kvmgym.policies import POLICIES as ALL_POLICIES
from kvmgym.scenarios import SCENARIOS
from kvmgym.validate import conservation, controls, formulas, queueing, spinning, stalls
from kvmgym.validate.lab import MS, US, Lab, S
from kvmgym.validate.rows import ratio


@pytest.mark.parametrize("spin_us", spinning.SPINS_US)
def test_a_spin_is_as_long_as_it_says(spin_us):
    result = simulate(spinning.one_spin(spin_us * US, 1638, 1000, 2), "legacy", warmup_ns=0, duration_ns=5 * MS)
    assert (result.locks[0].contended, result.locks[0].wait_sum_ns) == (1, spin_us * US)
    assert result.vms[0].yields_attempted == 0


def test_exits_depend_on_window_growth_and_cost():
    def exits(**changes):
        arguments = {"spin_ns": 500 * US, "window_ns": 1638, "exit_ns": 1000, "grow": 1, **changes}
        return simulate(spinning.one_spin(**arguments), "none", warmup_ns=0, duration_ns=MS).vms[0].ple_exits

    assert exits() == 189
    assert exits(window_ns=3276) == formulas.ple_exits(500 * US, 3276, 1000, 1) == 117
    assert exits(exit_ns=3000) == formulas.ple_exits(500 * US, 1638, 3000, 1) == 108
    assert exits(grow=3) == formulas.ple_exits(500 * US, 1638, 1000, 3) == 5


@pytest.mark.parametrize("vms", stalls.VMS)
def test_targets_take_turns_of_exactly_a_slice(vms):
    result = simulate(
        stalls.lonely_sender(vms), "none", seed=3, warmup_ns=2000 * MS, duration_ns=12 * stalls.SLICE_NS * 10
    )
    for pcpu in result.pcpus[1:]:
        assert pcpu.switches == 120
    for vcpu in result.vms[0].vcpus[1:]:
        assert vcpu.run_ns == 120 * stalls.SLICE_NS // vms
    assert result.vms[0].vcpus[0].run_ns == result.duration_ns


@pytest.mark.parametrize("shared", [False, True])
def test_lock_holders_contend_only_for_a_shared_lock(shared):
    result = simulate(stalls.lock_holders(2, shared), "none", warmup_ns=0, duration_ns=S)
    assert len(result.locks) == (2 if shared else 32)
    assert (sum(lock.contended for lock in result.locks) > 0) is shared
    used = sum(vm.total("run_ns") for vm in result.vms)
    assert result.vms[0].lock_acquires * 2 * (stalls.HOLD_NS + stalls.THINK_NS) == pytest.approx(used, rel=0.1)


def test_a_host_that_leaves_vcpus_waiting_is_found_by_the_queue_check():
    think = formulas.think_for(4, 32, 0.8)
    closed = formulas.finite_source(4, 32, think)
    fair = queueing.cpu_queue(4, 32, think)
    lazy = replace(fair, host=replace(fair.host, balance=False))
    found = []
    for scenario in (fair, lazy):
        waits = Lab().worlds(scenario, "none", queueing._waits, worlds=8, duration_ns=400 * MS, warmup_ns=50 * MS)
        found.append(ratio([(w[1], w[2]) for w in waits], queueing.SERVICE_NS))
    assert found[0].holds(closed.wait)
    assert found[1].low > 1.05 * closed.wait


def test_pause_loop_exits_are_found_by_the_lock_check():
    _, response = formulas.repairman(16, 20, 1.0)
    plain = queueing.lock_queue(16, 20, "fifo")
    exiting = replace(plain, host=replace(plain.host, ple=Ple(window_ns=300, grow=1), costs=type(plain.host.costs)()))
    found = []
    for scenario in (plain, exiting):
        held = Lab().worlds(scenario, "none", queueing._held, worlds=8, duration_ns=10 * MS, warmup_ns=MS)
        found.append(ratio([(spent, count) for count, spent, _ in held], US))
    assert found[0].holds(response)
    assert not found[1].holds(response)


def test_residues_see_a_single_nanosecond():
    result = simulate(conservation.everything(), "relaxed", duration_ns=5 * MS, warmup_ns=MS)
    clean = conservation.Residues.of(result)
    assert (clean.vcpu_ns, clean.pcpu_ns, clean.lock_ns, clean.queue_ns) == (0, 0, 0, 0)
    vm = result.vms[0]
    late = replace(vm.vcpus[0], ready_ns=vm.vcpus[0].ready_ns + 1)
    wrong = conservation.Residues.of(
        replace(
            result,
            vms=(replace(vm, vcpus=(late, *vm.vcpus[1:])), *result.vms[1:]),
            pcpus=(replace(result.pcpus[0], idle_ns=result.pcpus[0].idle_ns - 1), *result.pcpus[1:]),
            locks=(replace(result.locks[0], wait_sum_ns=result.locks[0].wait_sum_ns + 1), *result.locks[1:]),
        )
    )
    assert (wrong.vcpu_ns, wrong.pcpu_ns, wrong.lock_ns, wrong.queue_ns) == (1, 1, 1, 1)


def test_controls_ask_policies_where_they_say_that_vcpus_spin():
    asked = {
        name: simulate(scenario, "legacy", duration_ns=20 * MS, warmup_ns=0).decisions
        for name, scenario in controls.controls()
    }
    assert asked["k=1, pinned"] > 100
    assert asked["a pCPU for each vCPU"] > 100
    assert asked["compute only, 3 VMs"] == 0


def test_contenders_yield_under_every_policy_of_the_kernel():
    assert {"2011", "legacy", "strict", "sched-v2", "series-v2", "series-v3"} <= set(controls.KERNEL_POLICIES)
    assert not {"none", "random", "clairvoyant", "least-lag"} & set(controls.KERNEL_POLICIES)
    for policy in controls.KERNEL_POLICIES:
        result = simulate(controls.contenders(2, 4), policy, duration_ns=100 * MS, warmup_ns=0)
        assert sum(vm.yields_ok + vm.relaxed_ok for vm in result.vms) > 100


def test_the_row_of_a_control_is_that_of_the_worst_policy():
    calm, wild, lopsided = Interval(0.004, 0.0005, 8), Interval(0.001, 0.006, 8), Interval(-0.0049, 0.0, 8)
    assert controls.farthest("a", {"calm": calm, "lopsided": lopsided}).passed
    row = controls.farthest("a", {"calm": calm, "wild": wild, "lopsided": lopsided})
    assert "(wild)" in row.quantity and "3 policies" in row.quantity
    assert not row.passed and row.measured == 0.001


def test_an_unfair_policy_is_a_misfit_only_with_a_cause_and_while_it_is_unfair():
    assert controls.fair_share("p", 4, 0.252, "").passed
    assert controls.fair_share("p", 4, 0.253, "").failed
    assert controls.fair_share("p", 4, 0.118, "why").verdict == "misfit"
    assert controls.fair_share("p", 4, 0.252, "why").verdict == "misfit"  # within 1 %, but not by much
    row = controls.fair_share("p", 4, 0.251, "why")
    assert row.failed and "no longer a misfit" in row.rule
    assert all(policy in controls.KERNEL_POLICIES and vms in (2, 3, 4) for policy, vms in controls.MISFITS)


def test_conservation_meets_every_policy_and_scenario_and_every_mechanism():
    full, quick = conservation.pairs(quick=False), conservation.pairs(quick=True)
    assert {scenario.name for scenario, _ in full} == {s.name for s in SCENARIOS} | {"everything", "switches"}
    assert {scenario.host.pcpus for scenario, _ in quick if scenario in SCENARIOS} <= {1, 2, 3, 4}
    for host in conservation.hosts():
        assert {policy.name for scenario, policy in quick if scenario == host} == {p.name for p in ALL_POLICIES}


def test_switches_are_at_work_in_the_scenario_of_switches():
    scenario = conservation.switches(start="random")
    names = ("polls", "polls_ok", "named_ok", "flags_left", "guest_switches")
    seen = conservation.happened(simulate(scenario, "legacy", duration_ns=50 * MS, warmup_ns=0))
    assert all(seen[name] > 0 for name in names), seen
    other = conservation.happened(simulate(conservation.everything(), "legacy", duration_ns=20 * MS, warmup_ns=0))
    assert not any(other[name] for name in ("polls", "flags_left", "guest_switches"))
