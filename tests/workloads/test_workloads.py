"""kvmgym.workloads: the rows of the table, what the programs do by arithmetic, and what they do when they run."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmgym import Costs, Host, Scenario, Vm, simulate_batch
from kvmgym.params import Barrier, Block, Choose, Compute, Kick, Lock, Ops, Rates, Repeat, Shootdown
from kvmgym.workloads import BY_NAME, FAMILIES, RANDOM, WORKLOADS, guest_tasks, randomised
from kvmgym.workloads.profile import HOT, Profile

S, MS, US = 10**9, 10**6, 10**3
PROFILES = {family.profile.name: family for family in FAMILIES}
EVENTS = ("lock_ops", "user_lock_ops", "shootdowns", "kicks", "halts")
COUNTERS = dict(zip(EVENTS, ("lock_acquires", "mutex_acquires", "shootdowns_sent", "kicks", "halts"), strict=True))

# The table of workloads: kernel share, hot-lock operations, locks, hold [µs], its sigma, user locks, shootdowns, kicks,
# halts, mean halt [µs], working set [KiB], progress. Of the ranges, the middle; None: the table has no number.
TABLE = {
    "dbench": (0.85, 60_000, 6, 0.8, 1.2, 0, 2, 500, 300, 60, 256, "ops"),
    "dedup": (0.30, 15_000, 4, 1.0, 1.0, 10_700, 600, 400, 110, 150, 4096, "chunks"),
    "vips": (0.12, 6_000, 4, 0.8, 1.0, 2_700, 250, 500, 510, 100, 2048, "tiles"),
    "kernbench": (0.08, 20_000, 8, 0.6, 1.0, 0, 5, 10, 9, 3_000, 1024, "jobs"),
    "ebizzy": (0.60, 400, 1, 5.0, None, 0, 335, 50, 20, None, 512, "records"),
    "hackbench": (0.85, 80_000, 8, 0.5, 0.8, 0, 0, 20_000, 8_000, 20, 64, "messages"),
    "pbzip2": (0.05, 1_000, 2, 0.6, 1.0, 0, 40, 100, 50, 200, 8192, "blocks"),
    "exim": (0.69, 50_000, 12, 1.0, 1.2, 0, 30, 800, 600, 100, 512, "messages"),
    "memclone": (0.90, 40_000, 2, 1.2, 1.0, 0, 300, 50, 10, None, 16_384, "pages"),
    "psearchy": (0.14, 8_000, 2, 1.0, 1.0, 0, 120, 100, 100, 300, 8192, "jobs"),
    "streamcluster": (0.03, 500, None, 0.5, None, 0, 1, 2_000, 900, 50, 16_384, "iterations"),
    "swaptions": (0.01, 50, None, 0.5, None, 0, 1, 5, 1, None, 512, "trials"),
    "compute": (0.0, 0, None, None, None, 0, 0, 0, 0, None, 64, "quanta"),
}


# --- arithmetic on the programs -------------------------------------------------------------------------------------


class Pass:
    """What one pass through phases contains on average: useful ns, kernel ns, and a count of each event and of ops.

    Written from the meaning of the phases and the costs, for a VM of 16 busy vCPUs; knows nothing of Profile. At a
    barrier all but the last vCPU halt, and the last kicks them, which is the host's work.
    """

    def __init__(self, phases, user_locks):
        self.total = dict.fromkeys(("useful", "kernel", *EVENTS, "ops"), 0.0)
        self.user_locks = user_locks
        self.add(phases, 1.0)

    def add(self, phases, chance):
        for phase in phases:
            if isinstance(phase, Choose):
                weights = sum(branch.weight for branch in phase.branches)
                for branch in phase.branches:
                    self.add(branch.phases, chance * branch.weight / weights)
            elif isinstance(phase, Repeat):
                self.add(phase.phases, chance * phase.times)
            else:
                self.one(phase, chance)

    def one(self, phase, chance):
        costs = Costs()
        if isinstance(phase, Compute):
            self.count("useful", chance * phase.dist.mean_ns)
            self.count("kernel", chance * phase.dist.mean_ns * phase.kernel_share)
        elif isinstance(phase, Lock):
            self.count("user_lock_ops" if phase.lock in self.user_locks else "lock_ops", chance)
        elif isinstance(phase, Shootdown):
            self.count("shootdowns", chance, 15 * (costs.broadcast_physical_ns + costs.irq_handler_ns))
        elif isinstance(phase, Kick):
            self.count("kicks", chance, costs.ipi_ns + costs.irq_handler_ns)
        elif isinstance(phase, Block):
            self.count("halts", chance, costs.irq_handler_ns)
        elif isinstance(phase, Barrier):
            self.count("halts", chance * 15 / 16, costs.irq_handler_ns)
            self.count("kicks", chance * 15 / 16)
        elif isinstance(phase, Ops):
            self.count("ops", chance * phase.count)

    def count(self, name, number, kernel_ns=0):
        self.total[name] += number
        self.total["useful"] += number * kernel_ns
        self.total["kernel"] += number * kernel_ns

    def rates(self):
        per_s = {name: self.total[name] * S / self.total["useful"] for name in EVENTS}
        return Rates(kernel_share=self.total["kernel"] / self.total["useful"], **per_s)


def one_pass(workload, role):
    return Pass(role.program, {spec.name for spec in workload.locks if spec.kind == "mutex"})


def assert_rates(found, declared, relative):
    for name in ("kernel_share", *EVENTS):
        assert getattr(found, name) == pytest.approx(getattr(declared, name), rel=relative, abs=1e-12), name


@pytest.mark.parametrize("name", TABLE)
def test_a_profile_is_its_row_of_the_table(name):
    kernel, lock_ops, locks, hold_us, sigma, user, shootdowns, kicks, halts, halt_us, kib, progress = TABLE[name]
    profile, workload = PROFILES[name].profile, BY_NAME[name]
    assert workload.rates == Rates(kernel, lock_ops, user, shootdowns, kicks, halts)
    assert (workload.working_set_kib, workload.progress) == (kib, progress)
    assert (workload.burst.factor, workload.burst.mean_ns) == (4.0, 20 * MS)
    assert halt_us is None or profile.halt_mean_ns == halt_us * US
    assert locks is None or profile.hold_median_ns == hold_us * US
    assert sigma is None or profile.hold_sigma == sigma
    hot = [spec for spec in workload.locks if spec.name == HOT]
    counts = [] if not lock_ops else [locks or 1]
    assert [(spec.count, spec.zipf, spec.kind) for spec in hot] == [(count, 1.0, "tas") for count in counts]
    mutexes = [spec for spec in workload.locks if spec.kind == "mutex"]
    assert bool(mutexes) == (user > 0)


@pytest.mark.parametrize("name", PROFILES)
def test_every_role_of_a_profile_has_the_declared_rates_by_arithmetic(name):
    workload = BY_NAME[name]
    for role in workload.roles:
        assert_rates(one_pass(workload, role).rates(), workload.rates, 1e-9)


def test_holds_are_lognormal_with_one_in_a_hundred_from_the_tail():
    hold = PROFILES["dedup"].profile.hold
    assert hold.parameters == {
        "median_ns": 1_000, "sigma": 1.0, "tail_share": 0.01, "tail_low_ns": 20_000, "tail_high_ns": 50_000
    }  # fmt: skip
    assert hold.mean_ns == pytest.approx(0.99 * 1_000 * np.exp(0.5) + 0.01 * 35_000)


def test_ebizzy_holds_the_mm_lock_across_each_shootdown_to_all_others():
    (role,) = BY_NAME["ebizzy"].roles
    (choice,) = [phase for phase in role.program if isinstance(phase, Choose)]
    (locked,) = [b.phases for b in choice.branches if Shootdown("others") in b.phases]
    assert [phase.kind for phase in locked] == ["lock", "compute", "shootdown", "unlock"]


def test_the_mean_gap_follows_from_the_rates():
    profile = Profile("x", "ops", 0.5, 64, lock_ops=10_000, hold_median_ns=1_000, hold_sigma=0.0)
    hold_ns = 0.99 * 1_000 + 0.01 * 35_000  # 1.34 µs, ten thousand times a second: 1.34 % of the time
    assert profile.gap().dist.mean_ns == pytest.approx((1 - 0.0134) * 100_000)
    assert profile.gap().kernel_share == pytest.approx((0.5 - 0.0134) / (1 - 0.0134))
    assert profile.kernel_spent == pytest.approx(10_000 * hold_ns * 1e-9)
    rare = replace(profile, lock_ops=10)
    assert rare.gap().dist.mean_ns == pytest.approx(MS * (1 - 10 * hold_ns * 1e-9))  # a quantum, most with no event
    assert sum(branch.weight for branch in rare.cycle()[1].branches if branch.phases) == 10


def test_impossible_profiles_are_refused():
    with pytest.raises(
        ValueError, match="Profile = 'x': must be a profile whose events leave time for compute, not 1.34 s"
    ):
        Profile("x", "ops", 0.5, 64, lock_ops=1e6, hold_median_ns=1_000, hold_sigma=0.0)
    with pytest.raises(ValueError, match="Profile.shootdowns = 20: must be lock_ops or less"):
        Profile("x", "ops", 0.5, 64, lock_ops=10, shootdowns=20, shootdown_locked=True)
    with pytest.raises(ValueError, match="Profile.halts = 20: must be kicks or less"):
        Profile("x", "ops", 0.5, 64, kicks=10, halts=20, halt_mean_ns=1, barrier_halts=True)


@pytest.mark.parametrize(
    "name, op_us, cycles",
    [("dbench", 16.45, 1), ("dedup", 149, 4), ("vips", 3213, 32), ("kernbench", 9589, 192), ("ebizzy", 100, 1),
     ("hackbench", 18.52, 2), ("pbzip2", 52_800, 528), ("exim", 991.6, 51), ("memclone", 24.78, 1),
     ("psearchy", 961.5, 8), ("swaptions", 100, 1)],
)  # fmt: skip
def test_the_work_of_one_operation(name, op_us, cycles):
    """Useful time over all stages that one operation passes; of a whole number of cycles."""
    workload, profile = BY_NAME[name], PROFILES[name].profile
    passes = [one_pass(workload, role).total for role in workload.roles]
    useful = sum(each["useful"] for each in passes) / sum(each["ops"] for each in passes)
    assert useful == pytest.approx(op_us * US, rel=2e-3)
    assert useful / profile.cycle_ns == pytest.approx(cycles)


def test_an_iteration_of_streamcluster_is_about_a_millisecond():
    """15 of 16 vCPUs halt in each, 900 times a CPU-second."""
    (role,) = BY_NAME["streamcluster"].roles
    assert one_pass(BY_NAME["streamcluster"], role).total["useful"] == pytest.approx(15 / 16 * S / 900)
    assert [phase.kind for phase in role.program] == ["repeat", "barrier", "ops"]


def test_the_gaps_of_a_barrier_program_are_lognormal_around_the_same_mean():
    profile = PROFILES["psearchy"].profile
    even = profile.gap(bursty=False, sigma=0.1)
    assert even.dist.kind == "lognormal" and even.dist.parameters["sigma"] == 0.1 and not even.bursty
    assert even.dist.mean_ns == pytest.approx(profile.gap().dist.mean_ns)
    assert even.kernel_share == profile.gap().kernel_share


@pytest.mark.parametrize("name", ["dedup", "vips", "kernbench", "pbzip2", "hackbench"])
def test_stages_get_vcpus_in_proportion_to_their_work(name):
    workload = BY_NAME[name]
    dealt = workload.deal_roles(16)
    work = [one_pass(workload, role).total["useful"] for role in workload.roles]
    each = [work[place] / dealt.count(place) for place in range(len(work))]
    assert each == pytest.approx([each[0]] * len(each))


# --- randomised -----------------------------------------------------------------------------------------------------

FACTORS = st.fixed_dictionaries({name: st.floats(0.5, 2.0) for name in RANDOM})


@settings(max_examples=50)
@given(name=st.sampled_from(sorted(PROFILES)), factors=FACTORS)
def test_randomised_programs_have_the_multiplied_rates(name, factors):
    plain, workload = BY_NAME[name], randomised(name, factors=factors)
    for event in EVENTS:
        wanted = getattr(plain.rates, event) * factors[event]
        if name == "ebizzy" and event == "shootdowns":
            wanted = min(wanted, workload.rates.lock_ops)
        if name == "streamcluster" and event == "kicks":
            wanted = max(wanted, workload.rates.halts)
        assert getattr(workload.rates, event) == pytest.approx(wanted)
    assert workload.rates.kernel_share >= plain.rates.kernel_share
    for role in workload.roles:
        assert_rates(one_pass(workload, role).rates(), workload.rates, 1e-9)


def test_randomised_draws_from_the_generator():
    first, same, other = (randomised("vips", np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == same and first.name == other.name == "vips-randomised"
    assert first.rates != other.rates
    ratios = [getattr(first.rates, name) / getattr(BY_NAME["vips"].rates, name) for name in EVENTS]
    assert all(0.5 <= ratio <= 2 for ratio in ratios) and len(set(ratios)) == len(EVENTS)
    fixed = randomised("vips", np.random.default_rng(1), {"kicks": 1.0}, label="b")
    assert fixed.name == "vips-b" and fixed.rates == replace(first.rates, kicks=500.0)


def test_randomised_names_what_is_wrong():
    with pytest.raises(ValueError, match='unknown profile "dedupp": did you mean "dedup"'):
        randomised("dedupp", factors={})
    with pytest.raises(ValueError, match="factors = 'kernel_share': must be one of lock_ops, "):
        randomised("dedup", factors={"kernel_share": 2.0})
    with pytest.raises(ValueError, match="randomised rng = None: must be a Generator"):
        randomised("dedup")


# --- alone on an idle host ------------------------------------------------------------------------------------------


def alone(workload, seconds, vcpus=16, **host):
    """The VM's metrics summed over two seeds, `seconds` together, on a host with a pCPU for each vCPU."""
    vm = Vm("vm", vcpus, workload, tasks=guest_tasks(workload, vcpus))
    scenario = Scenario("alone", Host(pcpus=vcpus, start="random", **host), (vm,))
    duration_ns = round(seconds * S / 2)
    results = simulate_batch(scenario, "legacy", seeds=[1, 2], duration_ns=duration_ns, warmup_ns=100 * MS, threads=2)
    return [result.vms[0] for result in results]


