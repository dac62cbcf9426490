"""Programs that stand still in time, and times that 64 bits do not bear, are refused before anything runs."""

import dataclasses

import pytest
from paramdata import SPACE, WORK, message, scenario, workload

from kvmgym.params import Branch, Burst, Choose, Compute, Dist, Host, HostTask, Ops, Repeat, Scenario, Vm
from kvmgym.params.stillness import MAX_STILL, stillness
from kvmgym.scenarios import BY_NAME, SCENARIOS

STILL = [
    ((Repeat(10**9, (Ops(),)), WORK), f"{SPACE}[0]: can pass 2000000001 phases in no time, of at most 10000"),
    ((WORK, Repeat(10**9, (Choose((Branch(1, (WORK,)), Branch(1))),))), f"{SPACE}[1]: can pass 2000000002 phases"),
    (
        (Choose((Branch(1, (Repeat(10**5, (Ops(),)),)), Branch(1))), WORK),
        f"{SPACE}[0].branches[0].phases[0]: can pass 200001 phases",
    ),
    ((Repeat(3_000, (Ops(),)), Repeat(3_000, (Ops(),)), WORK), f"{SPACE}: can pass 12004 phases in no time"),
    ((*[Ops()] * MAX_STILL, WORK), f"{SPACE}: can pass 10002 phases in no time"),
    ((Compute(Dist.constant(1), bursty=True),), f"{SPACE}: can run through in no time"),
    ((Repeat(7, (Compute(Dist.uniform(0, 1)),)),), f"{SPACE}: can run through in no time"),
]


@pytest.mark.parametrize("phases, expected", STILL)
def test_a_program_that_stands_still_is_refused(phases, expected):
    assert message(lambda: workload(*phases)).startswith(expected)


@pytest.mark.parametrize(
    "phases", [(Repeat(10**9, (Ops(), WORK)),), (*[Ops()] * 9_998, WORK), (Repeat(4_000, (Ops(),)), WORK)]
)
def test_a_program_that_moves_on_is_taken(phases):
    assert workload(*phases).roles[0].program == phases


def test_stillness_counts_the_longest_way():
    def ways(*phases):
        found = stillness(phases)
        return found.through, found.before, found.after, found.most, found.most_around

    assert ways(Ops(), WORK, Ops(), Ops()) == (None, 2, 3, 3, 5)
    assert ways(WORK, Ops(), WORK) == (None, 1, 1, 3, 3)
    assert stillness((Repeat(3, (Ops(),)),)).through == 7  # the repeat, and a phase with its way back each time
    assert ways(Choose((Branch(1, (Ops(),)), Branch(1, (WORK, Ops()))))) == (2, 2, 2, 2, 4)


def test_a_slice_that_64_bits_do_not_bear_is_refused():
    guests = (Vm("a", 2, workload(), weight=262_144), Vm("b", 2, workload(), weight=2))
    text = message(lambda: Scenario("s", Host(slice_ns=10**15), guests))
    assert text.startswith("Host.slice_ns = 1000000000000000: must be less: weights of 262146 together and 2 at least")
    most = int(text.split()[-2])
    assert Scenario("s", Host(slice_ns=most), guests).host.slice_ns == most
    assert "Host.slice_ns" in message(lambda: Scenario("s", Host(slice_ns=2 * most), guests))
    flat = Host(slice_ns=10**12, group_scheduling=False)
    assert "Host.slice_ns" in message(lambda: Scenario("s", flat, guests, (HostTask("t", Dist.constant(1)),)))
    assert scenario().host.slice_ns is None


def test_every_named_scenario_bears_a_slice_of_a_second():
    for named in SCENARIOS:
        host = dataclasses.replace(named.host, slice_ns=10**9)
        assert dataclasses.replace(named, host=host).host.base_slice_ns == 10**9


def test_a_rewarm_and_a_burst_beyond_64_bits_are_refused():
    cold = workload(working_set_kib=2**30)
    assert message(lambda: scenario(Vm("a", 1, cold))).startswith(
        "Scenario.vms[0].workload working_set_kib = 1073741824"
    )
    long = Compute(Dist.constant(10**15), bursty=True)
    assert "past 64 bits" in message(lambda: workload(long, burst=Burst()))
    slow = Compute(Dist.constant(10**9), bursty=True)
    assert message(lambda: workload(slow, burst=Burst(mean_ns=1))).startswith(
        "Burst.mean_ns = 1: must be at least 1/10000"
    )
    assert workload(slow, burst=Burst()).burst == Burst()
    assert message(lambda: Dist.lognormal(10**15, 5)).startswith("Dist.median_ns = 1000000000000000.0: must be less")


def test_an_episode_of_a_scenario_is_a_time():
    named = BY_NAME["dedup-small"]
    assert dataclasses.replace(named, episode_ns=5).episode_ns == 5
    assert "Scenario.episode_ns = 1.5" in message(lambda: dataclasses.replace(named, episode_ns=1.5))
