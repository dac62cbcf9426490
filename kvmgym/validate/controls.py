"""V10, V11: where no policy can gain anything, none does; and no policy takes CPU time from an equal VM.

V10 runs every policy and shows the one that is farthest from no gain; V11 runs those with a year, which are a kernel's
or were offered to be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from kvmgym.measure.metrics import Result
from kvmgym.measure.stats import Gain, Interval, paired_vm_gain
from kvmgym.params import Compute, Dist, Host, Kick, Lock, LockSpec, Ops, Scenario, Shootdown, Unlock
from kvmgym.policies import POLICIES
from kvmgym.scenarios import equal_vms as unpinned_vms
from kvmgym.validate.lab import MS, US, Lab, S, equal_vms, loop
from kvmgym.validate.rows import LEVEL, Row, banded, bounded, documented

BASELINE = "legacy"
GAIN = 0.005
SHARE = 0.01
KERNEL_POLICIES = tuple(policy.name for policy in POLICIES if policy.year != "-")


# Why a policy is unfair in V11, by policy and number of VMs. Whoever comes to be fair within half of SHARE is removed.
MISFITS: Mapping[tuple[str, int], str] = MappingProxyType({})


def controls() -> tuple[tuple[str, Scenario], ...]:
    """The three negative controls with what each is called."""
    alone = unpinned_vms("alone", "dbench", 16, 1, 16)
    pinned = replace(alone, vms=tuple(replace(vm, pin=tuple(range(16))) for vm in alone.vms))
    return (
        ("k=1, pinned", pinned),
        ("compute only, 3 VMs", unpinned_vms("computing", "compute", 16, 3, 16)),
        ("a pCPU for each vCPU", unpinned_vms("roomy", "dbench", 16, 2, 8)),
    )


def check_controls(lab: Lab) -> list[Row]:
    """V10: gain over legacy, paired by seed, where nobody waits for a pCPU or nobody spins; a row a control, with the
    policy whose interval reaches farthest from 0."""
    rows = []
    for name, scenario in lab.each(controls()):
        rates = {}
        for policy in lab.each([policy.name for policy in POLICIES]):
            rates[policy] = lab.worlds(
                scenario,
                policy,
                lambda result: [vm.ops_per_s for vm in result.vms],
                worlds=lab.pick(8, 4),
                duration_ns=lab.pick(300 * MS, 50 * MS),
                warmup_ns=50 * MS,
            )
        base = rates.pop(BASELINE)
        rows.append(farthest(name, {policy: paired_vm_gain(found, base, LEVEL) for policy, found in rates.items()}))
    return rows


def farthest(name: str, gains: Mapping[str, Interval | Gain]) -> Row:
    """The row of the policy whose interval reaches farthest from 0; all of them lie in the band if it does."""
    policy, gain = max(gains.items(), key=lambda item: max(-item[1].low, item[1].high))
    what = f"gain, {name}, farthest of {len(gains)} policies ({policy})"
    return banded(what, 0.0, gain, -GAIN, GAIN, "interval within ±0.5 %")


def contenders(vms: int, pcpus: int) -> Scenario:
    """Equal VMs that always run, with one vCPU pinned to each pCPU, and spin for locks and for shootdowns."""
    locked = (Lock("lock"), Compute(Dist.exponential(2 * US), kernel_share=1.0), Unlock("lock"))
    work = (Compute(Dist.exponential(200 * US), kernel_share=0.3), *locked, Kick("random"), Ops())
    program = loop(*work * 5, Shootdown("others"))
    return equal_vms("contenders", Host(pcpus=pcpus, start="random"), program, vms, (LockSpec("lock", kind="fifo"),))


def check_fairness(lab: Lab, misfits: Mapping[tuple[str, int], str] = MISFITS) -> list[Row]:
    """V11: each VM's share of the pCPUs over 10 s; the row shows the share that is farthest from 1/k."""
    rows = []
    pcpus = lab.pick(8, 4)
    for vms in lab.each((2, 3, 4)):
        for policy in lab.each(KERNEL_POLICIES):
            scenario = contenders(vms, pcpus)
            shares = lab.worlds(scenario, policy, _shares, worlds=lab.pick(2, 1), duration_ns=lab.pick(10 * S, 5 * S))
            worst = max((share for world in shares for share in world), key=lambda share: abs(share - 1 / vms))
            rows.append(fair_share(policy, vms, worst, misfits.get((policy, vms), "")))
    return rows


def fair_share(policy: str, vms: int, worst: float, cause: str) -> Row:
    """The row of a policy's worst share."""
    row = bounded(f"share of a VM, k={vms}, {policy}", 1 / vms, worst, SHARE)
    return documented(row, cause, clear=abs(worst * vms - 1) <= SHARE / 2)


def _shares(result: Result) -> list[float]:
    whole = result.duration_ns * len(result.pcpus)
    return [vm.total("run_ns") / whole for vm in result.vms]
