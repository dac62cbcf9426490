"""`kvmgym compare`: what each policy does to guest throughput, with intervals, beside the published figures."""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kvmgym.cli.tables import MANY, Entrants, scenarios_of, tables
from kvmgym.files import write_atomically
from kvmgym.measure.compare import GROUPS, Learned, Run, Store, group_of, grouped, run_all
from kvmgym.measure.gains import Cell, cells
from kvmgym.measure.published import published_for
from kvmgym.measure.simulate import DURATION_NS, WARMUP_NS
from kvmgym.measure.warmup import compile_once
from kvmgym.params import Scenario
from kvmgym.params.errors import check, lookup
from kvmgym.policies import BY_NAME as POLICY
from kvmgym.policies import POLICIES, Policy, as_policy
from kvmgym.scenarios import BY_NAME as SCENARIO
from kvmgym.scenarios import SCENARIOS, SERIES_WORKLOADS, series
from kvmgym.workloads import BY_NAME as WORKLOADS

DEFAULT_POLICIES = ("none", "random", "legacy", "relaxed", "series-v2", "series-v3", "clairvoyant-bound")
TAGS = ("train", "validation", "test")
AGENTS = "kvmgym_agents"  # the package of the trained agents, which is above this one and asked for only with --agent


def add_compare(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "compare",
        parents=[common],
        help="run policies on scenarios and print the gain over a baseline",
        description="Run policies × scenarios × seeds and print each policy's gain in guest operations a second over "
        "the baseline (the geometric mean over the VMs of each VM's own), with 95 %% confidence intervals paired by "
        "seed. Finished runs are kept under the results "
        "folder: after an interruption the same command goes on. Without options: the series' three workloads, "
        "2 VMs of 16 vCPUs on 16 pCPUs.",
    )
    add = command.add_argument
    default = "(default: %(default)s)"
    add("--policies", metavar="NAMES", default=",".join(DEFAULT_POLICIES),
        help=f"comma-separated names and groups: all, {', '.join(GROUPS)} {default}")  # fmt: skip
    add("--agent", metavar="DIR", action="append", default=[],
        help="a trained agent's folder, beside the policies under the folder's name (repeatable)")  # fmt: skip
    add("--scenarios", metavar="NAMES", default="series",
        help="comma-separated names and groups: series (dbench, dedup and vips with --vms VMs), all, "
        f"{', '.join(TAGS)} {default}")  # fmt: skip
    add("--scenario", metavar="FILE", action="append", default=[], help="a scenario in TOML (repeatable)")
    add("--vms", metavar="LIST", default="2", help=f"VM counts of series, as 2,3,4 {default}")
    add("--seeds", metavar="N", type=int, default=10, help=f"seeds 0 to N-1 {default}")
    add("--baseline", metavar="NAME", default="legacy", help=f"policy to gain over {default}")
    add("--duration", metavar="S", type=float, default=DURATION_NS / 1e9, help=f"measured simulated seconds {default}")
    add("--warmup", metavar="S", type=float, default=WARMUP_NS / 1e9, help=f"simulated seconds before that {default}")
    add("--out", metavar="DIR", default="results/compare", help=f"results folder {default}")
    add("--details", action="store_true",
        help="print each VM's own gain, the worst VM's, and what lies behind the gains, also for more than "
        f"{MANY} policies")  # fmt: skip
    command.set_defaults(run=run)


def chosen_policies(names: str, baseline: str) -> list[Policy]:
    """The policies that the options name, the baseline among them. ValueError for an unknown name."""
    found: list[Policy] = []
    for name in _names(names):
        if name == "all" or name in GROUPS:
            found += [policy for policy in POLICIES if name in ("all", group_of(policy))]
        else:
            lookup("--policies", "policy", name, [*POLICY, "all", *GROUPS])
            found.append(POLICY[name])
    return _unique([*found, as_policy(baseline)], "--policies")


