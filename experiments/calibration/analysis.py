"""Write report.md from the JSON of the sweep, without simulating: `python -m experiments.calibration.analysis`.

--check only compares. Plots are drawn too when matplotlib is there.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.calibration.predictions import gain_text, misfits_section, predictions_section, ranking_section
from experiments.calibration.rankings import sensitivity_section
from kvmgym.cli.tables import markdown
from kvmgym.files import read_json, write_atomically

HERE = Path(__file__).parent
STAGES = ("fit", "predict", "sensitivity")
Data = Mapping[str, Any]


def load(folder: Path = HERE) -> dict[str, Any]:
    """The JSON of every stage, and what was frozen."""
    return {name: read_json(folder / f"{name}.json") for name in (*STAGES, "frozen")}


def report(data: Data) -> str:
    """The whole report."""
    parts = (_head(data), _fit(data), predictions_section(data["predict"]), misfits_section(data["predict"]),
             ranking_section(data["predict"]), sensitivity_section(data["sensitivity"]))  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _head(data: Data) -> str:
    rows = []
    for stage in STAGES:
        at, code = data[stage]["settings"], data[stage]["code"]
        seeds = f"{at['first_seed']}-{at['first_seed'] + at['seeds'] - 1}"
        seconds = f"{at['duration_ns'] / 1e9:g} after {at['warmup_ns'] / 1e9:g}"
        rows.append((stage, seeds, seconds, code["commit"], code["engine"]))
    table = markdown(("stage", "seeds", "simulated s", "commit", "engine digest"), rows)
    return f"""# Calibration: report

Made by `python -m experiments.calibration.analysis` from the JSON beside it; what was asked and how is in README.md.
Gains are in per cent of guest operations a second over legacy, with 95 % intervals paired by seed. A misfit is reported
as it is; nothing else was tuned, and the profiles of the package keep their own values.

{table}"""


def _fit(data: Data) -> str:
    parts = ["""## Fit: one point, two numbers a profile

Point: gain of series-v3 over legacy at 2 VMs, the published figure as throughput. Rule (rules.py, `choose`): legacy has
to waste at least what a gain of that size needs; among the points of the grid that come as near to the figure as the
seeds can tell, the one nearest to the profile's own values on the log scale. Two numbers on one point are
underdetermined: every tied point below would have served as well, so a frozen factor is not an estimate of the real
workload's rate. The figures of v1/v2 at 2 VMs are another point, which was not fitted."""]  # fmt: skip
    for workload, part in data["fit"]["workloads"].items():
        chosen, point = part["chosen"], part["chosen"]["point"]
        rates = data["frozen"]["rates_per_cpu_second"][workload]
        state = "lies within" if abs(chosen["misfit"]) <= chosen["tolerance"] else "MISSES the figure by more than"
        headroom = "" if chosen["headroom"] else " No point has the headroom."
        parts.append(
            f"""### {workload}: {part["target"]:+.2f} % published, legacy to waste {part["least_wasted"]} % or more

Frozen: shootdowns × {point["shootdowns"]:g} ({rates["shootdowns"]:g} a CPU-second), lock_ops × {point["lock_ops"]:g}
({rates["lock_ops"]:g}): gain {gain_text(point)}, misfit {chosen["misfit"]:+.1f}, which {state} the
tolerance of {chosen["tolerance"]:.1f}; {chosen["tied"]} of {len(part["grid"])} points tie.{headroom}
In each cell: gain ± half-width (wasted by legacy).

{_grid(part["grid"], point)}"""
        )
    return "\n\n".join(parts)


def _grid(grid: Sequence[Data], chosen: Data) -> str:
    across = sorted({point["lock_ops"] for point in grid})
    cells = {(point["shootdowns"], point["lock_ops"]): point for point in grid}
    rows = []
    for down in sorted({point["shootdowns"] for point in grid}):
        row = [f"shootdowns × {down:g}"]
        for lock_ops in across:
            text = f"{gain_text(cells[down, lock_ops])} ({cells[down, lock_ops]['wasted']:.0f})"
            row.append(f"**{text}**" if cells[down, lock_ops] == chosen else text)
        rows.append(row)
    return markdown(("", *(f"lock_ops × {factor:g}" for factor in across)), rows)


def main(arguments: Sequence[str]) -> int:
    """Write or compare the report; the exit status."""
    path, data = HERE / "report.md", load()
    text = report(data)
    if "--check" in arguments:
        same = path.exists() and path.read_text(encoding="utf-8") == text
        print(f"{path}: {'up to date' if same else 'out of date: python -m experiments.calibration.analysis'}")
        return 0 if same else 1
    write_atomically(path, text)
    print(path)
    try:
        from experiments.calibration import plots
    except ImportError:
        print("no plots: matplotlib is not installed (pip install 'kvmgym[plots]')")
        return 0
    for name in plots.draw(data, HERE):
        print(name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
