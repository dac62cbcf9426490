"""kvmgym.scenarios: the named table, the series, and that each scenario runs."""

import pytest

from kvmgym import Scenario, simulate
from kvmgym.core.memory import view
from kvmgym.scenarios import BY_NAME, SCENARIOS, SERIES_WORKLOADS, equal_vms, series
from kvmgym.workloads import BY_NAME as WORKLOADS
from kvmgym.world import Blueprint

MS = 10**6


def test_names_are_unique_and_by_name_is_complete():
    assert list(BY_NAME) == [scenario.name for scenario in SCENARIOS]
    assert len(BY_NAME) == len(SCENARIOS)
    for scenario in SCENARIOS:
        assert scenario.description and scenario.tag in ("train", "validation", "test")


@pytest.mark.parametrize("workload", ["dbench", "dedup", "vips"])
@pytest.mark.parametrize("vms, tag", [(2, "train"), (3, "validation"), (4, "test")])
def test_the_series_has_the_published_hosts(workload, vms, tag):
    scenario = BY_NAME[f"{workload}-{vms}vm"]
    assert scenario == series(workload, vms)
    assert (scenario.host.pcpus, [vm.vcpus for vm in scenario.vms], scenario.tag) == (16, [16] * vms, tag)
    assert {vm.workload.name for vm in scenario.vms} == {workload}
    assert all(vm.weight == 1024 and vm.pin is None and vm.ipi_mode == "x2apic_physical" for vm in scenario.vms)


def test_series_of_other_workloads_and_sizes():
    assert SERIES_WORKLOADS == ("dbench", "dedup", "vips")
    assert series("ebizzy", 5).name == "ebizzy-5vm" and series("ebizzy", 5).vcpus == 80
    with pytest.raises(ValueError, match='unknown workload "dedub": did you mean "dedup"'):
        series("dedub", 2)
    with pytest.raises(ValueError, match=r"Scenario.vms = \(\): must be at least one Vm"):
        series("dedup", 0)


@pytest.mark.parametrize(
    "name, pcpus, vcpus",
    [
        ("dedup-4vm", 16, 64),
        ("dedup-small", 4, 8),
        ("ebizzy-2vm", 16, 32),
        ("kernbench-2vm", 16, 32),
        ("compute-2vm", 16, 32),
        ("hotlock-small", 4, 8),
        ("shootdowns-small", 4, 8),
        ("pingpong-small", 2, 4),
    ],
)
def test_sizes_of_the_others(name, pcpus, vcpus):
    assert (BY_NAME[name].host.pcpus, BY_NAME[name].vcpus) == (pcpus, vcpus)


def test_a_world_of_16_pcpus_and_64_vcpus_takes_64_kib():
    assert Blueprint(BY_NAME["dedup-4vm"]).state.nbytes <= 64 * 1024


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_scenario_survives_toml(scenario):
    assert Scenario.from_toml_text(scenario.to_toml(WORKLOADS.values()), WORKLOADS) == scenario
    assert Scenario.from_toml_text(scenario.to_toml()) == scenario


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_vm_of_a_scenario_gets_its_share_and_gets_on(scenario):
    result = simulate(scenario, "legacy", seed=1, duration_ns=200 * MS, warmup_ns=50 * MS)
    assert all(vm.ops > 0 for vm in result.vms)
    assert result.fairness > 0.99
    idle = sum(pcpu.idle_ns for pcpu in result.pcpus) / (200 * MS * scenario.host.pcpus)
    assert idle < 0.02 or scenario.name == "pingpong-small"  # one vCPU of a pair sleeps


def test_pcpus_do_not_switch_in_step():
    """Ticks begin at random points: begun together, all vCPUs of a VM would run at once, or none."""
    scenario = BY_NAME["compute-2vm"]
    blueprint = Blueprint(scenario)
    (row,) = blueprint.worlds([1])
    offsets = set(view(row, blueprint.static).pcpu["tick_offset_ns"].tolist())
    assert len(offsets) == 16 and max(offsets) < scenario.host.tick_ns


@pytest.mark.parametrize("policy", ["none", "random", "strict", "relaxed"])
def test_the_control_is_the_same_under_every_policy(policy):
    legacy = simulate(BY_NAME["compute-2vm"], "legacy", seed=1, duration_ns=100 * MS)
    other = simulate(BY_NAME["compute-2vm"], policy, seed=1, duration_ns=100 * MS)
    assert other.vms == legacy.vms and other.decisions == 0


def test_equal_vms_describes_itself():
    scenario = equal_vms("mine", "hotlock", pcpus=2, vms=3, vcpus=2)
    assert scenario.description == "3 VMs of 2 vCPUs on 2 pCPUs: one hot lock: 4 µs outside it, 1 µs inside"
    assert equal_vms("mine", "hotlock", 2, 3, 2, description="x").description == "x"