def total(vms, name):
    return sum(getattr(vm, name) for vm in vms)


def useful_ns(vms):
    return sum(vcpu.useful_ns for vm in vms for vcpu in vm.vcpus)


def kernel_share(vms):
    """Kernel compute, sends (to 15 targets each) and handlers, as a share of useful time."""
    costs = Costs()
    handlers = sum(vm.ipi_latency.count for vm in vms) + total(vms, "halts")
    sends = total(vms, "kicks") * costs.ipi_ns + total(vms, "shootdowns") * 15 * costs.broadcast_physical_ns
    compute = sum(vm.total("kernel_ns") for vm in vms)
    return (compute + handlers * costs.irq_handler_ns + sends) / useful_ns(vms)


def happened(workload, vms, event):
    """How often; halts at a barrier count as halts, and what ends them as kicks."""
    at_barriers = total(vms, "wakeups") - total(vms, "halts") if workload.barriers else 0
    return total(vms, COUNTERS[event]) + (at_barriers if event in ("halts", "kicks") else 0)


def check_rates(workload, vms, rare):
    """Each rate within 5 % of the declared one; of rare events, fewer than `rare`, within 4 standard deviations."""
    seconds = useful_ns(vms) / S
    assert kernel_share(vms) == pytest.approx(workload.rates.kernel_share, rel=0.05)
    for event in EVENTS:
        wanted = getattr(workload.rates, event) * seconds
        tolerance = max(0.05 * wanted, 4 * np.sqrt(wanted) if wanted < rare else 0)
        assert abs(happened(workload, vms, event) - wanted) <= tolerance, event


