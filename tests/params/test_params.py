"""kvmgym.params: values, derived values of hosts, and every message."""

import dataclasses
import math

import numpy as np
import pytest
from paramdata import BARRIERS, QUEUES, WORK, message, scenario, workload

from kvmgym.params import (
    PLE_PRESETS,
    Barrier,
    BarrierSpec,
    Block,
    Branch,
    Burst,
    Choose,
    Compute,
    Costs,
    Dist,
    Get,
    HaltPoll,
    Host,
    HostTask,
    Kick,
    Lock,
    LockSpec,
    Ops,
    Ple,
    Put,
    QueueSpec,
    Rates,
    Repeat,
    Role,
    Scenario,
    Shootdown,
    Unlock,
    Vm,
    Workload,
    check,
    nearest,
)

# --- errors ---------------------------------------------------------------------------------------------------------


def test_nearest_suggests_the_closest_name_and_lists_all():
    assert nearest("dedupp", ("dedup", "vips")) == 'did you mean "dedup"? allowed: dedup, vips'
    assert nearest("zzz", ("dedup", "vips")) == "allowed: dedup, vips"
    assert nearest("zzz", ()) == "there are none"


def test_check_names_path_value_and_allowed():
    check(True, "Host.pcpus", 0, "1 to 512")
    assert message(lambda: check(False, "Host.pcpus", 0, "1 to 512")) == "Host.pcpus = 0: must be 1 to 512"


