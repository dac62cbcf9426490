"""`kvmgym list`: the policies, workloads and scenarios, made from their tables."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, fields
from importlib.metadata import EntryPoint
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from kvmgym.cli.arguments import one_of
from kvmgym.env.rows import EPISODE_NS
from kvmgym.measure import agents
from kvmgym.measure.compare import GROUPS, grouped
from kvmgym.params import KERNELS, PLE_PRESETS, Kernel, Scenario, Vm, Workload
from kvmgym.params.kernels import default_of
from kvmgym.policies import POLICIES, Policy
from kvmgym.scenarios import SCENARIOS
from kvmgym.workloads import WORKLOADS

KINDS = ("policies", "workloads", "scenarios", "kernels", "agents")


def add_list(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "list",
        parents=[common],
        help="show policies, workloads, scenarios, kernels and kinds of agents",
        description="Show the policies (year, source, what they see), workloads (rates a CPU-second, marks) and "
        "scenarios (host and VMs with the switches that are not at their default, tag) that the other commands take by "
        "name, the kernels that a host may have (what a hint does there, what a yielder loses, its own policy), and "
        "the installed kinds of agents. --json also has what the terminal has no room for.",
    )
    command.add_argument("kind", nargs="?", metavar="KIND", type=one_of("kind", KINDS),
                         help=f"{', '.join(KINDS)} (default: all)")  # fmt: skip
    command.set_defaults(run=run)


HEADINGS = {
    "policies": ("policy", "group", "year", "source", "sees", "what it does"),
    "workloads": ("workload", "kernel", "locks", "user locks", "shootdowns", "kicks", "halts", "KiB", "marks"),
    "scenarios": ("scenario", "host", "VMs", "tag", "episode", "about"),
    "kernels": ("kernel", "scheduler", "hint of yield_to", "yielder", "delayed dequeue", "own policy"),
    "agents": ("agent", "package", "module"),
}


UNSAID = ("name", "vcpus", "workload", "stream", "pcpus", "start", "tick_scale")  # told otherwise, or of no interest


def rows(kind: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The heading and the rows of one kind's table, as text."""
    if kind == "policies":
        return HEADINGS[kind], [_policy_row(policy) for policy in grouped(POLICIES)]
    if kind == "workloads":
        return HEADINGS[kind], [_workload_row(work) for work in WORKLOADS]
    if kind == "kernels":
        return HEADINGS[kind], [_kernel_row(name, kernel) for name, kernel in KERNELS.items()]
    if kind == "agents":
        return HEADINGS[kind], [_agent_row(point) for point in agents.kinds().values()]
    return HEADINGS[kind], [_scenario_row(scenario) for scenario in SCENARIOS]


def _agent_row(point: EntryPoint) -> tuple[str, ...]:
    return point.name, f"{point.dist.name} {point.dist.version}" if point.dist else "-", point.value


def _policy_row(policy: Policy) -> tuple[str, ...]:
    return policy.name, GROUPS[policy.group], policy.year, policy.source, policy.sees, policy.description


def _workload_row(work: Workload) -> tuple[str, ...]:
    """Rates are per CPU-second of useful guest time; the working set is in KiB."""
    rates = asdict(work.rates) if work.rates else {}
    columns = ("kernel_share", "lock_ops", "user_lock_ops", "shootdowns", "kicks", "halts")
    texts = (f"{rates[name]:g}" if rates else "-" for name in columns)
    return (work.name, *texts, str(work.working_set_kib), work.marks)


def _kernel_row(name: str, kernel: Kernel) -> tuple[str, ...]:
    delayed = "-"
    if kernel.delay_dequeue:
        delayed = "charged at its wakeup" if kernel.charge_before_wakeup else "not charged at its wakeup"
    return name, kernel.scheduler, kernel.hint, kernel.yielder, delayed, kernel.on_spin


