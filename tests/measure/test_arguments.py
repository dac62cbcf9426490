"""Public functions check what they are given before any work starts; names, paths and objects are taken alike."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from kvmgym import simulate, simulate_batch
from kvmgym.measure.evaluate import evaluate
from kvmgym.measure.replay import Flags, replay
from kvmgym.params.errors import MAX_NS
from kvmgym.scenarios import BY_NAME, equal_vms, guest, host, series
from kvmgym.workloads import randomised
from kvmgym.world.blueprint import Blueprint

MS = 1_000_000
SMALL = BY_NAME["dedup-small"]


def one(scenario=SMALL, policy="legacy", **given):
    return simulate(scenario, policy, **{"duration_ns": MS, "warmup_ns": 0, **given})


@pytest.mark.parametrize("name", ["duration_ns", "warmup_ns"])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e308, 2**63, 10**400, 1.5, True, "5", None, -1])
def test_a_time_that_is_no_whole_number_of_ns_is_refused(name, value):
    with pytest.raises(ValueError, match=name):
        one(**{name: value})
    with pytest.raises(ValueError, match=name):
        evaluate(None, SMALL, [0], **{name: value})


def test_the_two_times_together_are_bounded():
    with pytest.raises(ValueError, match="duration_ns \\+ warmup_ns"):
        one(duration_ns=MAX_NS, warmup_ns=1)


@pytest.mark.parametrize("seed", [True, 1.0, -1, 2**63, "0", None])
def test_a_seed_is_a_whole_number_of_64_bits(seed):
    with pytest.raises(ValueError, match="seed = "):
        one(seed=seed)
    with pytest.raises(ValueError, match="seed = "):
        Blueprint(SMALL).worlds([seed])


def test_more_worlds_than_memory_bears_are_refused():
    with pytest.raises(ValueError, match="number of seeds = 1000001: must be at most 1000000"):
        simulate_batch(SMALL, "legacy", seeds=range(1_000_001))
    with pytest.raises(ValueError, match="number of seeds = 1000000: must be at most"):
        simulate_batch("dedup-4vm", "legacy", seeds=range(1_000_000))
    with pytest.raises(ValueError, match="seeds = 5"):
        simulate_batch(SMALL, "legacy", seeds=5)
    with pytest.raises(ValueError, match="threads = 0"):
        simulate_batch(SMALL, "legacy", seeds=[0], threads=0)


def test_a_scenario_is_a_name_a_path_or_an_object(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text(SMALL.to_toml())
    wanted = one()
    for scenario in ("dedup-small", str(path), path, Path(path), Blueprint(SMALL)):
        assert one(scenario) == wanted
    assert one(duration_ns=np.int64(MS), seed=np.int32(0)) == wanted


@pytest.mark.parametrize("scenario", [5, None, [SMALL], b"dedup-small"])
def test_what_is_no_scenario_is_refused(scenario):
    with pytest.raises(ValueError, match="scenario = "):
        one(scenario)
    with pytest.raises(ValueError, match="scenario = "):
        Blueprint(scenario)


@pytest.mark.parametrize(
    "call, name",
    [
        (lambda: series("dedup", 0), "vms"),
        (lambda: series("dedup", 2.0), "vms"),
        (lambda: series(5, 2), "workload"),
        (lambda: equal_vms("x", "dedup", 0, 2, 4), "pcpus"),
        (lambda: equal_vms("x", "dedup", 4, True, 4), "vms"),
        (lambda: guest("vm", "dedup", 1.5), "vcpus"),
        (lambda: guest("vm", None, 4), "workload"),
        (lambda: host(1.5), "pcpus"),
        (lambda: randomised("dedup", rng=5), "rng"),
        (lambda: randomised("dedup", factors={"shootdowns": float("nan")}), "factors"),
        (lambda: randomised(5, factors={}), "profile"),
        (lambda: Blueprint(SMALL, trace_rows=-1), "trace_rows"),
        (lambda: Blueprint(SMALL, trace_rows=1.5), "trace_rows"),
    ],
)
def test_constructors_of_scenarios_check_their_arguments(call, name):
    with pytest.raises(ValueError, match=name):
        call()


@pytest.mark.parametrize(
    "changes",
    [{"me": 1.0}, {"me": True}, {"last_boosted_vcpu": 9}, {"now_ns": 1.5}, {"results": [1, 1.0]}, {"waits_for": True},
     {"ipi_window_ns": -1}, {"yield_to_kernel_mode": 2}, {"flags": [Flags(), None]}],
    ids=str,
)  # fmt: skip
def test_replay_checks_its_arguments(changes):
    given = {"flags": [Flags(), Flags(ready=True)], "me": 0, "results": [1, 1], **changes}
    with pytest.raises(ValueError, match=next(iter(changes))):
        replay("legacy", given.pop("flags"), **given)


def test_a_scaled_scenario_scales_its_episode():
    assert dataclasses.replace(SMALL, episode_ns=5).scaled(3).episode_ns == 15
