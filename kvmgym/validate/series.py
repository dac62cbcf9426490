"""V9: the published series on its own scenario, in bands and signs; and the headroom that any gain needs.

A gain is held to a band at 2 VMs and to its sign at 3 and 4: no variance was published, and the versions' figures
differ. The bands' lower ends are v3's figures, the upper ends v1's (docs/model.md). What misses is never tuned away: it
fails until its cause is known and written into MISFITS, and from then on it is shown as a misfit with that cause.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from kvmgym.measure.published import PUBLISHED
from kvmgym.measure.stats import Gain, Interval, interval, paired_vm_gain
from kvmgym.scenarios import SERIES_WORKLOADS, series
from kvmgym.validate.lab import MS, Lab
from kvmgym.validate.rows import Row, documented

BASELINE, VERSIONS = "legacy", ("series-v2", "series-v3")
VMS = (2, 3, 4)
LEVEL = 0.95  # of the intervals, as `kvmgym compare` has them
SEEDS: Mapping[str, tuple[int, int]] = MappingProxyType({"dedup": (20, 8)})  # its runs differ most; else (10, 4)
WIDEST, WIDEST_QUICK = 3.0, 15.0  # largest half-width of a row, in per cent of the baseline

Key = tuple[str, str, int]  # a version of the series (BASELINE for headroom), workload, VMs
Band = tuple[float, float]

GAINS: Mapping[tuple[str, int], Band] = MappingProxyType(
    {("dbench", 2): (6, 15), ("dedup", 2): (8, 50), ("vips", 2): (10, 27)}
)
SIGN: Band = (0, math.inf)  # at 3 and 4 VMs
# Per cent of the host's time that the baseline has to waste at 2 VMs, or nobody could gain the least of GAINS.
HEADROOM: Mapping[str, float] = MappingProxyType({"dbench": 6, "dedup": 9, "vips": 10})

# Why a row misses its band. A row that is here and comes to lie in its band fails until it is removed.
_PASSED_OVER = (
    "a hint for another pCPU is passed over while the target's group is ineligible there, and the series' scheduler "
    "half acts on the yielder's pCPU only, where at most 9 % of the targets are; with a credit that reaches other "
    "pCPUs without a bound, a policy that sees the guest gains 8 % here (experiments/calibration)"
)
_SPINNERS_FIRST = (
    "round 1 takes vCPUs preempted in ring 0, which are mostly other spinners; the receivers of a shootdown run user "
    "code, and the tracked slot remembers only the last of them: random, which ignores the ring, gains {} %"
)
_FREE_CREDIT = (
    "the credit of 0.25 slices for each other queued entity is too free with 4 VMs (dedup -5.2 ± 2.7 %; with 0.05 "
    "+0.2 ± 3.6 %); the scale is ours, that of v3 was not public"
)
MISFITS: Mapping[Key, str] = MappingProxyType(
    {
        ("series-v2", "dbench", 2): _PASSED_OVER,
        ("series-v3", "dbench", 2): _PASSED_OVER,
        ("series-v2", "dedup", 2): _SPINNERS_FIRST.format(14),
        ("series-v3", "dedup", 2): _SPINNERS_FIRST.format(14),
        ("series-v2", "vips", 2): _SPINNERS_FIRST.format(6.5),
        ("series-v3", "vips", 2): _SPINNERS_FIRST.format(6.5),
        ("series-v3", "dedup", 4): _FREE_CREDIT,
        ("series-v3", "vips", 4): _FREE_CREDIT,
    }
)


def percent(found: Interval | Gain) -> Interval | Gain:
    """The interval in per cent."""
    if isinstance(found, Gain):
        return Gain(100 * found.mean, 100 * found.low, 100 * found.high, found.n)
    return Interval(100 * found.mean, 100 * found.half_width, found.n)


def words(band: Band) -> str:
    """A band as text."""
    low, high = band
    return f"{low:g} or more" if math.isinf(high) else f"{low:+g} … {high:+g}"


def judged(
    quantity: str, expected: float, found: Interval | Gain, band: Band, quick: bool = False, cause: str = ""
) -> Row:
    """A row in per cent that has to lie in a band, or to be a misfit of known cause.

    It passes if its mean lies in the band and its interval is narrow (quick: if its interval meets the band). With a
    cause it is a misfit until its whole interval lies in the band, and then fails as one that is none any longer.
    """
    low, high = band
    widest = WIDEST_QUICK if quick else WIDEST
    meets = found.low <= high and low <= found.high if quick else low <= found.mean <= high
    rule = f"{'quick: interval meets' if quick else 'mean in'} {words(band)}; half-width ≤ {widest:g}"
    narrow = found.half_width <= widest
    row = Row(quantity, expected, found.mean, found.half_width, rule, meets and narrow, level=LEVEL)
    return documented(row, cause, clear=low <= found.low and found.high <= high)


def check_series(lab: Lab, misfits: Mapping[Key, str] = MISFITS) -> list[Row]:
    """V9: gain of the series over legacy, paired by seed, and what legacy wastes; in per cent."""
    rows: list[Row] = []
    for vms in lab.each(lab.pick(VMS, VMS[:1])):
        for workload in lab.each(SERIES_WORKLOADS):
            scenario, rates, wasted = series(workload, vms), {}, {}
            for policy in lab.each((BASELINE, *VERSIONS)):
                found = lab.worlds(
                    scenario,
                    policy,
                    lambda result: ([vm.ops_per_s for vm in result.vms], result.wasted_share),
                    worlds=lab.pick(*SEEDS.get(workload, (10, 4))),
                    duration_ns=lab.pick(1000 * MS, 250 * MS),
                    warmup_ns=lab.pick(200 * MS, 100 * MS),
                )
                rates[policy], wasted[policy] = zip(*found, strict=True)
            where = f"{workload}, {vms} VMs"
            if vms == 2:
                least = HEADROOM[workload]
                share = percent(interval(wasted[BASELINE], LEVEL))
                cause = misfits.get((BASELINE, workload, vms), "")
                rows.append(judged(f"wasted by {BASELINE}, {where}", least, share, (least, math.inf), lab.quick, cause))
            for policy in VERSIONS:
                figures = PUBLISHED[workload, vms]
                expected = round(figures.v3_throughput if policy == "series-v3" else figures.v1_v2, 2)
                gain = percent(paired_vm_gain(rates[policy], rates[BASELINE], LEVEL))
                band = GAINS.get((workload, vms), SIGN)
                cause = misfits.get((policy, workload, vms), "")
                rows.append(judged(f"gain of {policy}, {where}", expected, gain, band, lab.quick, cause))
    return rows
