"""What the 2025-26 series published: gain over the unpatched kernel on a 16-core host, 16 vCPUs a VM (kernel.md 6).

Source: cover letters of "Semantics-aware directed yield for oversubscribed KVM", v1 and v2 (throughput) and v3 (Dbench:
throughput; Dedup and VIPS: lower latency; APICv off). No variance was published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Published:
    """Gains in per cent; v3_latency: v3 speaks of lower latency, whose throughput gain is 1 / (1 - x) - 1."""

    v1_v2: float
    v3: float
    v3_latency: bool = False

    @property
    def v3_throughput(self) -> float:
        """The v3 figure as a throughput gain in per cent."""
        return 100 / (1 - self.v3 / 100) - 100 if self.v3_latency else self.v3


PUBLISHED: Mapping[tuple[str, int], Published] = MappingProxyType(
    {
        ("dbench", 2): Published(14.4, 6.65),
        ("dbench", 3): Published(9.8, 4.80),
        ("dbench", 4): Published(6.7, 7.59),
        ("dedup", 2): Published(47.1, 8.87, True),
        ("dedup", 3): Published(28.1, 10.29, True),
        ("dedup", 4): Published(1.7, 15.60, True),
        ("vips", 2): Published(26.2, 10.23, True),
        ("vips", 3): Published(12.7, 6.63, True),
        ("vips", 4): Published(6.0, 4.50, True),
    }
)


def published_for(scenario: str) -> Published | None:
    """The published figures for a scenario named `<workload>-<n>vm`, or None."""
    workload, _, tail = scenario.rpartition("-")
    count = tail.removesuffix("vm")
    return PUBLISHED.get((workload, int(count))) if tail.endswith("vm") and count.isdigit() else None
