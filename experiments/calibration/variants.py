"""What is simulated: the series with factors on a profile or other constants of the host, and the policies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from kvmgym.params import Costs, HaltPoll, Host, Scenario
from kvmgym.policies import BY_NAME as POLICY
from kvmgym.policies import POLICIES, Policy
from kvmgym.scenarios import series
from kvmgym.workloads import randomised

BASELINE = "legacy"
# v3 on a host where its credit reaches targets on other pCPUs too: an ablation, to find causes of misfits.
ACROSS = replace(POLICY["series-v3"], name="series-v3-across", credit_across=True)
# The same for a policy that sees the guest.
BOUND_ACROSS = replace(POLICY["clairvoyant-working"], name="clairvoyant-bound", deboost="v3", credit_across=True)
FITTED = (POLICY[BASELINE], POLICY["series-v3"])
PREDICTED = ("legacy", "series-v2", "series-v3")
HALVES = (*(POLICY[name] for name in (*PREDICTED, "relaxed", "sched-v2", "sched-v3")), ACROSS)
KERNEL = tuple(policy for policy in POLICIES if policy.year != "-")
REFERENCES = (ACROSS, BOUND_ACROSS, *(POLICY[name] for name in ("none", "longest-waiting", "clairvoyant")))
RANKED = tuple(
    POLICY[name]
    for name in ("none", "random", "legacy", "strict", "relaxed", "series-v2", "series-v3", "longest-waiting")
)


def with_factors(workload: str, vms: int, factors: Mapping[str, float]) -> Scenario:
    """The series' scenario with factors on the profile; the named scenario itself when all are 1."""
    scenario = series(workload, vms)
    if all(factor == 1 for factor in factors.values()):
        return scenario
    changed = randomised(workload, factors=factors, label="calibrated")
    return replace(scenario, vms=tuple(replace(vm, workload=changed) for vm in scenario.vms))


@dataclass(frozen=True)
class Variant:
    """One constant changed: name, mark, how ("× 2"), and the host with it. inert: nothing in these scenarios uses it,
    so results must stay the same bit for bit."""

    name: str
    mark: str
    change: str
    apply: Callable[[Host], Host]
    inert: bool = False

    def scenario(self, scenario: Scenario) -> Scenario:
        """The scenario on the changed host."""
        return replace(scenario, host=self.apply(scenario.host))


INERT = ("pv_flush_ns", "guest_switch_ns")  # PV flush is off, and there are no more guest tasks than vCPUs


def variants() -> Iterator[Variant]:
    """Each constant of mark R or A at half and twice its default, and the switches that are assumptions."""
    for item in fields(Costs):
        mark = item.metadata["mark"]
        if mark == "weak" or any(letter in mark for letter in "RA"):
            for factor in (0.5, 2.0):
                default: Any = item.default
                changed = type(default)(default * factor)
                yield Variant(item.name, mark, f"× {factor:g}", _costs(item.name, changed), item.name in INERT)
    for factor in (0.5, 2.0):
        yield Variant("ple.window_ns", "R", f"× {factor:g}", _window(factor))
    for factor in (0.5, 2.0):
        yield Variant("lag_credit_scale", "A", f"× {factor:g}", _credit(factor))
    yield Variant("halt_poll", "A", "off", lambda host: replace(host, halt_poll=HaltPoll()))


def _costs(name: str, value: Any) -> Callable[[Host], Host]:
    return lambda host: replace(host, costs=replace(host.costs, **{name: value}))


def _window(factor: float) -> Callable[[Host], Host]:
    return lambda host: replace(host, ple=replace(host.ple, window_ns=int(host.ple.window_ns * factor)))


def _credit(factor: float) -> Callable[[Host], Host]:
    return lambda host: replace(host, lag_credit_scale=host.lag_credit_scale * factor)


def policies_at(vms: int) -> tuple[Policy, ...]:
    """Who is predicted: at 2 VMs all policies of the kernel and references, beyond that the series and its halves."""
    return (*KERNEL, *REFERENCES) if vms == 2 else HALVES
