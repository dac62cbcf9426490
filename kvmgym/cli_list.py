"""`kvmgym list`: the policies, workloads and scenarios, made from their tables."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from kvmgym.params import Scenario, Workload
from kvmgym.policies import POLICIES
from kvmgym.scenarios import SCENARIOS
from kvmgym.workloads import WORKLOADS

KINDS = ("policies", "workloads", "scenarios")


def add_list(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "list",
        parents=[common],
        help="show policies, workloads and scenarios",
        description="Show the policies (year, source, what they see), workloads (rates a CPU-second, marks) and "
        "scenarios (host, VMs, tag) that the other commands take by name.",
    )
    command.add_argument("kind", nargs="?", choices=KINDS, help="one kind (default: all)")
    command.set_defaults(run=run)


HEADINGS = {
    "policies": ("policy", "year", "source", "sees", "what it does"),
    "workloads": ("workload", "kernel", "locks", "user locks", "shootdowns", "kicks", "halts", "KiB", "marks"),
    "scenarios": ("scenario", "host", "VMs", "tag", "about"),
}


def rows(kind: str, full: bool = True) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The heading and the rows of one kind's table, as text. Not full: of a workload's marks the letters only."""
    if kind == "policies":
        return HEADINGS[kind], [(p.name, p.year, p.source, p.sees, p.description) for p in POLICIES]
    if kind == "workloads":
        return HEADINGS[kind], [_workload_row(work, full) for work in WORKLOADS]
    return HEADINGS[kind], [_scenario_row(scenario) for scenario in SCENARIOS]


def _workload_row(work: Workload, full: bool) -> tuple[str, ...]:
    """Rates are per CPU-second of useful guest time; the working set is in KiB."""
    rates = asdict(work.rates) if work.rates else {}
    columns = ("kernel_share", "lock_ops", "user_lock_ops", "shootdowns", "kicks", "halts")
    texts = (f"{rates[name]:g}" if rates else "-" for name in columns)
    marks = work.marks if full else " ".join(part.split(":")[0].strip() for part in work.marks.split(";"))
    return (work.name, *texts, str(work.working_set_kib), marks)


def _scenario_row(scenario: Scenario) -> tuple[str, ...]:
    counts: dict[str, int] = {}
    for vm in scenario.vms:
        text = f"{vm.vcpus} vCPUs {vm.workload.name}"
        counts[text] = counts.get(text, 0) + 1
    vms = ", ".join(f"{count} x {text}" for text, count in counts.items())
    if scenario.host_tasks:
        vms += f", {len(scenario.host_tasks)} host tasks"
    return scenario.name, f"{scenario.host.pcpus} pCPUs", vms, scenario.tag, scenario.description


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Print the tables; returns them as data."""
    data: dict[str, Any] = {}
    for kind in (options.kind,) if options.kind else KINDS:
        heading, found = rows(kind, full=False)
        title = f"{kind}, rates a CPU-second" if kind == "workloads" else kind
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for column in heading:
            table.add_column(column, no_wrap=column == heading[0], overflow="fold")
        for row in found:
            table.add_row(*row)
        console.print(table)
        data[kind] = [dict(zip(heading, row, strict=True)) for row in found]
    return data
