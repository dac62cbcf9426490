"""`kvmgym compare`: what each policy does to guest throughput, with intervals, beside the published figures."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kvmgym.cli.arguments import (
    MOST_SEEDS,
    input_path,
    names,
    output_folder,
    seconds,
    whole,
    whole_numbers,
)
from kvmgym.cli.tables import MANY, scenarios_of, tables
from kvmgym.files import to_json, write_atomically
from kvmgym.measure.agents import learned
from kvmgym.measure.bounds import MEMBERS, NAME, Shown, best_bounds, with_bound
from kvmgym.measure.compare import GROUPS, Learned, grouped
from kvmgym.measure.gains import Cell, cells, plain_gain
from kvmgym.measure.provenance import made_by
from kvmgym.measure.published import published_for
from kvmgym.measure.simulate import DURATION_NS, WARMUP_NS
from kvmgym.measure.store import Run, Store, run_all
from kvmgym.measure.warmup import compile_once
from kvmgym.params import KERNELS, Scenario
from kvmgym.params.errors import check, lookup, shown
from kvmgym.policies import BY_NAME as POLICY
from kvmgym.policies import POLICIES, Policy
from kvmgym.scenarios import BY_NAME as SCENARIO
from kvmgym.scenarios import SCENARIOS, SERIES_WORKLOADS, series
from kvmgym.workloads import BY_NAME as WORKLOADS

DEFAULT_POLICIES = ("none", "random", "legacy", "relaxed", "series-v2", "series-v3", "bound")
Entrants = Sequence[Policy | Learned]
TAGS = ("train", "validation", "test")
FORMER_BOUND = "clairvoyant-bound"  # what `bound` was called before
SERIES_VMS = (2,)  # the VM counts of `series` without --vms
MOST_RUNS = 1_000_000  # of one comparison; they are all made before the first one begins


def add_compare(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "compare",
        parents=[common],
        help="run policies on scenarios and print the gain over a baseline",
        description="Run policies × scenarios × seeds and print each policy's gain in guest operations a second over "
        "the baseline (the geometric mean over the VMs of each VM's own), with 95 % confidence intervals paired by "
        "seed. Finished runs are kept under the results "
        "folder: after an interruption the same command goes on. Without options: the series' three workloads, "
        "2 VMs of 16 vCPUs on 16 pCPUs.",
    )
    add = command.add_argument
    default = "(default: %(default)s)"
    add("--kernel", metavar="NAMES",
        help="comma-separated kernels for the hosts, or all (kvmgym list kernels): a table each, without policies "
        "whose scheduler half a kernel has not (default: the scenarios' own)")  # fmt: skip
    add("--policies", metavar="NAMES", default=",".join(DEFAULT_POLICIES),
        help=f"comma-separated names and groups: all, {', '.join(GROUPS)}; {NAME} is the best of "
        f"{', '.join(MEMBERS)} on each scenario "
        f"(default: {', '.join(DEFAULT_POLICIES)})")  # fmt: skip
    add("--agent", metavar="DIR", action="append", default=[], type=input_path,
        help="a trained agent's folder, beside the policies under the folder's name (repeatable)")  # fmt: skip
    add("--scenarios", metavar="NAMES",
        help="comma-separated names and groups: series (dbench, dedup and vips with --vms VMs), all, "
        f"{', '.join(TAGS)} (default: series, or nothing when there is a --scenario)")  # fmt: skip
    add("--scenario", metavar="FILE", action="append", default=[], type=input_path,
        help="a scenario in TOML, beside those of --scenarios (repeatable)")  # fmt: skip
    add("--vms", metavar="LIST", type=whole_numbers(1, 64), help="VM counts of series, as 2,3,4 (default: 2)")
    add("--seeds", metavar="N", type=whole(2, MOST_SEEDS), default=10, help=f"seeds 0 to N-1 {default}")
    add("--baseline", metavar="NAME", default="legacy", help=f"policy to gain over {default}")
    add("--details", action="store_true",
        help="print each VM's own gain, the worst VM's, and what lies behind the gains, also for more than "
        f"{MANY} policies")  # fmt: skip
    add("--duration", metavar="S", type=seconds(1e-9), default=DURATION_NS / 1e9,
        help=f"measured simulated seconds {default}")  # fmt: skip
    add("--warmup", metavar="S", type=seconds(0), default=WARMUP_NS / 1e9,
        help=f"simulated seconds before that {default}")  # fmt: skip
    add("--out", metavar="DIR", type=output_folder, default="results/compare", help=f"results folder {default}")
    command.set_defaults(run=run)


def chosen_policies(wanted: str, baseline: str) -> list[Policy]:
    """The policies that the options name, the baseline among them. ValueError for an unknown name."""
    found: list[Policy] = []
    for name in names(wanted):
        group = "bounds" if name in (NAME, FORMER_BOUND) else name
        if group == "all" or group in GROUPS:
            found += [policy for policy in POLICIES if group in ("all", policy.group)]
        else:
            lookup("--policies", "policy", name, [*POLICY, "all", *GROUPS, NAME])
            found.append(POLICY[name])
    lookup("--baseline", "policy", baseline, POLICY)
    return _unique([*found, POLICY[baseline]], "--policies")


def chosen_agents(folders: Sequence[str], policies: Sequence[Policy]) -> list[Learned]:
    """The trained agents in the folders. ValueError for a folder without one, or a name that is taken."""
    taken = {policy.name for policy in policies}
    found: list[Learned] = []
    for folder in folders:
        agent = learned(folder)
        check(agent.name not in taken, "--agent", agent.name, "a folder whose name no policy and no other agent has")
        taken.add(agent.name)
        found.append(agent)
    return found


def chosen_scenarios(options: argparse.Namespace) -> list[Scenario]:
    """The scenarios that the options name: those of --scenario first, then those of --scenarios.

    Errors: ValueError for an unknown name, a bad file, or --vms without a series.
    """
    found = [_read(path) for path in options.scenario]
    wanted = names(options.scenarios if options.scenarios is not None else "" if found else "series")
    vms_count = options.vms is None or "series" in wanted
    check(vms_count, "--vms", ",".join(map(str, options.vms or ())), "left out where --scenarios has no series")
    for name in wanted:
        if name == "series":
            found += [series(workload, vms) for vms in options.vms or SERIES_VMS for workload in SERIES_WORKLOADS]
        elif name == "all" or name in TAGS:
            found += [scenario for scenario in SCENARIOS if name in ("all", scenario.tag)]
        else:
            lookup("--scenarios", "scenario", name, [*SCENARIO, "series", "all", *TAGS])
            found.append(SCENARIO[name])
    return _unique(found, "--scenarios")


@dataclass(frozen=True)
class Part:
    """What is compared on one kernel, None being the scenarios' own. left_out: policies that do not fit it."""

    kernel: str | None
    scenarios: Sequence[Scenario]
    policies: Entrants
    left_out: tuple[str, ...] = ()

    def heading(self) -> str:
        """The kernel in words."""
        kernel = KERNELS[self.kernel or ""]
        said = (
            f"Linux {self.kernel}, {kernel.scheduler.upper()}: a hint is {kernel.hint}; a yielder: {kernel.yielder}; "
        )
        left_out = f"\nwithout {', '.join(self.left_out)}: their scheduler half is for EEVDF" if self.left_out else ""
        return f"{said}its own policy is {kernel.on_spin}{left_out}"