SECONDS = {"dbench": 4, "dedup": 6, "vips": 6, "kernbench": 8, "ebizzy": 16, "hackbench": 2, "pbzip2": 16, "exim": 4,
           "memclone": 6, "psearchy": 6, "streamcluster": 8, "swaptions": 20}  # fmt: skip


@pytest.mark.parametrize("name, seconds", SECONDS.items())
def test_a_profile_alone_shows_its_rates(name, seconds):
    check_rates(BY_NAME[name], alone(BY_NAME[name], seconds), rare=4_000)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, seconds",
    [("dbench", 180), ("kernbench", 60), ("ebizzy", 30), ("pbzip2", 10), ("exim", 15), ("memclone", 40),
     ("psearchy", 8), ("streamcluster", 300), ("swaptions", 300)],
)  # fmt: skip
def test_a_profile_alone_shows_its_rare_rates_too(name, seconds):
    vms = alone(BY_NAME[name], seconds)
    rates = BY_NAME[name].rates
    rarest = min(getattr(rates, event) for event in EVENTS if getattr(rates, event) > 0)
    assert rarest * useful_ns(vms) / S > 4_300  # so that 5 % is more than the half-width of a 99.9 % interval
    check_rates(BY_NAME[name], vms, rare=0)


@pytest.mark.parametrize("name", ["dbench", "dedup", "kernbench"])
def test_the_time_in_holds_follows_from_the_rates(name):
    """With no kernel code but the holds, kernel time is hold time."""
    family = PROFILES[name]
    profile = replace(family.profile, kernel_share=0.0)
    vms = alone(family.build(profile), 3)
    hold_ns = sum(vm.total("kernel_ns") for vm in vms)
    assert hold_ns == pytest.approx(useful_ns(vms) / S * profile.lock_ops * profile.hold.mean_ns, rel=0.05)


