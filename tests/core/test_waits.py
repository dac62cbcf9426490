"""No ready vCPU waits longer than its scheduler's turns: whom a policy names, and whatever the series adds, never
starves a third one."""

from dataclasses import replace
from typing import Any

import pytest

from kvmgym.core.layout import READY
from kvmgym.core.memory import view
from kvmgym.measure.simulate import advance
from kvmgym.params import Host, Scenario
from kvmgym.policies import POLICIES, Policy
from kvmgym.scenarios import BY_NAME
from kvmgym.world.blueprint import Blueprint

SAMPLE_NS, DURATION_NS = 250_000, 200_000_000
HOSTS: dict[str, dict[str, Any]] = {
    "6.19": {},
    "v1": {"yield_deboost": "v1"},
    "v2": {"yield_deboost": "v2"},
    "v3": {"yield_deboost": "v3"},
    "v3 across pCPUs": {"yield_deboost": "v3", "lag_credit_across": True},
    "6.12": {"kernel": "6.12"},
    "6.1": {"kernel": "6.1"},
}
TURNS = 1.5  # the longest that was seen is 1.31 turns; 20 to 40 turns while the credit across pCPUs had no bound


def turn_ns(host: Host, queued: int) -> int:
    """One turn of a queue of `queued` vCPUs: everybody's slice, the end of each seen at the next tick [ns]."""
    if host.scheduler == "cfs":
        return max(host.sched_latency_ns, queued * host.sched_min_granularity_ns) + queued * host.tick_ns
    return queued * (host.base_slice_ns + host.tick_ns)


def longest_wait(scenario: Scenario, policy: Policy) -> tuple[int, int]:
    """The longest wait of a ready vCPU [ns], seen each 0.25 ms, and the most vCPUs that a pCPU had queued meanwhile."""
    blueprint = Blueprint(scenario)
    row = blueprint.worlds([0])[0]
    world, wait, queued = view(row, blueprint.static), 0, 0
    for until_ns in range(SAMPLE_NS, DURATION_NS, SAMPLE_NS):
        advance(blueprint, row, until_ns, policy)
        ready = world.vcpu["state"] == READY
        queued = max(queued, int(world.pcpu["nr_running"].max()))
        if ready.any():
            wait = max(wait, until_ns - int(world.vcpu["ready_since_ns"][ready].min()))
    return wait, queued


@pytest.mark.parametrize("scenario", ["dedup-4vm", "dbench-4vm"])
@pytest.mark.parametrize(
    "host", [pytest.param(name, marks=() if "across" in name else pytest.mark.slow) for name in HOSTS]
)
def test_no_ready_vcpu_waits_for_much_more_than_a_turn_under_any_policy(host, scenario):
    crowded = replace(BY_NAME[scenario], host=replace(BY_NAME[scenario].host, **HOSTS[host]))
    for policy in POLICIES:
        wait, queued = longest_wait(crowded, policy)
        assert wait <= TURNS * turn_ns(crowded.host, queued), policy.name
