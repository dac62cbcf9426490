"""`kvmgym compare`: what each policy does to guest throughput, with intervals, beside the published figures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from kvmgym.compare import Cell, Run, Store, cells, run_all, write_atomically
from kvmgym.params import Scenario
from kvmgym.params.errors import check, lookup
from kvmgym.policies import BY_NAME as POLICIES
from kvmgym.policies import as_policy
from kvmgym.published import published_for
from kvmgym.scenarios import BY_NAME as SCENARIOS
from kvmgym.scenarios import SERIES_WORKLOADS, series
from kvmgym.simulate import DURATION_NS, WARMUP_NS
from kvmgym.warmup import compile_once
from kvmgym.workloads import BY_NAME as WORKLOADS

DEFAULT_POLICIES = ("none", "random", "legacy", "strict", "relaxed")


def add_compare(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "compare",
        parents=[common],
        help="run policies on scenarios and print the gain over a baseline",
        description="Run policies × scenarios × seeds and print each policy's gain in guest operations a second over "
        "the baseline, with 95 %% confidence intervals paired by seed. Finished runs are kept under the results "
        "folder: after an interruption the same command goes on. Without options: the series' three workloads, "
        "2 VMs of 16 vCPUs on 16 pCPUs.",
    )
    add = command.add_argument
    default = "(default: %(default)s)"
    add("--policies", metavar="NAMES", default=",".join(DEFAULT_POLICIES), help=f"comma-separated, or all {default}")
    add("--scenarios", metavar="NAMES", default="series",
        help=f"comma-separated; series: dbench, dedup and vips with --vms VMs {default}")  # fmt: skip
    add("--scenario", metavar="FILE", action="append", default=[], help="a scenario in TOML (repeatable)")
    add("--vms", metavar="LIST", default="2", help=f"VM counts of series, as 2,3,4 {default}")
    add("--seeds", metavar="N", type=int, default=10, help=f"seeds 0 to N-1 {default}")
    add("--baseline", metavar="NAME", default="legacy", help=f"policy to gain over {default}")
    add("--duration", metavar="S", type=float, default=DURATION_NS / 1e9, help=f"measured simulated seconds {default}")
    add("--warmup", metavar="S", type=float, default=WARMUP_NS / 1e9, help=f"simulated seconds before that {default}")
    add("--out", metavar="DIR", default="results/compare", help=f"results folder {default}")
    command.set_defaults(run=run)


def chosen_scenarios(options: argparse.Namespace) -> list[Scenario]:
    """The scenarios that the options name. ValueError for an unknown name or a bad file."""
    found = [Scenario.from_toml(path, WORKLOADS) for path in options.scenario]
    if found and options.scenarios == "series":
        return found
    for name in _names(options.scenarios):
        if name == "series":
            found += [series(workload, vms) for vms in _counts(options.vms) for workload in SERIES_WORKLOADS]
        else:
            lookup("--scenarios", "scenario", name, [*SCENARIOS, "series"])
            found.append(SCENARIOS[name])
    return found


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _counts(text: str) -> list[int]:
    found = []
    for part in _names(text):
        check(part.isdigit() and 1 <= int(part) <= 64, "--vms", part, "whole numbers from 1 to 64, as 2,3,4")
        found.append(int(part))
    return found


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Run the comparison, print the tables, write summary and plot; returns the summary."""
    names = list(POLICIES) if options.policies == "all" else _names(options.policies)
    if options.baseline not in names:
        names.append(options.baseline)
    policies = [as_policy(name) for name in names]
    check(options.seeds >= 2, "--seeds", options.seeds, "at least 2, for an interval")
    check(options.duration > 0, "--duration", options.duration, "above 0")
    check(options.warmup >= 0, "--warmup", options.warmup, "0 or more")
    check(options.threads >= 1, "--threads", options.threads, "at least 1")
    scenarios = chosen_scenarios(options)
    times = round(options.duration * 1e9), round(options.warmup * 1e9)
    runs = [
        Run(scenario, policy, seed, *times)
        for scenario in scenarios
        for seed in range(options.seeds)
        for policy in policies
    ]
    store = Store(Path(options.out))
    store.open()
    compile_once(console)
    rows = _run_with_bar(runs, store, options.threads, console)
    found = cells(rows, options.baseline)
    for table in tables(found, options.baseline, policies=names):
        console.print(table)
    data: dict[str, Any] = {
        "baseline": options.baseline,
        "seeds": options.seeds,
        "duration_ns": times[0],
        "warmup_ns": times[1],
        "cells": [cell.to_dict() for cell in found],
    }
    if store.problem:
        console.print(
            f"[red]results were not kept:[/red] {store.problem}\nThe table above is all there is of this run."
        )
        return {**data, "exit_status": 1}
    summary = store.folder / "summary.json"
    write_atomically(summary, json.dumps(data, indent=1) + "\n")
    written = [summary, *_plot(found, store.folder / "gain.png", options.baseline, console)]
    console.print(f"runs in {store.path}, " + ", ".join(map(str, written)))
    return data