def test_compute_is_user_code_alone():
    vms = alone(BY_NAME["compute"], 4)
    assert kernel_share(vms) == 0
    assert [total(vms, counter) for counter in COUNTERS.values()] == [0] * len(EVENTS)
    assert total(vms, "ops") == pytest.approx(useful_ns(vms) / MS, rel=0.03)


@pytest.mark.parametrize("name", ["streamcluster"])
def test_the_mean_wait_at_the_barrier_is_the_mean_halt_of_the_table(name):
    vms = alone(BY_NAME[name], 8)
    blocked_ns = sum(vm.total("blocked_ns") for vm in vms)
    assert blocked_ns / total(vms, "wakeups") == pytest.approx(TABLE[name][9] * US, rel=0.05)


@pytest.mark.parametrize("name, least", [("dedup", 0.85), ("vips", 0.85), ("kernbench", 0.9), ("pbzip2", 0.9)])
def test_stages_keep_each_other_busy(name, least):
    for vm in alone(BY_NAME[name], 4):
        for vcpu in vm.vcpus:
            assert vcpu.useful_ns > (least - 0.05) * 2 * S
        assert vm.total("useful_ns") > least * 16 * 2 * S


def test_user_locks_are_seldom_contended():
    workload = BY_NAME["dedup"]
    scenario = Scenario("alone", Host(start="random"), (Vm("vm", 16, workload),))
    (result,) = simulate_batch(scenario, "legacy", seeds=[1])
    locks = result.locks[workload.locks[0].count :]
    assert sum(lock.acquires for lock in locks) > 100_000
    assert sum(lock.contended for lock in locks) < 0.005 * sum(lock.acquires for lock in locks)


