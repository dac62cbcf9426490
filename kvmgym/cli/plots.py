"""Figures; needs matplotlib (the extra `plots`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from kvmgym.files import write_atomically
from kvmgym.measure.gains import Cell
from kvmgym.measure.published import published_for
from kvmgym.measure.stats import Gain

CAPTION = "95 % intervals, paired by seed; small marks: each VM\nlines: published (dotted v1/v2, dashed v3)"


def gain_bars(found: Sequence[Cell], path: Path, baseline: str) -> None:
    """Write a PNG of each policy's gain over the baseline with its interval; a group a scenario, published as marks."""
    scenarios = list(dict.fromkeys(cell.scenario for cell in found))
    policies = [name for name in dict.fromkeys(cell.policy for cell in found) if name != baseline]
    by_place = {(cell.scenario, cell.policy): cell for cell in found}
    figure, axes = plt.subplots(figsize=(max(6.0, 2.2 * len(scenarios)), 4.0), layout="constrained")
    width = 0.8 / max(len(policies), 1)
    places = np.arange(len(scenarios))
    for column, policy in enumerate(policies):
        chosen = [by_place[scenario, policy] for scenario in scenarios]
        middles = places + (column + 0.5) * width - 0.4
        heights, errors = _drawn([cell.gain for cell in chosen])
        axes.bar(middles, heights, width, yerr=errors, capsize=2, label=policy)
        for middle, cell in zip(middles, chosen, strict=True):
            own = _own(cell)
            axes.plot([middle] * len(own), own, "_", color="black", ms=5)
            if cell.gain is None:
                axes.text(middle, 0, f" {cell.host.why}", rotation=90, ha="center", va="bottom", fontsize=6)
    for place, scenario in enumerate(scenarios):
        figures = published_for(scenario)
        if figures:
            ends = [place - 0.45, place + 0.45]
            axes.plot(ends, [figures.v1_v2] * 2, ":", color="black", linewidth=1)
            axes.plot(ends, [figures.v3_throughput] * 2, "--", color="black", linewidth=1)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(places, scenarios)
    axes.set_ylabel(f"gain in operations/s over {baseline} [%]")
    axes.set_title(CAPTION, fontsize=9)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(ncols=3, fontsize=8, frameon=False)
    _save(figure, path)


def gain_dots(found: Sequence[Cell], path: Path, baseline: str, policies: Mapping[str, bool]) -> None:
    """The same for many policies: a panel a scenario, a row a policy. policies: from the top, whether privileged (a
    hollow mark)."""
    scenarios = list(dict.fromkeys(cell.scenario for cell in found))
    by_place = {(cell.scenario, cell.policy): cell for cell in found}
    columns = min(3, len(scenarios))
    lines = -(-len(scenarios) // columns)
    size = (2.0 + 3.0 * columns, lines * (1.0 + 0.2 * len(policies)))
    figure, grid = plt.subplots(lines, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axes in grid.flat[len(scenarios) :]:
        axes.axis("off")
    for axes, scenario in zip(grid.flat, scenarios, strict=False):
        for place, (policy, privileged) in enumerate(policies.items()):
            cell = by_place[scenario, policy]
            fill = "white" if privileged else "tab:blue"
            means, errors = _drawn([cell.gain])
            axes.errorbar(means, [place], xerr=errors, fmt="o", color="tab:blue", mfc=fill, ms=4, capsize=2)
            own = _own(cell)
            axes.plot(own, [place] * len(own), "|", color="black", ms=4)
            if cell.gain is None:
                axes.text(0, place, f" {cell.host.why}", va="center", fontsize=6)
        figures = published_for(scenario)
        if figures:
            axes.axvline(figures.v1_v2, linestyle=":", color="black", linewidth=1)
            axes.axvline(figures.v3_throughput, linestyle="--", color="black", linewidth=1)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_title(scenario, fontsize=9)
    grid[0, 0].invert_yaxis()  # shared by all panels
    for axes in grid[:, 0]:
        axes.set_yticks(range(len(policies)), list(policies), fontsize=8)
    figure.supxlabel(f"gain in operations/s over {baseline} [%]", fontsize=9)
    figure.suptitle(f"{CAPTION}; hollow: privileged", fontsize=9)
    _save(figure, path)


def _drawn(gains: Sequence[Gain | None]) -> tuple[list[float], list[list[float]]]:
    """Means in per cent, and the lengths of the intervals below and above them; nothing is drawn for None."""
    means = [100 * gain.mean if gain else np.nan for gain in gains]
    below = [100 * (gain.mean - gain.low) if gain else 0.0 for gain in gains]
    above = [100 * (gain.high - gain.mean) if gain else 0.0 for gain in gains]
    return means, [below, above]


def _own(cell: Cell) -> list[float]:
    """The gains of the VMs that have one, in per cent; [] for a single VM."""
    return [100 * vm.gain.mean for vm in cell.host.vms if vm.gain] if len(cell.host.vms) > 1 else []


def _save(figure: Figure, path: Path) -> None:
    """Write the PNG as a whole."""
    content = BytesIO()
    figure.savefig(content, dpi=150, format="png")
    write_atomically(path, content.getvalue())
    plt.close(figure)