def _run_with_bar(runs: Sequence[Run], store: Store, threads: int, console: Console) -> list[dict[str, Any]]:
    columns = (TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("runs", total=len(runs))
            return run_all(runs, store, threads, lambda done: bar.update(task, completed=done))
    except KeyboardInterrupt:
        kept = sum(run.key in store.found for run in runs)
        console.print(
            f"interrupted: {kept} of {len(runs)} runs are kept in {store.path}; the same command goes on there"
        )
        raise


def tables(found: Sequence[Cell], baseline: str, policies: Sequence[str]) -> list[Table]:
    """One table of gains (a row a scenario, a column a policy) and one of what lies behind them."""
    title = f"gain in guest operations/s over {baseline} in %, with 95 % intervals paired by seed"
    shown = [policy for policy in policies if policy != baseline]
    gains = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    gains.add_column("scenario", no_wrap=True)
    for policy in shown:
        gains.add_column(policy, justify="right")
    by_place = {(cell.scenario, cell.policy): cell for cell in found}
    scenarios = list(dict.fromkeys(cell.scenario for cell in found))
    published = any(published_for(name) for name in scenarios)
    if published:
        gains.add_column("published\nv1/v2, v3", justify="right", no_wrap=True)
    for scenario in scenarios:
        row = [_gain_text(by_place[scenario, policy]) for policy in shown]
        figures = published_for(scenario)
        if published:
            row.append(f"{figures.v1_v2:+.1f}, {figures.v3_throughput:+.1f}" if figures else "")
        gains.add_row(scenario, *row)
    behind = Table(title="what lies behind it", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("scenario", "policy", "ops/s", "wasted CPU", "PLE exits/s", "yields/s", "fairness"):
        text = column in ("scenario", "policy")
        behind.add_column(column, justify="left" if text else "right", no_wrap=text)
    for cell in found:
        behind.add_row(
            cell.scenario, cell.policy, f"{cell.ops_per_s.mean:,.0f}", f"{100 * cell.wasted_share:.1f} %",
            f"{cell.ple_exits_per_s:,.0f}", f"{cell.yields_ok_per_s:,.0f}", f"{cell.fairness:.3f}",
        )  # fmt: skip
    return [gains, behind]


def _gain_text(cell: Cell) -> str:
    return f"{100 * cell.gain.mean:+.1f} ± {100 * cell.gain.half_width:.1f}"


def _plot(found: Sequence[Cell], path: Path, baseline: str, console: Console) -> list[Path]:
    """Bars with intervals, one group a scenario; [] with a word when matplotlib is not installed."""
    try:
        from kvmgym.plots import gain_bars
    except ImportError:
        console.print("no plot: matplotlib is not installed (pip install 'kvmgym[plots]')")
        return []
    gain_bars(found, path, baseline)
    return [path]
