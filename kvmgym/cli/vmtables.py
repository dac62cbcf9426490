"""The tables of one scenario's VMs: the geometric mean, each VM's own gain, the worst VM and fairness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from kvmgym.measure.gains import Cell

MEAN, WORST, FAIRNESS = "geometric mean", "worst VM", "Jain's fairness"
Lines = Mapping[str, str]  # text by MEAN, VM, WORST and FAIRNESS


def by_vm(found: Mapping[str, Cell], baseline: str, width: int, policies_down: bool) -> list[Table]:
    """The tables of a scenario, as many as the width needs. found: the cell of each policy, in their order.
    policies_down: a row a policy, not a column. The baseline has each VM's operations a second."""
    title = f"{found[baseline].scenario}: each VM's own gain over {baseline} in %"
    by_policy = {policy: _lines(cell, policy == baseline) for policy, cell in found.items()}
    if policies_down:
        columns = {name: {policy: lines[name] for policy, lines in by_policy.items()} for name in by_policy[baseline]}
        return _folded(title, "policy", list(by_policy), columns, width)
    return _folded(title, "VM", list(by_policy[baseline]), by_policy, width)


def _lines(cell: Cell, is_baseline: bool) -> Lines:
    """What is shown of one policy."""
    vms, host = cell.host.vms, cell.host
    names = [vm.vm if vm.vm == vm.program else f"{vm.vm} ({vm.program})" for vm in vms]
    texts = [f"{vm.ops_per_s.mean:,.1f}/s" if is_baseline else vm.text for vm in vms]
    return {
        MEAN: "" if is_baseline else cell.text,
        **dict(zip(names, texts, strict=True)),
        WORST: "" if is_baseline else host.worst_text,
        FAIRNESS: f"{cell.fairness:.3f}",
    }


def _folded(
    title: str, corner: str, heads: Sequence[str], columns: Mapping[str, Mapping[str, str]], width: int
) -> list[Table]:
    """Tables with a row a head and the columns that fit the width; at least one column each."""
    found: list[Table] = []
    left = list(columns)
    while left:
        part = _fitting(left, columns, width - max(map(len, (corner, *heads))) - 2)
        left = left[len(part) :]
        table = Table(title=None if found else title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        table.add_column(corner, no_wrap=True)
        for name in part:
            table.add_column(name, justify="right", no_wrap=True)
        for head in heads:
            table.add_row(head, *(columns[name][head] for name in part))
        found.append(table)
    return found


def _fitting(names: Sequence[str], columns: Mapping[str, Mapping[str, str]], width: int) -> list[str]:
    """The first names whose columns fit the width; at least one."""
    part: list[str] = []
    for name in names:
        width -= 3 + max(map(len, (name, *columns[name].values())))
        if part and width < 0:
            break
        part.append(name)
    return part