VM = {"name": "a", "vcpus": 2, "workload": workload()}
VM_FLAGS = ("pv_kick_yields", "pv_tlb_flush", "pv_sched_yield", "apicv", "sev_es")
SPINNING = Workload("spinning", "", (Role("all", (WORK, Barrier("step"))),), barriers=BARRIERS)
LOW, HIGH = "0 to 1000000000000000", "1 to 1000000000000000"
SHOWN_WORK = "Compute(dist=Dist.constant(ns...nel_share=0.0, bursty=False)"
FIELD_ERRORS = [
    (lambda: Host(pcpus=0), "Host.pcpus = 0: must be 1 to 512"),
    (lambda: Host(pcpus=513), "Host.pcpus = 513: must be 1 to 512"),
    (lambda: Host(pcpus=2.0), "Host.pcpus = 2.0: must be a whole number from 1 to 512"),
    (lambda: Host(pcpus=True), "Host.pcpus = True: must be a whole number from 1 to 512"),
    (lambda: Host(hz=0), "Host.hz = 0: must be one of 100, 250, 300, 1000"),
    (lambda: Host(hz="x"), "Host.hz = 'x': must be one of 100, 250, 300, 1000"),
    (lambda: Host(slice_ns=0), f"Host.slice_ns = 0: must be {HIGH}"),
    (lambda: Host(costs=3), "Host.costs = 3: must be Costs"),
    (lambda: Host(ple=None), "Host.ple = None: must be a Ple"),
    (lambda: Host(pick_buddy=1), "Host.pick_buddy = 1: must be true or false"),
    (lambda: Host(forfeit="6.18"), "Host.forfeit = '6.18': must be one of 6.19, pre-6.19, none"),
    (lambda: Host(start="late"), "Host.start = 'late': must be one of aligned, random"),
    (lambda: Host(balance_interval_ns=0), f"Host.balance_interval_ns = 0: must be {HIGH}"),
    (lambda: Host(migration_cost_ns=-1), f"Host.migration_cost_ns = -1: must be {LOW}"),
    (lambda: Host(llc_pcpus=0), "Host.llc_pcpus = 0: must be 1 to 512"),
    (lambda: Host(tick_scale=0), "Host.tick_scale = 0: must be 1 to 1000000"),
    (lambda: Costs(exit_ns=-1), f"Costs.exit_ns = -1: must be {LOW}"),
    (lambda: Costs(exit_ns=0.5), f"Costs.exit_ns = 0.5: must be a whole number from {LOW}"),
    (lambda: Costs(rewarm_share=1.5), "Costs.rewarm_share = 1.5: must be 0 to 1"),
    (lambda: Ple(window_ns=0), f"Ple.window_ns = 0: must be {HIGH}"),
    (lambda: Ple(max_ns=5), "Ple.max_ns = 5: must be window_ns (1638) or more"),
    (lambda: Ple(grow=-1), "Ple.grow = -1: must be 0 to 2147483647"),
    (lambda: Ple(enabled="yes"), "Ple.enabled = 'yes': must be true or false"),
    (lambda: Ple(user_exits=1), "Ple.user_exits = 1: must be true or false"),
    (lambda: Ple(names_holder=None), "Ple.names_holder = None: must be true or false"),
    (lambda: Ple(kernel_mode="ring3"), "Ple.kernel_mode = 'ring3': must be one of always, ring0, never"),
    (lambda: Host(halt_poll=200), "Host.halt_poll = 200: must be a HaltPoll"),
    (lambda: Host(yield_deboost="v4"), "Host.yield_deboost = 'v4': must be one of none, v1, v2, v3"),
    (lambda: Host(lag_credit_scale=-0.1), "Host.lag_credit_scale = -0.1: must be 0 to 4"),
    (lambda: Host(lag_credit_across=1), "Host.lag_credit_across = 1: must be true or false"),
    (lambda: HaltPoll(-1), f"HaltPoll.max_ns = -1: must be {LOW}"),
    (lambda: HaltPoll(grow_start_ns=0), f"HaltPoll.grow_start_ns = 0: must be {HIGH}"),
    (lambda: HaltPoll(shrink=-1), "HaltPoll.shrink = -1: must be 0 to 2147483647"),
    (lambda: Costs(guest_switch_ns=-1), f"Costs.guest_switch_ns = -1: must be {LOW}"),
    (lambda: Dist("gamma", (1,)), "Dist.kind = 'gamma': must be one of constant, exponential, uniform, lognormal"),
    (lambda: Dist("uniform", (1,)), "Dist.numbers = (1,): must be low_ns, high_ns for a uniform distribution"),
    (lambda: Dist("constant", 1), "Dist.numbers = 1: must be ns for a constant distribution"),
    (lambda: Dist.constant(-1), "Dist.ns = -1: must be 0 to 1e+15"),
    (lambda: Dist.constant(math.nan), "Dist.ns = nan: must be 0 to 1e+15"),
    (lambda: Dist.exponential(math.inf), "Dist.mean_ns = inf: must be 0 to 1e+15"),
    (lambda: Dist.uniform(5, 3), "Dist.high_ns = 3.0: must be low_ns (5) or more"),
    (lambda: Dist.lognormal(0, 1), "Dist.median_ns = 0: must be above 0 and at most 1e+15"),
    (lambda: Dist.lognormal(1, 6), "Dist.sigma = 6: must be 0 to 5"),
    (lambda: Dist.lognormal(1, 1, 1.5), "Dist.tail_share = 1.5: must be 0 to 1"),
    (lambda: Dist.lognormal(1, 1, 0.1, 9, 8), "Dist.tail_high_ns = 8.0: must be tail_low_ns (9) or more"),
    (lambda: Dist.constant(1).scaled(0), f"scaled factor = 0: must be {HIGH}"),
    (lambda: Dist("constant", (1,), 0), f"Dist.unit_ns = 0: must be {HIGH}"),
    (lambda: Dist.constant(2).quantiles(np.array([0.5, 1.5])), "Dist.quantiles u = 1.5: must be 0 to 1"),
    (lambda: Compute(5), "Compute.dist = 5: must be a Dist"),
    (lambda: Compute(Dist.constant(1), "x"), "Compute.kernel_share = 'x': must be 0 to 1"),
    (lambda: Compute(Dist.constant(1), 2), "Compute.kernel_share = 2: must be 0 to 1"),
    (lambda: Compute(Dist.constant(1), bursty=2), "Compute.bursty = 2: must be true or false"),
    (lambda: Block(None), "Block.dist = None: must be a Dist"),
    (lambda: Lock(""), "Lock.lock = '': must be a name of 1 to 64 printable characters"),
    (lambda: Lock("mm", irq_off="no"), "Lock.irq_off = 'no': must be true or false"),
    (lambda: Unlock(" mm"), "Unlock.lock = ' mm': must be a name of 1 to 64 printable characters"),
    (lambda: Barrier(3), "Barrier.barrier = 3: must be a name of 1 to 64 printable characters"),
    (lambda: Put("a\nb"), "Put.queue = 'a\\nb': must be a name of 1 to 64 printable characters"),
    (lambda: Get("x" * 65), f"Get.queue = '{'x' * 28}...{'x' * 27}': must be a name of 1 to 64 printable characters"),
    (lambda: Shootdown("all"), "Shootdown.targets = 'all': must be one of others, busy, one"),
    (lambda: Kick("self"), "Kick.target = 'self': must be one of random, next, prev"),
    (lambda: Ops(-1), "Ops.count = -1: must be 0 to 1000000000"),
    (lambda: Branch(-1), "Branch.weight = -1: must be 0 to 1e+12"),
    (lambda: Branch(1, (WORK, 7)), "Branch.phases[1] = 7: must be a phase"),
    (lambda: Branch(1, WORK), f"Branch.phases = {SHOWN_WORK}: must be a sequence, each item a phase"),
    (lambda: Choose((WORK,)), f"Choose.branches[0] = {SHOWN_WORK}: must be a Branch"),
    (
        lambda: Choose((Branch(0), Branch(0))),
        "Choose.branches weights = (0.0, 0.0): must be above 0 for at least one branch",
    ),
    (lambda: Choose(()), "Choose.branches weights = (): must be above 0 for at least one branch"),
    (lambda: Repeat(0, (WORK,)), "Repeat.times = 0: must be 1 to 1000000000"),
    (lambda: Repeat(2, ()), "Repeat.phases = (): must be at least one phase"),
    (lambda: LockSpec("a", 0), "LockSpec.count = 0: must be 1 to 4096"),
    (lambda: LockSpec("a", kind="ticket"), "LockSpec.kind = 'ticket': must be one of tas, fifo, pvq, mutex"),
    (lambda: LockSpec("a", zipf=-1), "LockSpec.zipf = -1: must be 0 to 10"),
    (lambda: QueueSpec("a", 0), "QueueSpec.capacity = 0: must be 1 to 1000000000"),
    (lambda: BarrierSpec("a", -1), f"BarrierSpec.spin_ns = -1: must be {LOW}"),
    (lambda: Role("a", ()), "Role.program = (): must be at least one phase"),
    (lambda: Role("a", (WORK,), 0), "Role.share = 0: must be above 0 and at most 1e+12"),
    (lambda: Burst(0.5), "Burst.factor = 0.5: must be 1 to 1e+06"),
    (lambda: Burst(mean_ns=0), f"Burst.mean_ns = 0: must be {HIGH}"),
    (lambda: Rates(1.1), "Rates.kernel_share = 1.1: must be 0 to 1"),
    (lambda: Rates(kicks=-1), "Rates.kicks = -1: must be 0 to 1e+12"),
    (lambda: Workload("a", "", ()), "Workload.roles = (): must be at least one Role"),
    (lambda: Workload("a", 3, (Role("r", (WORK,)),)), "Workload.description = 3: must be text"),
    (lambda: workload(source="\ud800"), "Workload.source = '\\ud800': must be text"),
    (lambda: workload(working_set_kib=-1), "Workload.working_set_kib = -1: must be 0 to 1073741824"),
    (lambda: workload(burst=4), "Workload.burst = 4: must be a Burst or None"),
    (lambda: workload(rates=4), "Workload.rates = 4: must be Rates or None"),
    (
        lambda: Workload("a", "", (Role("r", (WORK,)), Role("r", (WORK,)))),
        "Workload.roles = 'r': must be a role name used once",
    ),
    (
        lambda: Workload("a", "", (Role("r", (WORK,)),), (LockSpec("x"), LockSpec("x"))),
        "Workload.locks = 'x': must be a lock name used once",
    ),
    (lambda: Vm(**VM | {"vcpus": 0}), "Vm.vcpus = 0: must be 1 to 1024"),
    (lambda: Vm(**VM | {"workload": "demo"}), "Vm.workload = 'demo': must be a Workload"),
    (lambda: Vm(**VM, weight=1), "Vm.weight = 1: must be 2 to 262144"),
    (lambda: Vm(**VM, pin=(0,)), "Vm.pin = (0,): must be 2 pCPU numbers, one for each vCPU"),
    (lambda: Vm(**VM, pin=(0, 512)), "Vm.pin[1] = 512: must be 0 to 511"),
    (lambda: Vm(**VM, cpus=()), "Vm.cpus = (): must be at least one pCPU number"),
    (lambda: Vm(**VM, pin=(0, 1), cpus=(0,)), "Vm.cpus = (0,): must be None when pin is given"),
    (lambda: Vm(**VM, lock_kind="mutex"), "Vm.lock_kind = 'mutex': must be one of tas, fifo, pvq"),
    (lambda: Vm(**VM, ipi_mode="x"), "Vm.ipi_mode = 'x': must be one of x2apic_physical, x2apic_cluster, pv"),
    (lambda: Vm(**VM, ipi_tracking="v1"), "Vm.ipi_tracking = 'v1': must be one of v3, v2, off"),
    (lambda: Vm(**VM, ipi_window_ns=-1), f"Vm.ipi_window_ns = -1: must be {LOW}"),
    (lambda: Vm(**VM, pv_spin_ns=-1), f"Vm.pv_spin_ns = -1: must be {LOW}"),
    (lambda: Vm(**VM, enable_relaxed_boost=0), "Vm.enable_relaxed_boost = 0: must be true or false"),
    *((lambda name=name: Vm(**VM, **{name: 1}), f"Vm.{name} = 1: must be true or false") for name in VM_FLAGS),
    (lambda: Vm(**VM, tasks=1), "Vm.tasks = 1: must be 2 to 4096"),
    (
        lambda: Vm(**VM, tasks=3),
        "Vm.tasks = 3: must be 2 (Vm.vcpus) for workload demo, which has mutexes: heap",
    ),
    (
        lambda: Vm("a", 2, SPINNING, tasks=3),
        "Vm.tasks = 3: must be 2 (Vm.vcpus) for workload spinning, which has spinning barriers: step",
    ),
    (lambda: Vm(**VM, stream=-1), "Vm.stream = -1: must be 0 to 2147483647"),
    (lambda: HostTask("t", 5), "HostTask.run = 5: must be a Dist"),
    (
        lambda: HostTask("t", Dist.constant(0)),
        "HostTask.run = Dist.constant(ns=0): must be a distribution with a mean of 1 ns or more",
    ),
    (lambda: HostTask("t", Dist.constant(1), 5), "HostTask.sleep = 5: must be a Dist or None"),
    (lambda: HostTask("t", Dist.constant(1), pin=512), "HostTask.pin = 512: must be 0 to 511"),
    (lambda: HostTask("t", Dist.constant(1), weight=0), "HostTask.weight = 0: must be 2 to 262144"),
    (lambda: HostTask("t", Dist.constant(1), pin=1, cpus=(1,)), "HostTask.cpus = (1,): must be None when pin is given"),
    (lambda: Scenario("s", Host(), ()), "Scenario.vms = (): must be at least one Vm"),
    (lambda: Scenario("s", 1, (Vm(**VM),)), "Scenario.host = 1: must be a Host"),
    (lambda: scenario("a"), "Scenario.vms[0] = 'a': must be a Vm"),
    (
        lambda: scenario(Vm("a", 1024, workload()), Vm("b", 1, workload())),
        "Scenario.vms vcpus = 1025: must be 1 to 1024 together",
    ),
    (
        lambda: scenario(host_tasks=(HostTask("a", Dist.constant(1)),)),
        "Scenario.vms and host_tasks = 'a': must be a VM or task name used once",
    ),
    (
        lambda: scenario(Vm(**VM, pin=(0, 16))),
        "Scenario.vms[0].pin = (0, 16): must be 0 to 15 (Host.pcpus = 16)",
    ),
    (
        lambda: scenario(host_tasks=(HostTask("t", Dist.constant(1), pin=16),)),
        "Scenario.host_tasks[0].pin = 16: must be 0 to 15 (Host.pcpus = 16)",
    ),
    (
        lambda: scenario(Vm("a", 1, workload(), stream=1), Vm("b", 1, workload())),
        "Scenario.vms[1].stream = 1: must be a number that no other VM has (default: its index)",
    ),
    (
        lambda: scenario(Vm("a", 1, workload()), Vm("b", 1, workload(WORK, WORK))),
        "Scenario.vms[1].workload = 'demo': must be one workload wherever the name is used",
    ),
    (lambda: scenario(tag=""), "Scenario.tag = '': must be a name of 1 to 64 printable characters"),
    (lambda: scenario().scaled(0), "scaled factor = 0: must be 1 to 1000000"),
    (lambda: workload().deal_roles(0), "deal_roles vcpus = 0: must be 1 to 1024"),
]