def _scenario_row(scenario: Scenario) -> tuple[str, ...]:
    counts: dict[str, int] = {}
    for vm in scenario.vms:
        counts[_vm_text(vm)] = counts.get(_vm_text(vm), 0) + 1
    vms = ", ".join(f"{count} x {text}" for text, count in counts.items())
    if scenario.host_tasks:
        vms += f", {len(scenario.host_tasks)} host tasks"
    host = ", ".join([f"{scenario.host.pcpus} pCPUs", *switches(scenario.host)])
    return scenario.name, host, vms, scenario.tag, _episode_text(scenario.episode_ns), scenario.description


def _episode_text(episode_ns: int | None) -> str:
    """How long an environment's episode is by default, "-" where there is next to nothing to decide."""
    if episode_ns == 0:
        return "-"
    return f"{(EPISODE_NS if episode_ns is None else episode_ns) // 10**6} ms"


def _vm_text(vm: Vm) -> str:
    changed = list(switches(vm))
    return f"{vm.vcpus} vCPUs {vm.workload.name}" + (f" ({', '.join(changed)})" if changed else "")


def switches(item: Any) -> Iterator[str]:
    """The fields of a host, VM or part of one that differ from their defaults, in words; random starts, which every
    named scenario has, are left out.

    >>> from kvmgym.params import Host
    >>> list(switches(Host(pcpus=2, slice_ns=3_000_000, balance=False, ple=PLE_PRESETS["amd"])))
    ['slice 3 ms', 'ple amd', 'no balance']
    """
    for each in fields(item):
        value = getattr(item, each.name)
        if each.name not in UNSAID and value != default_of(item, each):
            yield _switch_text(each.name, value)


def _switch_text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value else f"no {name}"
    if name in ("pin", "cpus"):
        return "pinned" if name == "pin" else f"on pCPUs {value[0]}-{value[-1]}"
    preset = next((preset for preset, ple in PLE_PRESETS.items() if ple == value), None)
    if preset:
        return f"{name} {preset}"
    if hasattr(value, "__dataclass_fields__"):
        inner = list(switches(value))
        return f"{name} {inner[0]}" if len(inner) == 1 else f"{name} ({', '.join(inner)})"
    if name.endswith("_ns"):
        unit, size = next(((u, s) for u, s in (("ms", 10**6), ("us", 10**3)) if value and value % s == 0), ("ns", 1))
        return f"{name.removesuffix('_ns')} {value // size} {unit}"
    return f"{name} {value}"


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Print the tables; returns them as data."""
    data: dict[str, Any] = {}
    for kind in (options.kind,) if options.kind else KINDS:
        heading, found = rows(kind)
        data[kind] = [dict(zip(heading, row, strict=True)) for row in found]
        console.print(terminal_table(kind, data[kind]))
    return data


def terminal_table(kind: str, found: list[dict[str, str]]) -> Table:
    """The rows without what a terminal has no room for: the file of a policy's source, what a workload's marks rest on,
    a scenario's description. Policies stand under their groups."""
    titles = {"workloads": "workloads, rates a CPU-second", "agents": "kinds of agents, for kvmgym train --kind"}
    title = titles.get(kind, kind)
    if kind == "scenarios":
        common = [text for text in switches(SCENARIOS[0].host) if all(text in row["host"] for row in found)]
        title += f"; on all hosts: {', '.join(common)}" if common else ""
        for text in common:
            found = [{**row, "host": row["host"].replace(f", {text}", "")} for row in found]
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    columns = [column for column in HEADINGS[kind] if column not in ("group", "about")]
    for column in columns:
        narrow = 22 if column == "source" else None
        table.add_column(column, no_wrap=column in (columns[0], "year", "tag"), overflow="fold", max_width=narrow)
    group = None
    for row in found:
        if row.get("group") != group:
            group = row["group"]
            table.add_section()
            table.add_row(group, style="bold")
        short = dict(row)
        if kind == "policies":
            short |= {"policy": f"  {row['policy']}", "source": row["source"].split(", virt/")[0]}
        elif kind == "workloads":
            short["marks"] = " ".join(part.split(":")[0].strip() for part in row["marks"].split(";"))
        table.add_row(*(short[column] for column in columns))
    return table