@pytest.mark.parametrize("name", SECONDS)
def test_progress_is_work_whatever_the_host_does(name):
    """Useful time an operation, cold caches apart, is the same alone and at twice the vCPUs under either policy."""
    workload = BY_NAME[name]
    vms = tuple(Vm(f"vm{i}", 16, workload, tasks=guest_tasks(workload, 16)) for i in range(2))
    passes = [one_pass(workload, role).total for role in workload.roles]
    work_ns = sum(each["useful"] for each in passes) / sum(each["ops"] for each in passes)
    two = Scenario("two", Host(start="random"), vms)
    duration_ns = S // 2 if work_ns < 20 * US else 2 * S
    for policy in ("none", "relaxed"):
        results = simulate_batch(two, policy, seeds=[1, 2], duration_ns=duration_ns)
        found = [vm for result in results for vm in result.vms]
        spent = useful_ns(found) - total(found, "rewarm_spent_ns")
        assert spent / total(found, "ops") == pytest.approx(work_ns, rel=0.05)


def test_a_randomised_profile_alone_shows_its_rates():
    workload = randomised("vips", np.random.default_rng(7))
    check_rates(workload, alone(workload, 8), rare=4_000)


# --- microworkloads -------------------------------------------------------------------------------------------------


def test_hotlock_by_arithmetic_and_alone():
    """Two vCPUs: the other one thinks whenever a hold begins, so X = 1 / (S + exp(-S/Z) Z/2) for both together."""
    workload = BY_NAME["hotlock"]
    assert_rates(one_pass(workload, workload.roles[0]).rates(), workload.rates, 1e-9)
    think_us, hold_us = 4, 1
    wanted_per_s = 1e6 / (hold_us + np.exp(-hold_us / think_us) * think_us / 2)
    for vm in alone(workload, 4, vcpus=2, costs=Costs.zero()):
        assert vm.ops_per_s == pytest.approx(wanted_per_s, rel=0.01)
        assert abs(vm.lock_acquires - vm.ops) <= 2
        assert vm.lock_acquires == pytest.approx(200_000 * useful_ns([vm]) / S, rel=0.01)