def chosen_agents(folders: Sequence[str], policies: Sequence[Policy]) -> list[Learned]:
    """The trained agents in the folders. ValueError for a folder without one, or a name that is taken."""
    if not folders:
        return []
    try:
        package = importlib.import_module(AGENTS)
    except ModuleNotFoundError as error:
        raise ValueError(f"--agent: needs {error.name}, which is not installed") from None
    taken = {policy.name for policy in policies}
    found: list[Learned] = []
    for folder in folders:
        agent = package.learned(folder)
        check(agent.name not in taken, "--agent", agent.name, "a folder whose name no policy and no other agent has")
        taken.add(agent.name)
        found.append(agent)
    return found


def chosen_scenarios(options: argparse.Namespace) -> list[Scenario]:
    """The scenarios that the options name. ValueError for an unknown name or a bad file."""
    found = [Scenario.from_toml(path, WORKLOADS) for path in options.scenario]
    if found and options.scenarios == "series":
        return _unique(found, "--scenario")
    for name in _names(options.scenarios):
        if name == "series":
            found += [series(workload, vms) for vms in _counts(options.vms) for workload in SERIES_WORKLOADS]
        elif name == "all" or name in TAGS:
            found += [scenario for scenario in SCENARIOS if name in ("all", scenario.tag)]
        else:
            lookup("--scenarios", "scenario", name, [*SCENARIO, "series", "all", *TAGS])
            found.append(SCENARIO[name])
    return _unique(found, "--scenarios")


def _unique(items: Iterable[Any], option: str) -> list[Any]:
    """The items without repetitions. ValueError when two different ones have the same name, or there are none."""
    found: dict[str, Any] = {}
    for item in items:
        check(found.setdefault(item.name, item) == item, option, item.name, "one scenario of that name")
    check(bool(found), option, "", "at least one name")
    return list(found.values())


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
    compiled = chosen_policies(options.policies, options.baseline)
    check(options.seeds >= 2, "--seeds", options.seeds, "at least 2, for an interval")
    check(options.duration > 0, "--duration", options.duration, "above 0")
    check(options.warmup >= 0, "--warmup", options.warmup, "0 or more")
    check(options.threads >= 1, "--threads", options.threads, "at least 1")
    scenarios = chosen_scenarios(options)
    policies: Entrants = [*compiled, *chosen_agents(options.agent, compiled)]
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
    for table in tables(found, options.baseline, policies, console.width, options.details):
        console.print(table)
    data = summary(found, options.baseline, policies, options.seeds, times)
    if store.problem:
        console.print(
            f"[red]results were not kept:[/red] {store.problem}\nThe table above is all there is of this run."
        )
        return {**data, "exit_status": 1}
    file = store.folder / "summary.json"
    write_atomically(file, json.dumps(data, indent=1) + "\n")
    written = [file, *_plot(found, store.folder / "gain.png", options.baseline, policies, console)]
    console.print(f"runs in {store.path}, " + ", ".join(map(str, written)))
    if len(policies) > MANY and not options.details:
        console.print(f"each VM's gain, operations/s, wasted CPU, exits and yields: in {file}, or with --details")
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


def summary(
    found: Sequence[Cell], baseline: str, policies: Entrants, seeds: int, times: tuple[int, int]
) -> dict[str, Any]:
    """Everything of a comparison as plain data, with the published figures in per cent."""
    published = {scenario: published_for(scenario) for scenario in scenarios_of(found)}
    return {
        "baseline": baseline,
        "seeds": seeds,
        "duration_ns": times[0],
        "warmup_ns": times[1],
        "policies": [{"policy": p.name, "year": p.year, "group": group_of(p), "source": p.source} for p in policies],
        "published": {
            scenario: {"v1_v2": figures.v1_v2, "v3": figures.v3_throughput}
            for scenario, figures in published.items()
            if figures
        },
        "cells": [cell.to_dict() for cell in found],
    }


def _plot(found: Sequence[Cell], path: Path, baseline: str, policies: Entrants, console: Console) -> list[Path]:
    """Gains with intervals, one group or panel a scenario; [] with a word when matplotlib is not installed."""
    try:
        from kvmgym.cli.plots import gain_bars, gain_dots
    except ImportError:
        console.print("no plot: matplotlib is not installed (pip install 'kvmgym[plots]')")
        return []
    if len(policies) > MANY:
        gain_dots(found, path, baseline, {policy.name: policy.privileged for policy in grouped(policies)})
    else:
        gain_bars(found, path, baseline)
    return [path]
