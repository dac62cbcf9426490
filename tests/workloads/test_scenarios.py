"""kvmgym.scenarios: the named table, the series, and that each scenario runs."""

import re
import runpy
import time

import pytest

from kvmgym import Scenario, scenarios, simulate
from kvmgym.core.memory import view
from kvmgym.params import HaltPoll
from kvmgym.scenarios import BY_NAME, SCENARIOS, SERIES_WORKLOADS, equal_vms, guest, host, series
from kvmgym.workloads import BY_NAME as WORKLOADS
from kvmgym.world.blueprint import Blueprint

MS = 10**6
HOG_COMPANY = ("dbench", "dedup", "vips", "kernbench", "ebizzy", "pbzip2", "exim", "memclone", "psearchy",
               "streamcluster", "hackbench")  # fmt: skip
MICRO = ("hotlock", "shootdowns", "pingpong")


def vms_of(scenario):
    """(workload, vCPUs) of each VM."""
    return [(vm.workload.name, vm.vcpus) for vm in scenario.vms]


def test_names_are_unique_and_by_name_is_complete():
    assert list(BY_NAME) == [scenario.name for scenario in SCENARIOS]
    assert len(BY_NAME) == len(SCENARIOS)
    for scenario in SCENARIOS:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", scenario.name)
        assert scenario.description and "\n" not in scenario.description and len(scenario.description) < 120
    assert len({scenario.description for scenario in SCENARIOS}) >= len(SCENARIOS) - 3  # ebizzy-80p: 1, 2, 3 VMs


def test_tags_keep_other_hosts_and_workloads_unseen():
    """Train and choose on the series' workloads and the small ones only; nothing is tagged otherwise."""
    tagged = {tag: [s for s in SCENARIOS if s.tag == tag] for tag in ("train", "validation", "test")}
    assert sum(map(len, tagged.values())) == len(SCENARIOS)
    for scenario in (*tagged["train"], *tagged["validation"]):
        known = {*SERIES_WORKLOADS, "dedup-small", *MICRO}
        assert {vm.workload.name for vm in scenario.vms} <= known
        assert scenario.host == host(scenario.host.pcpus) and scenario.host.pcpus in (2, 4, 16)
    assert {len(s.vms) for s in tagged["train"]} == {2}
    assert [s.name for s in tagged["validation"]] == ["dbench-3vm", "dedup-3vm", "vips-3vm"]


def test_every_host_polls_and_starts_as_kvm_does():
    for scenario in SCENARIOS:
        assert scenario.host.halt_poll == HaltPoll(max_ns=200_000) and scenario.host.start == "random"


def test_the_table_is_built_fast():
    taken = []
    for _ in range(3):
        begin = time.process_time()
        assert len(runpy.run_path(scenarios.__file__)["SCENARIOS"]) == len(SCENARIOS)
        taken.append(time.process_time() - begin)
    assert min(taken) < 0.05


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
    with pytest.raises(ValueError, match=r"^vms = 0: must be 1 to 64"):
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


@pytest.mark.parametrize("vms", [1, 2, 3])
def test_ebizzy_on_80_pcpus(vms):
    scenario = BY_NAME[f"ebizzy-80p-{vms}vm"]
    assert (scenario.host.pcpus, vms_of(scenario)) == (80, [("ebizzy", 80)] * vms)


def test_four_different_vms_on_8_pcpus():
    scenario = BY_NAME["mixed-8p-4vm"]
    assert scenario.host.pcpus == 8 and [vcpus for _, vcpus in vms_of(scenario)] == [8] * 4
    assert len(scenario.workloads) == 4


@pytest.mark.parametrize("workload", HOG_COMPANY)
@pytest.mark.parametrize("slice_ms", [3, 30])
def test_every_parallel_workload_beside_a_hog(workload, slice_ms):
    scenario = BY_NAME[f"{workload}-12p-hog-{slice_ms}ms"]
    assert (scenario.host.pcpus, scenario.host.base_slice_ns) == (12, slice_ms * MS)
    assert vms_of(scenario) == [(workload, 12), ("swaptions", 12)]
    assert [vm.tasks for vm in scenario.vms] == [40 if workload == "hackbench" else None, None]


@pytest.mark.parametrize("kind", ["fifo", "pvq"])
@pytest.mark.parametrize("vms", [1, 2])
def test_kernel_build_on_32_pcpus(kind, vms):
    scenario = BY_NAME[f"kernbench-32p-{kind}-{vms}vm"]
    assert (scenario.host.pcpus, vms_of(scenario)) == (32, [("kernbench", 32)] * vms)
    assert {vm.lock_kind for vm in scenario.vms} == {kind}