def test_shootdowns_reach_all_others():
    vms = alone(BY_NAME["shootdowns"], 2, vcpus=4, costs=Costs.zero())
    assert total(vms, "ops") == pytest.approx(4 * 2 * S / (200 * US), rel=0.05)
    assert total(vms, "shootdowns") == pytest.approx(total(vms, "ops"), abs=8)
    assert sum(vm.ipi_latency.count for vm in vms) == pytest.approx(3 * total(vms, "shootdowns"), rel=0.01)


def test_a_server_halts_three_quarters_of_its_time():
    vms = alone(BY_NAME["server"], 2, vcpus=4, costs=Costs.zero())
    assert total(vms, "ops") == pytest.approx(4 * 2 * S / (200 * US), rel=0.03)
    assert abs(total(vms, "halts") - total(vms, "ops")) <= 8
    assert sum(vm.total("blocked_ns") for vm in vms) == pytest.approx(0.75 * 4 * 2 * S, rel=0.02)
    assert kernel_share(vms) == pytest.approx(0.5, rel=0.05)


def test_pingpong_hands_the_item_to_and_fro():
    """Without costs a round trip is two times 20 µs, one vCPU runs at a time, and each hand-over wakes the other."""
    vms = alone(BY_NAME["pingpong"], 4, vcpus=2, costs=Costs.zero())
    assert total(vms, "ops") == pytest.approx(4 * S / (40 * US), rel=0.02)
    for vm in vms:
        assert vm.total("run_ns") == pytest.approx(2 * S, rel=1e-3)
        assert vm.wakeups == pytest.approx(2 * vm.ops, abs=4)


# --- the tables -----------------------------------------------------------------------------------------------------