def chosen_parts(kernels: str | None, scenarios: Sequence[Scenario], policies: Entrants, baseline: str) -> list[Part]:
    """One part for each kernel of --kernel, with the policies that fit all scenarios there.

    Errors: ValueError for an unknown kernel, a baseline that does not fit, or, without --kernel, any such policy.
    """
    if kernels is None:
        for policy in policies:
            for scenario in scenarios:
                if isinstance(policy, Policy):
                    policy.prepare(scenario)
        return [Part(None, scenarios, policies)]
    wanted = names(kernels)
    check(bool(wanted), "--kernel", kernels, "at least one name")
    parts = []
    for name in dict.fromkeys(kernel for given in wanted for kernel in (KERNELS if given == "all" else (given,))):
        lookup("--kernel", "kernel", name, [*KERNELS, "all"])
        here = [replace(scenario, host=scenario.host.on_kernel(name)) for scenario in scenarios]
        fit = [p for p in policies if not isinstance(p, Policy) or all(p.fits(scenario) for scenario in here)]
        check(baseline in [p.name for p in fit], "--baseline", baseline, f"a policy without a scheduler half on {name}")
        parts.append(Part(name, here, fit, tuple(p.name for p in policies if p not in fit)))
    return parts


def _read(path: str) -> Scenario:
    try:
        return Scenario.from_toml(path, WORKLOADS)
    except OSError as error:
        allowed = f"a file that can be read ({error.strerror or error})"
        raise ValueError(f"--scenario = {shown(path)}: must be {allowed}") from None


