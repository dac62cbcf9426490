"""`bound`: the best of the privileged policies on each scenario, under one name.

None of them is best everywhere, and each is a policy on the host as it is. The best is chosen by the mean over the same
seeds that it is shown with, so that it is a little too good where several lie close together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kvmgym.measure.compare import Learned
from kvmgym.measure.gains import Cell
from kvmgym.policies import POLICIES, Policy

NAME = "bound"
MEMBERS = tuple(policy.name for policy in POLICIES if policy.group == "bounds")


@dataclass(frozen=True)
class BestBound:
    """The best bound of each scenario, as a policy in tables."""

    name: str = NAME
    year: str = "-"
    source: str = f"the best of {', '.join(MEMBERS)} on each scenario"
    privileged: bool = True
    group: str = "bounds"


Shown = Sequence[Policy | Learned | BestBound]


def best_bounds(found: Sequence[Cell]) -> list[Cell]:
    """The best of MEMBERS on each scenario, as a cell of `bound`; [] when not all of them were run there."""
    by_place = {(cell.scenario, cell.policy): cell for cell in found}
    best = []
    for scenario in dict.fromkeys(cell.scenario for cell in found):
        members = [by_place[scenario, name] for name in MEMBERS if (scenario, name) in by_place]
        if len(members) == len(MEMBERS):
            cell = max(members, key=lambda cell: cell.gain.mean if cell.gain else -1.0)
            best.append(replace(cell, policy=NAME, of=cell.policy))
    return best


def with_bound(found: Sequence[Cell], policies: Sequence[Policy | Learned], members: bool) -> tuple[list[Cell], Shown]:
    """What tables show: `bound` in place of its members, or before them with `members`; all else as it is."""
    best = best_bounds(found)
    if not best:
        return list(found), policies
    kept = [cell for cell in found if members or cell.policy not in MEMBERS]
    left = [policy for policy in policies if members or policy.name not in MEMBERS]
    return [*best, *kept], [BestBound(), *left]