@pytest.mark.parametrize("call, expected", FIELD_ERRORS, ids=[text for _, text in FIELD_ERRORS])
def test_a_bad_value_is_named_with_what_is_allowed(call, expected):
    assert message(call) == expected


def test_a_misspelt_field_is_a_type_error():
    with pytest.raises(TypeError, match="pcpu"):
        Host(pcpu=4)


def test_parameters_are_frozen_hashable_and_normalised():
    vm = Vm("a", np.int64(2), workload(), pin=[1, np.int32(0)])
    assert (vm.vcpus, vm.pin) == (2, (1, 0)) and type(vm.vcpus) is int and type(vm.pin[1]) is int
    assert Vm("a", 2, workload(), cpus=[3, 1, 3]).cpus == (1, 3)
    assert hash(scenario()) == hash(scenario())
    with pytest.raises(dataclasses.FrozenInstanceError):
        vm.vcpus = 3


# --- host -----------------------------------------------------------------------------------------------------------


def test_base_slice_follows_the_kernel_and_tick_follows_hz():
    slices = [Host(pcpus=pcpus).base_slice_ns for pcpus in (1, 2, 3, 4, 7, 8, 512)]
    assert slices == [700_000, 1_400_000, 1_400_000, 2_100_000, 2_100_000, 2_800_000, 2_800_000]
    assert Host(slice_ns=5).base_slice_ns == 5
    assert [Host(hz=hz).tick_ns for hz in (100, 250, 300, 1000)] == [10_000_000, 4_000_000, 3_333_333, 1_000_000]
    assert Host(hz=250, tick_scale=3).tick_ns == 12_000_000


