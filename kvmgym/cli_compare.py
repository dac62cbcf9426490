"""`kvmgym compare`: what each policy does to guest throughput, with intervals, beside the published figures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from kvmgym.compare import GROUPS, Cell, Run, Store, cells, group_of, grouped, run_all, write_atomically
from kvmgym.params import Scenario
from kvmgym.params.errors import check, lookup
from kvmgym.policies import BY_NAME as POLICY
from kvmgym.policies import POLICIES, Policy, as_policy
from kvmgym.published import published_for
from kvmgym.scenarios import BY_NAME as SCENARIO
from kvmgym.scenarios import SCENARIOS, SERIES_WORKLOADS, series
from kvmgym.simulate import DURATION_NS, WARMUP_NS
from kvmgym.warmup import compile_once
from kvmgym.workloads import BY_NAME as WORKLOADS

DEFAULT_POLICIES = ("none", "random", "legacy", "relaxed", "series-v2", "series-v3", "clairvoyant-bound")
TAGS = ("train", "validation", "test")
MANY = 6  # more policies than this are rows, not columns

Places = Mapping[tuple[str, str], Cell]  # by scenario and policy


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
    add("--policies", metavar="NAMES", default=",".join(DEFAULT_POLICIES),
        help=f"comma-separated names and groups: all, {', '.join(GROUPS)} {default}")  # fmt: skip
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
    add("--details", action="store_true", help=f"print what lies behind the gains also for more than {MANY} policies")
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
    policies = chosen_policies(options.policies, options.baseline)
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
        console.print(f"operations/s, wasted CPU, exits and yields are in {file}, and printed with --details")
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
    found: Sequence[Cell], baseline: str, policies: Sequence[Policy], seeds: int, times: tuple[int, int]
) -> dict[str, Any]:
    """Everything of a comparison as plain data, with the published figures in per cent."""
    published = {scenario: published_for(scenario) for scenario in _scenarios(found)}
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


def _scenarios(found: Iterable[Cell]) -> list[str]:
    return list(dict.fromkeys(cell.scenario for cell in found))


def tables(
    found: Sequence[Cell], baseline: str, policies: Sequence[Policy], width: int, details: bool = False
) -> list[Table]:
    """The gains, for many policies with a row a policy, and what lies behind them (for many policies: with details)."""
    places = {(cell.scenario, cell.policy): cell for cell in found}
    title = f"gain in guest operations/s over {baseline} in %, with 95 % intervals paired by seed"
    if len(policies) <= MANY:
        return [_by_scenario(title, places, baseline, grouped(policies)), _behind(found)]
    gains = _by_policy(title, places, baseline, grouped(policies), width)
    return [*gains, _behind(found)] if details else gains


def _table(title: str | None) -> Table:
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)


def _by_scenario(title: str, places: Places, baseline: str, policies: Sequence[Policy]) -> Table:
    """A row a scenario, a column a policy."""
    table = _table(title)
    table.add_column("scenario", no_wrap=True)
    shown = [policy for policy in policies if policy.name != baseline]
    for policy in shown:
        mark = f"\n{GROUPS['bounds']}" if policy.privileged else ""
        table.add_column(policy.name + mark, justify="right")
    scenarios = _scenarios(places.values())
    published = any(map(published_for, scenarios))
    if published:
        table.add_column("published\nv1/v2, v3", justify="right", no_wrap=True)
    for scenario in scenarios:
        gains = [_gain_text(places[scenario, policy.name]) for policy in shown]
        table.add_row(scenario, *gains, *([_published_text(scenario)] if published else []))
    return table


def _by_policy(title: str, places: Places, baseline: str, policies: Sequence[Policy], width: int) -> list[Table]:
    """A row a policy, grouped, a column a scenario with the published figures in its heading; as many tables as the
    width needs. The baseline's row has its operations a second."""

    def text(scenario: str, policy: str) -> str:
        cell = places[scenario, policy]
        return f"{cell.ops_per_s.mean:,.0f}/s" if policy == baseline else _gain_text(cell)

    scenarios, names = _scenarios(places.values()), [policy.name for policy in policies]
    widest = max(len(line) for place in places for line in (text(*place), place[0], _published_text(place[0])))
    first = 2 + max(map(len, [*names, *GROUPS.values()])) + len("   year")
    at_once = max(1, (width - first) // (3 + widest))
    parts = -(-len(scenarios) // at_once)
    size = -(-len(scenarios) // parts)
    if any(map(published_for, scenarios)):
        title += "\nbelow each scenario: published gain of v1/v2, of v3"
    found: list[Table] = []
    for begin in range(0, len(scenarios), size):
        part = scenarios[begin : begin + size]
        table = _table(None if found else title)
        table.add_column("policy", no_wrap=True)
        table.add_column("year", no_wrap=True)
        for scenario in part:
            table.add_column(f"{scenario}\n{_published_text(scenario)}".rstrip(), justify="right", no_wrap=True)
        _add_groups(table, policies, lambda policy, part=part: [text(scenario, policy) for scenario in part])  # type: ignore[misc]
        found.append(table)
    return found


def _add_groups(table: Table, policies: Sequence[Policy], texts: Callable[[str], list[str]]) -> None:
    """The rows of the policies under their groups' headings."""
    for group, heading in GROUPS.items():
        members = [policy for policy in policies if group_of(policy) == group]
        if members:
            table.add_row(heading, style="bold")
        for policy in members:
            table.add_row(f"  {policy.name}", policy.year, *texts(policy.name))
        table.add_section()


def _behind(found: Sequence[Cell]) -> Table:
    """A row a scenario and policy: means over the seeds."""
    table = _table("what lies behind it")
    for column in ("scenario", "policy", "ops/s", "wasted CPU", "PLE exits/s", "yields/s", "fairness"):
        text = column in ("scenario", "policy")
        table.add_column(column, justify="left" if text else "right", no_wrap=text)
    for cell in found:
        table.add_row(
            cell.scenario, cell.policy, f"{cell.ops_per_s.mean:,.0f}", f"{100 * cell.wasted_share:.1f} %",
            f"{cell.ple_exits_per_s:,.0f}", f"{cell.yields_ok_per_s:,.0f}", f"{cell.fairness:.3f}",
        )  # fmt: skip
    return table


def _gain_text(cell: Cell) -> str:
    return f"{100 * cell.gain.mean:+.1f} ± {100 * cell.gain.half_width:.1f}"


def _published_text(scenario: str) -> str:
    figures = published_for(scenario)
    return f"{figures.v1_v2:+.1f}, {figures.v3_throughput:+.1f}" if figures else ""


def _plot(found: Sequence[Cell], path: Path, baseline: str, policies: Sequence[Policy], console: Console) -> list[Path]:
    """Gains with intervals, one group or panel a scenario; [] with a word when matplotlib is not installed."""
    try:
        from kvmgym.plots import gain_bars, gain_dots
    except ImportError:
        console.print("no plot: matplotlib is not installed (pip install 'kvmgym[plots]')")
        return []
    if len(policies) > MANY:
        gain_dots(found, path, baseline, {policy.name: policy.privileged for policy in grouped(policies)})
    else:
        gain_bars(found, path, baseline)
    return [path]
