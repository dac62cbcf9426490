"""The report's two figures; needs matplotlib (the extra `plots`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from experiments.calibration import predictions, rankings
from kvmgym.scenarios import SERIES_WORKLOADS


def draw(data: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write gains.png and sensitivity.png."""
    return [
        _gains(data["predict"]["gains"], folder / "gains.png"),
        _taus(data["sensitivity"], folder / "sensitivity.png"),
    ]


def _gains(gains: Mapping[str, Any], path: Path) -> Path:
    figure, grid = plt.subplots(2, 3, figsize=(9, 5), sharex=True, layout="constrained")
    for row, version in zip(grid, predictions.VERSIONS, strict=True):
        for axes, workload in zip(row, SERIES_WORKLOADS, strict=True):
            figures = [predictions.published(workload, vms, version) for vms in predictions.VMS]
            axes.plot(predictions.VMS, figures, "k--", marker="_", label="published")
            for shift, (kind, heading) in zip((-0.06, 0.06), predictions.SETS.items(), strict=True):
                cells = [gains[kind][f"{workload}-{vms}vm"][version] for vms in predictions.VMS]
                axes.errorbar(
                    [vms + shift for vms in predictions.VMS], [cell["gain"] for cell in cells],
                    [cell["half_width"] for cell in cells], fmt="o-", capsize=2, markersize=4, label=heading,
                )  # fmt: skip
            axes.axhline(0, color="grey", linewidth=0.6)
            axes.set_title(f"{workload}, {version}", fontsize=9)
            axes.set_xticks(predictions.VMS)
    grid[0][0].legend(fontsize=7)
    figure.supylabel("gain over legacy [%]", fontsize=9)
    figure.supxlabel("VMs of 16 vCPUs on 16 pCPUs", fontsize=9)
    figure.savefig(path, dpi=90)
    plt.close(figure)
    return path


def _taus(data: Mapping[str, Any], path: Path) -> Path:
    found = [one for one in rankings.sensitivities(data) if not one["inert"]]
    names = [f"{one['constant']} {one['change']}".strip() for one in found]
    figure, axes = plt.subplots(figsize=(7, 0.22 * len(found) + 1), layout="constrained")
    for place, marker in zip(data["unchanged"], "osD", strict=True):
        axes.plot([one["tau"][place] for one in found], range(len(found)), marker, markersize=4, label=place)
    means = [sum(taus) / len(taus) for taus in zip(*rankings.noise(data).values(), strict=True)]
    axes.axvspan(min(means), max(means), color="0.9", label="noise of the mean")
    axes.set_yticks(range(len(found)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("Kendall's τ with the default ranking", fontsize=8)
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=90)
    plt.close(figure)
    return path
