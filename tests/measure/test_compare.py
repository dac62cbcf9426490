"""The comparison: its groups and what it computes."""

import json
from dataclasses import replace

import pytest

from kvmgym.measure.compare import GROUPS, grouped
from kvmgym.measure.gains import cells
from kvmgym.measure.published import published_for
from kvmgym.policies import POLICIES, Policy, as_policy


def test_groups_are_made_from_what_policies_say() -> None:
    by_group = {group: [p.name for p in POLICIES if p.group == group] for group in GROUPS}
    assert set(by_group["bounds"]) == {"clairvoyant", "clairvoyant-waiting", "clairvoyant-working"}
    assert by_group["kernel"] == ["2011", "2012", "2017", "2019", "2021", "legacy-i-bug", "legacy"]
    assert set(by_group["series"]) >= {"strict", "relaxed", "sched-v2", "sched-v3", "series-v2", "series-v3"}
    assert set(by_group["others"]) >= {"none", "random", "least-lag", "linear"}
    names = [policy.name for policy in grouped(POLICIES)]
    assert sorted(names) == sorted(policy.name for policy in POLICIES)
    assert names[: len(by_group["bounds"])] == by_group["bounds"]
    mine = Policy("mine", as_policy("none").function, "-", "user", "", "")
    assert mine.group == "others" and replace(mine, group="kernel").group == "kernel"
    assert Policy("mine", mine.function, "-", "user", "", "", privileged=True).group == "bounds"
    with pytest.raises(ValueError, match=r"Policy.group = 'kernal': must be one of bounds, kernel, series, others"):
        replace(mine, group="kernal")


def test_cells_pair_by_seed() -> None:
    common = {"scenario": "s", "wasted_share": 0.1, "ple_exits_per_s": 1.0, "yields_ok_per_s": 1.0, "fairness": 1.0}
    rows = [
        {**common, "policy": policy, "seed": seed, "ops_per_s": base * factor, "vm_names": ["a", "b"],
         "vm_programs": ["p", "p"], "vm_ops_per_s": [0.4 * base * factor, 0.6 * base * factor]}
        for policy, factor in (("legacy", 1.0), ("new", 1.25))
        for seed, base in enumerate((100.0, 300.0))
    ]  # fmt: skip
    legacy, new = cells(rows, "legacy")
    assert legacy.gain and new.gain and new.ops_per_s
    assert legacy.gain.mean == 0.0
    assert new.gain.mean == pytest.approx(0.25) and new.gain.half_width == pytest.approx(0.0, abs=1e-9)
    assert new.ops_per_s.mean == pytest.approx(250.0)
    assert json.loads(json.dumps(new.to_dict()))["gain"]["seeds"] == 2


def test_published_figures() -> None:
    dedup = published_for("dedup-4vm")
    assert dedup is not None and dedup.v1_v2 == 1.7
    assert dedup.v3_throughput == pytest.approx(100 / (1 - 0.156) - 100)  # 15.6 % lower latency
    dbench = published_for("dbench-2vm")
    assert dbench is not None and dbench.v3_throughput == 6.65
    assert published_for("dedup-small") is None and published_for("ebizzy-2vm") is None