def test_names_are_unique_and_by_name_is_complete():
    assert list(BY_NAME) == [workload.name for workload in WORKLOADS]
    assert len(BY_NAME) == len(WORKLOADS)
    assert {*TABLE, "hotlock", "shootdowns", "pingpong", "server"} < set(BY_NAME)
    for workload in WORKLOADS:
        assert workload.description and workload.marks and BY_NAME[workload.name] is workload


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_a_workload_survives_toml(workload):
    scenario = Scenario("s", Host(pcpus=8), (Vm("vm", 8, workload),))
    assert Scenario.from_toml_text(scenario.to_toml()).vms[0].workload == workload
    by_name = scenario.to_toml(known=WORKLOADS)
    assert f'workload = "{workload.name}"' in by_name and "[[workload]]" not in by_name
    assert Scenario.from_toml_text(by_name, BY_NAME) == scenario


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
@pytest.mark.parametrize("vcpus", [5, 8, 33])
def test_a_workload_goes_on_in_any_vm_that_has_its_roles(workload, vcpus):
    scenario = Scenario("s", Host(pcpus=4, start="random"), (Vm("vm", vcpus, workload),))
    (result,) = simulate_batch(scenario, "relaxed", seeds=[1], duration_ns=300 * MS, warmup_ns=100 * MS)
    assert result.vms[0].ops > 0


def test_the_tasks_of_hackbench_keep_its_vcpus_busy():
    """A sleeping task makes room for another one; with one task a vCPU each sleep halts it."""
    group = alone(BY_NAME["hackbench"], 2)
    assert total(group, "halts") == pytest.approx(8_000 * useful_ns(group) / S, rel=0.05)
    assert total(group, "wakeups") < 0.2 * total(group, "halts")
    assert total(group, "guest_switches") > total(group, "halts")
    (single,) = simulate_batch(
        Scenario("alone", Host(pcpus=16, start="random"), (Vm("vm", 16, BY_NAME["hackbench"]),)), "legacy", seeds=[1]
    )
    assert single.vms[0].wakeups >= single.vms[0].halts > 0 and single.vms[0].guest_switches == 0


def test_hackbench_has_a_group_of_tasks_in_any_vm_that_is_smaller():
    assert [guest_tasks(BY_NAME["hackbench"], vcpus) for vcpus in (2, 16, 39, 40, 64)] == [40, 40, 40, None, None]
    assert guest_tasks(randomised("hackbench", factors={}), 16) == 40
    assert {guest_tasks(workload, 2) for workload in WORKLOADS if workload.name != "hackbench"} == {None}
    roles = Vm("vm", 16, BY_NAME["hackbench"], tasks=40).roles
    assert (roles.count(0), roles.count(1)) == (20, 20)


SWITCHES = {
    "tas": {"lock_kind": "tas"},
    "fifo": {"lock_kind": "fifo"},
    "pvq": {"lock_kind": "pvq"},
    "pvq, spins 10 us, plain kick": {"lock_kind": "pvq", "pv_spin_ns": 10 * US, "pv_kick_yields": False},
    "PV TLB flush": {"pv_tlb_flush": True},
    "PV sched yield": {"pv_sched_yield": True},
    "PV IPI": {"ipi_mode": "pv"},
    "all PV": {
        "lock_kind": "pvq", "pv_spin_ns": 10 * US, "pv_tlb_flush": True, "pv_sched_yield": True, "ipi_mode": "pv"
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_a_profile_goes_on_with_each_lock_kind_and_pv_switch(name, switches):
    """Two VMs of 6 vCPUs on 4 pCPUs, so that lock holders and IPI targets are preempted."""
    workload = BY_NAME[name]
    vms = tuple(Vm(f"vm{i}", 6, workload, tasks=guest_tasks(workload, 6), **switches) for i in range(2))
    duration_ns = 400 * MS if name == "pbzip2" else 40 * MS  # a block of pbzip2 takes 50 ms
    scenario = Scenario("s", Host(pcpus=4, start="random"), vms)
    (result,) = simulate_batch(scenario, "relaxed", seeds=[1], duration_ns=duration_ns, warmup_ns=10 * MS)
    assert all(vm.ops > 0 for vm in result.vms)
    assert result.fairness > 0.9


def test_dedup_needs_a_vcpu_for_each_stage_and_dedup_small_four():
    with pytest.raises(ValueError, match=r"Vm.vcpus = 4: must be 5 or more for workload dedup"):
        Vm("vm", 4, BY_NAME["dedup"])
    assert Vm("vm", 4, BY_NAME["dedup-small"]).roles == (0, 1, 2, 3)
    assert Vm("vm", 16, BY_NAME["dedup"]).roles == (0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 4)