def test_a_pooled_vm_and_its_controls():
    pooled, same_host, same_guest = (
        BY_NAME[name] for name in ("dedup-8p-pooled-1vm", "dedup-8p-pinned-1vm", "dedup-16p-pinned-1vm")
    )
    assert (pooled.host.pcpus, vms_of(pooled), pooled.vms[0].pin) == (8, [("dedup", 16)], None)
    assert same_host.host == pooled.host and same_guest.vms[0].vcpus == pooled.vms[0].vcpus
    for control in (same_host, same_guest):
        assert control.vms[0].pin == tuple(range(control.host.pcpus))


def test_noisy_neighbours():
    scenario = BY_NAME["dedup-noisy-7vm"]
    assert scenario.host.pcpus == 16
    assert vms_of(scenario) == [("dedup", 16), *[("swaptions", 4)] * 4, *[("server", 8)] * 2]


def test_a_vm_of_96_with_hogs():
    scenario = BY_NAME["dedup-96p-hogs-7vm"]
    assert (scenario.host.pcpus, vms_of(scenario)) == (96, [("dedup", 96), *[("swaptions", 8)] * 6])


def test_guest_takes_fields_of_vm():
    assert guest("a", "hackbench", 4, tasks=None, weight=5).tasks is None
    with pytest.raises(ValueError, match='unknown workload "hackbenhc": did you mean "hackbench"'):
        guest("a", "hackbenhc", 4)


def test_a_world_of_16_pcpus_and_64_vcpus_takes_64_kib():
    assert Blueprint(BY_NAME["dedup-4vm"]).state.nbytes <= 64 * 1024


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_scenario_survives_toml(scenario):
    assert Scenario.from_toml_text(scenario.to_toml(WORKLOADS.values()), WORKLOADS) == scenario
    assert Scenario.from_toml_text(scenario.to_toml()) == scenario


def long_enough_ns(scenario):
    """For an operation of each VM: a block of pbzip2 takes 50 ms, a slice may be 30 ms."""
    if "pbzip2" in scenario.workloads:
        return 400 * MS
    if scenario.host.base_slice_ns > 10 * MS:
        return 150 * MS
    return 50 * MS if scenario.host.pcpus <= 32 else 20 * MS


@pytest.mark.parametrize("policy", ["legacy", "relaxed"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_vm_of_a_scenario_gets_on(scenario, policy):
    result = simulate(scenario, policy, seed=1, duration_ns=long_enough_ns(scenario), warmup_ns=10 * MS)
    assert all(vm.ops > 0 for vm in result.vms)


FULL = [s for s in SCENARIOS if s.host.pcpus <= 32 and len(s.vms) > 1 and len(s.workloads) == 1]


@pytest.mark.parametrize("scenario", FULL, ids=lambda scenario: scenario.name)
def test_equal_vms_get_equal_shares_of_a_busy_host(scenario):
    result = simulate(scenario, "legacy", seed=1, duration_ns=200 * MS, warmup_ns=50 * MS)
    assert result.fairness > 0.99
    idle = sum(pcpu.idle_ns for pcpu in result.pcpus) / (200 * MS * scenario.host.pcpus)
    assert idle < 0.02 or scenario.name == "pingpong-small"  # one vCPU of a pair sleeps


@pytest.mark.parametrize("vm", ["hog", "vm"])
def test_a_hog_takes_half_of_the_host_and_not_more(vm):
    """Beside a workload that always wants to run as well."""
    result = simulate(BY_NAME["dbench-12p-hog-3ms"], "legacy", seed=1, duration_ns=400 * MS)
    (found,) = [each for each in result.vms if each.name == vm]
    assert found.total("run_ns") == pytest.approx(12 * 400 * MS / 2, rel=0.05)


@pytest.mark.parametrize("policy", ["legacy", "strict", "relaxed"])
def test_a_pinned_control_leaves_a_policy_nothing_to_do(policy):
    none = simulate(BY_NAME["dedup-16p-pinned-1vm"], "none", seed=1, duration_ns=100 * MS)
    other = simulate(BY_NAME["dedup-16p-pinned-1vm"], policy, seed=1, duration_ns=100 * MS)
    assert sum(vm.yields_ok + vm.relaxed_ok for vm in other.vms) == 0
    assert other.ops_per_s == pytest.approx(none.ops_per_s, rel=0.005)


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