def _unique(items: Iterable[Any], option: str) -> list[Any]:
    """The items without repetitions. ValueError when two different ones have the same name, or there are none."""
    found: dict[str, Any] = {}
    for item in items:
        check(found.setdefault(item.name, item) == item, option, item.name, "one scenario of that name")
    check(bool(found), option, "", "at least one name")
    return list(found.values())


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Run the comparison, print the tables, write summary and plot; returns the summary."""
    compiled = chosen_policies(options.policies, options.baseline)
    scenarios = chosen_scenarios(options)
    policies: Entrants = [*compiled, *chosen_agents(options.agent, compiled)]
    parts = chosen_parts(options.kernel, scenarios, policies, options.baseline)
    pairs = sum(len(part.scenarios) * len(part.policies) for part in parts)
    few = pairs * options.seeds <= MOST_RUNS
    check(few, "--seeds", options.seeds, f"{MOST_RUNS // pairs:,} at most for so many runs")
    times = round(options.duration * 1e9), round(options.warmup * 1e9)
    runs = [
        [
            Run(scenario, policy, seed, *times)
            for scenario in part.scenarios
            for seed in range(options.seeds)
            for policy in part.policies
        ]
        for part in parts
    ]
    store = Store(Path(options.out))
    store.open()
    if store.bad:
        console.print(store.left_out(), markup=False, highlight=False, soft_wrap=True)
    compile_once(console)
    rows = iter(_run_with_bar([run for part in runs for run in part], store, options.threads, console))
    found = [cells([next(rows) for _ in part], options.baseline) for part in runs]
    visible = [with_bound(here, part.policies, options.details) for part, here in zip(parts, found, strict=True)]
    for part, (here, entrants) in zip(parts, visible, strict=True):
        if part.kernel:
            console.print(part.heading(), markup=False, highlight=False, soft_wrap=True)
        for table in tables(here, options.baseline, entrants, console.width, options.details):
            console.print(table)
    summaries = [
        summary(here, options.baseline, part.policies, options.seeds, times)
        for part, here in zip(parts, found, strict=True)
    ]
    data = summaries[0]
    if options.kernel is not None:
        data = {"kernels": {str(part.kernel): one for part, one in zip(parts, summaries, strict=True)}}
    data = {"made_by": made_by(options.arguments, scenarios), **data}
    if store.problem:
        console.print(
            f"results were not kept: {store.problem}\nThe table above is all there is of this run.", style="red"
        )
        return {**data, "exit_status": 1}
    file = store.folder / "summary.json"
    write_atomically(file, to_json(data, indent=1) + "\n")
    written = [file]
    for part, (here, entrants) in zip(parts, visible, strict=True):
        plot = f"gain-{part.kernel}.png" if part.kernel else "gain.png"
        written += _plot(here, store.folder / plot, options.baseline, entrants, console)
    console.print(f"runs in {store.path}, " + ", ".join(map(str, written)))
    if any(len(entrants) > MANY for _, entrants in visible) and not options.details:
        console.print(f"each VM's gain, operations/s, wasted CPU, exits and yields: in {file}, or with --details")
    return data


def _run_with_bar(runs: Sequence[Run], store: Store, threads: int, console: Console) -> list[dict[str, Any]]:
    columns = (TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
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
        "policies": [{"policy": p.name, "year": p.year, "group": p.group, "source": p.source} for p in policies],
        "published": {
            scenario: {"v1_v2": figures.v1_v2, "v3": figures.v3_throughput}
            for scenario, figures in published.items()
            if figures
        },
        "bounds": {cell.scenario: {"policy": cell.of, "gain": plain_gain(cell.gain)} for cell in best_bounds(found)},
        "cells": [cell.to_dict() for cell in found],
    }


def _plot(found: Sequence[Cell], path: Path, baseline: str, policies: Shown, console: Console) -> list[Path]:
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