def test_every_cost_is_documented_and_its_default_is_in_its_range():
    for item in dataclasses.fields(Costs):
        assert set(item.metadata) == {"mark", "range", "doc"}
        low, high = map(float, item.metadata["range"].split("-"))
        assert low <= item.default <= high, item.name
    assert set(dataclasses.asdict(Costs.zero()).values()) == {0}


def test_ple_default_is_4096_cycles_at_two_and_a_half_ghz():
    assert Ple() == Ple(True, int(4096 / 2.5), 2, 0, int((2**32 - 1) / 2.5), False, "always", False)
    assert PLE_PRESETS["intel"] == Ple()


def test_the_other_presets_are_their_machines():
    """AMD: 3000 PAUSEs of 52 cycles at 2.5 GHz, at most 65535. The others do not grow."""
    assert PLE_PRESETS["amd"] == Ple(True, 3000 * 52 * 2 // 5, 2, 0, 65535 * 52 * 2 // 5, True, "ring0")
    assert PLE_PRESETS["arm64"] == Ple(True, 1_000, 1, 0, 1_000, True, "ring0")
    assert PLE_PRESETS["s390"] == Ple(True, 10_000, 1, 0, 10_000, False, "always", True)
    assert list(PLE_PRESETS) == ["intel", "amd", "arm64", "s390"]


def test_a_guest_schedules_when_it_has_more_tasks_than_vcpus():
    assert not Vm("a", 2, workload()).has_run_queues and not Vm(**VM, tasks=2).has_run_queues
    two = Workload("two", "", (Role("in", (WORK, Put("items"))), Role("out", (WORK, Get("items")))), queues=QUEUES)
    busy = Vm("a", 1, two, tasks=5)
    assert busy.has_run_queues and busy.roles == (0, 0, 0, 1, 1)
