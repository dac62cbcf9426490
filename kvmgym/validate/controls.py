"""V10, V11: where no policy can gain anything, none does; and no policy takes CPU time from an equal VM."""

from __future__ import annotations

from dataclasses import replace

from kvmgym.metrics import Result
from kvmgym.params import Compute, Dist, Host, Kick, Lock, LockSpec, Ops, Scenario, Shootdown, Unlock
from kvmgym.policies import POLICIES
from kvmgym.scenarios import equal_vms as unpinned_vms
from kvmgym.stats import paired_gain
from kvmgym.validate.lab import MS, US, Lab, S, equal_vms, loop
from kvmgym.validate.rows import LEVEL, Row, banded, bounded

BASELINE = "legacy"
GAIN = 0.005
KERNEL_POLICIES = tuple(policy.name for policy in POLICIES if policy.year != "-")


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
    """V10: gain over legacy, paired by seed, where nobody waits for a pCPU or nobody spins."""
    rows = []
    for name, scenario in lab.each(controls()):
        rates = {}
        for policy in lab.each([policy.name for policy in POLICIES]):
            rates[policy] = lab.worlds(
                scenario,
                policy,
                lambda result: result.ops_per_s,
                worlds=lab.pick(8, 4),
                duration_ns=lab.pick(1000 * MS, 200 * MS),
                warmup_ns=50 * MS,
            )
        for policy, found in rates.items():
            if policy != BASELINE:
                gain = paired_gain(found, rates[BASELINE], LEVEL)
                rows.append(banded(f"gain of {policy}, {name}", 0.0, gain, -GAIN, GAIN, "interval within ±0.5 %"))
    return rows


def contenders(vms: int, pcpus: int) -> Scenario:
    """Equal VMs that always run, with one vCPU pinned to each pCPU, and spin for locks and for shootdowns."""
    locked = (Lock("lock"), Compute(Dist.exponential(2 * US), kernel_share=1.0), Unlock("lock"))
    work = (Compute(Dist.exponential(200 * US), kernel_share=0.3), *locked, Kick("random"), Ops())
    program = loop(*work * 5, Shootdown("others"))
    return equal_vms("contenders", Host(pcpus=pcpus, start="random"), program, vms, (LockSpec("lock", kind="fifo"),))


def check_fairness(lab: Lab) -> list[Row]:
    """V11: each VM's share of the pCPUs over 10 s; the row shows the share that is farthest from 1/k."""
    rows = []
    pcpus = lab.pick(16, 4)
    for vms in lab.each((2, 3, 4)):
        for policy in lab.each(KERNEL_POLICIES):
            shares = lab.worlds(contenders(vms, pcpus), policy, _shares, worlds=2, duration_ns=10 * S)
            worst = max((share for world in shares for share in world), key=lambda share: abs(share - 1 / vms))
            rows.append(bounded(f"share of a VM, k={vms}, {policy}", 1 / vms, worst, 0.01))
    return rows


def _shares(result: Result) -> list[float]:
    whole = result.duration_ns * len(result.pcpus)
    return [vm.total("run_ns") / whole for vm in result.vms]
