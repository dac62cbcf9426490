"""Simulate the calibration: `python -m experiments.calibration.sweep fit|predict|sensitivity|all`.

Each stage keeps its finished runs (results/calibration/runs.jsonl), so that the same command goes on after an
interruption, and writes a small JSON beside this file. `fit` also freezes the factors; they stay unless --refreeze.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments.calibration import effect, rules, variants
from experiments.calibration.files import percent, short, version, write_json
from kvmgym.files import read_json
from kvmgym.measure.gains import Cell, cells
from kvmgym.measure.published import PUBLISHED
from kvmgym.measure.store import Run, Store, run_all
from kvmgym.measure.warmup import compile_once
from kvmgym.params import Scenario
from kvmgym.policies import BY_NAME as POLICY
from kvmgym.policies import Policy
from kvmgym.scenarios import BY_NAME as SCENARIO
from kvmgym.scenarios import SERIES_WORKLOADS
from kvmgym.validate.series import HEADROOM
from kvmgym.workloads import FAMILIES

HERE = Path(__file__).parent
FROZEN = "frozen.json"
ONE = {"shootdowns": 1.0, "lock_ops": 1.0}
HARMLESS = ("kernbench-2vm", "ebizzy-2vm")
# First seed and number of seeds of each stage: no stage sees the worlds of another.
SEEDS: Mapping[str, tuple[int, int]] = {"fit": (0, 10), "predict": (100, 8), "sensitivity": (200, 3)}
Labelled = Sequence[tuple[Hashable, Scenario, Policy]]


@dataclass(frozen=True)
class Settings:
    """Of one stage."""

    stage: str
    first_seed: int
    seeds: int
    duration_ns: int
    warmup_ns: int

    def runs(self, scenario: Scenario, policy: Policy, offset: int = 0) -> list[Run]:
        """One run a seed."""
        first = self.first_seed + offset
        return [
            Run(scenario, policy, seed, self.duration_ns, self.warmup_ns) for seed in range(first, first + self.seeds)
        ]


class Sweep:
    """The runs of one stage: asks the store, simulates what is missing with a progress bar."""

    def __init__(self, settings: Settings, store: Store, threads: int, console: Console) -> None:
        self.settings, self.store, self.threads, self.console = settings, store, threads, console

    def rows(self, wanted: Labelled, offset: int = 0) -> dict[Hashable, list[dict[str, Any]]]:
        """The finished runs of each label."""
        labels, runs = [], []
        for label, scenario, policy in wanted:
            for run in self.settings.runs(scenario, policy, offset):
                labels.append(label)
                runs.append(run)
        columns = (TextColumn(self.settings.stage), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                   TimeRemainingColumn())  # fmt: skip
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task("runs", total=len(runs))
            found = run_all(_unique(runs), self.store, self.threads, lambda done: bar.update(task, completed=done))
        by_key = {row["key"]: row for row in found}
        grouped: dict[Hashable, list[dict[str, Any]]] = {}
        for label, run in zip(labels, runs, strict=True):
            grouped.setdefault(label, []).append(by_key[run.key])
        return grouped

    def cells(self, wanted: Labelled, offset: int = 0) -> dict[Hashable, dict[str, Cell]]:
        """By label the Cell of each policy, gains over the baseline."""
        found = self.rows(wanted, offset)
        return {label: {cell.policy: cell for cell in cells(rows, variants.BASELINE)} for label, rows in found.items()}


def _unique(runs: Sequence[Run]) -> list[Run]:
    return list({run.key: run for run in runs}.values())


def fit(sweep: Sweep, out: Path, refreeze: bool) -> dict[str, Any]:
    """The grid of each workload at 2 VMs, the chosen factors; freezes them. ValueError when others are frozen."""
    wanted = [
        ((workload, shootdowns, lock_ops), variants.with_factors(workload, 2, _factors(shootdowns, lock_ops)), policy)
        for workload in SERIES_WORKLOADS
        for shootdowns in rules.SHOOTDOWN_FACTORS[workload]
        for lock_ops in rules.LOCK_FACTORS
        for policy in variants.FITTED
    ]
    found = sweep.cells(wanted)
    data: dict[str, Any] = {}
    for workload in SERIES_WORKLOADS:
        points = [
            rules.Point(label[1], label[2], gain["gain"], gain["half_width"], short(100 * place["legacy"].wasted_share))
            for label, place in found.items() if isinstance(label, tuple) and label[0] == workload
            for gain in [percent(place["series-v3"])]
        ]  # fmt: skip
        target, least = PUBLISHED[workload, 2].v3_throughput, HEADROOM[workload]
        choice = rules.choose(points, target, least)
        data[workload] = {
            "target": short(target),
            "least_wasted": least,
            "grid": [asdict(point) for point in points],
            "chosen": {**asdict(choice), "misfit": short(choice.misfit)},
        }
    factors = {
        name: {key: part["chosen"]["point"][key] for key in ("shootdowns", "lock_ops")} for name, part in data.items()
    }
    _freeze(out / FROZEN, factors, refreeze)
    return {"workloads": data}


def _factors(shootdowns: float, lock_ops: float) -> dict[str, float]:
    return {"shootdowns": shootdowns, "lock_ops": lock_ops}


def _freeze(path: Path, factors: dict[str, dict[str, float]], refreeze: bool) -> None:
    if path.exists() and not refreeze:
        old = read_json(path)["factors"]
        if old != factors:
            raise ValueError(f"{path} = {old}: the fit now gives {factors}; --refreeze replaces what is frozen")
        return
    profiles = {family.profile.name: family.profile for family in FAMILIES}
    rates = {
        name: {key: short(getattr(profiles[name], key) * factor) for key, factor in chosen.items()}
        for name, chosen in factors.items()
    }
    first, seeds = SEEDS["fit"]
    data = {"factors": factors, "rates_per_cpu_second": rates, "seeds": [first, first + seeds - 1], "code": version()}
    write_json(path, data)


def predict(sweep: Sweep, out: Path) -> dict[str, Any]:
    """The series at 2, 3 and 4 VMs, the kernel's policies at 2, and the harmless ones; with the profiles' values and
    with the frozen ones."""
    sets = {"table": dict.fromkeys(SERIES_WORKLOADS, ONE), "frozen": frozen(out)["factors"]}
    wanted: list[tuple[Hashable, Scenario, Policy]] = [
        ((name, f"{workload}-{vms}vm"), variants.with_factors(workload, vms, factors[workload]), policy)
        for name, factors in sets.items()
        for workload in SERIES_WORKLOADS
        for vms in (2, 3, 4)
        for policy in variants.policies_at(vms)
    ]
    wanted += [(("table", name), SCENARIO[name], POLICY[policy]) for name in HARMLESS for policy in variants.PREDICTED]
    data: dict[str, Any] = {name: {} for name in sets}
    for label, place in sweep.cells(wanted).items():
        assert isinstance(label, tuple)
        data[label[0]][label[1]] = {policy: percent(cell) for policy, cell in place.items()}
    return {"gains": data, "effects": _effects(sweep, sets)}


def _effects(sweep: Sweep, sets: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for workload in SERIES_WORKLOADS:
        for vms in (2, 3, 4):
            scenario = variants.with_factors(workload, vms, sets["table"][workload])
            for policy in (*variants.FITTED, POLICY["series-v2"], variants.ACROSS):
                sweep.console.print(f"tracing {scenario.name} {policy.name}", end="\r")
                seed = sweep.settings.first_seed
                shares = effect.hint_effect(scenario, policy, seed, begin_ns=100_000_000, end_ns=200_000_000)
                found.setdefault(scenario.name, {})[policy.name] = {key: short(value) for key, value in shares.items()}
    return found


def sensitivity(sweep: Sweep, out: Path) -> dict[str, Any]:
    """Operations a second by seed, for each changed constant, scenario and policy; and twice with nothing changed, on
    these seeds and on as many others."""
    scenarios = [SCENARIO[f"{workload}-2vm"] for workload in SERIES_WORKLOADS]
    changed = list(variants.variants())
    wanted = [
        ((variant, scenario.name), scenario if variant is None else variant.scenario(scenario), policy)
        for variant in (None, *changed)
        for scenario in scenarios
        for policy in variants.RANKED
    ]
    found = sweep.rows(wanted)
    other = sweep.rows([item for item in wanted if item[0][0] is None], offset=100)

    def ops(rows: Mapping[Hashable, list[dict[str, Any]]], variant: variants.Variant | None) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for scenario in scenarios:
            for row in rows[variant, scenario.name]:
                table.setdefault(scenario.name, {}).setdefault(row["policy"], []).append(short(row["ops_per_s"]))
        return table

    return {
        "unchanged": ops(found, None),
        "other_seeds": ops(other, None),
        "variants": [
            {"constant": v.name, "mark": v.mark, "change": v.change, "inert": v.inert, "ops_per_s": ops(found, v)}
            for v in changed
        ],
    }


def frozen(out: Path = HERE) -> dict[str, Any]:
    """What was frozen. ValueError when nothing was."""
    path = out / FROZEN
    if not path.exists():
        raise ValueError(f"{path}: not there; run `python -m experiments.calibration.sweep fit` first")
    data: dict[str, Any] = read_json(path)
    return data


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.calibration.sweep", description=__doc__)
    parser.add_argument("stage", choices=(*SEEDS, "all"))
    parser.add_argument("--seeds", type=int, help="seeds of the stage (default: fit 10, predict 8, sensitivity 3)")
    parser.add_argument("--duration", type=float, default=0.5, help="measured simulated seconds (default: %(default)s)")
    parser.add_argument(
        "--warmup", type=float, default=0.1, help="simulated seconds before that (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument(
        "--runs", type=Path, default=Path("results/calibration"), help="finished runs (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=HERE, help="where the JSON goes (default: beside this file)")
    parser.add_argument("--refreeze", action="store_true", help="replace frozen factors by what the fit gives now")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stage or all of them; the exit status."""
    options, console = _options(arguments), Console()
    store = Store(options.runs)
    store.open()
    if store.bad:
        console.print(store.left_out(), markup=False, highlight=False, soft_wrap=True)
    compile_once(console)
    code = version()
    for stage in SEEDS if options.stage == "all" else (options.stage,):
        first, seeds = SEEDS[stage]
        times = round(options.duration * 1e9), round(options.warmup * 1e9)
        settings = Settings(stage, first, options.seeds or seeds, *times)
        sweep = Sweep(settings, store, options.threads, console)
        steps = {
            "fit": lambda sweep=sweep: fit(sweep, options.out, options.refreeze),
            "predict": lambda sweep=sweep: predict(sweep, options.out),
            "sensitivity": lambda sweep=sweep: sensitivity(sweep, options.out),
        }
        try:
            data = steps[stage]()
        except ValueError as error:
            console.print(f"[red]{error}[/red]")
            return 1
        write_json(options.out / f"{stage}.json", {"settings": asdict(settings), "code": code, **data})
        console.print(f"{stage}: {options.out / f'{stage}.json'}")
    console.print("now: python -m experiments.calibration.analysis")
    return 0


if __name__ == "__main__":
    sys.exit(main())
