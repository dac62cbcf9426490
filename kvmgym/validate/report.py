"""Outcomes as a table for a terminal, as Markdown for docs/validation.md, and as plain data for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from kvmgym.validate.rows import LEVEL, Outcome, Row

HEADING = ("quantity", "expected", "measured", "±99.9 %", "has to be", "verdict")
COLOURS = {"pass": "green", "misfit": "yellow", "FAIL": "bold red"}


def number(value: float) -> str:
    """A value in seven significant digits; whole numbers in full."""
    return f"{int(value):,}" if float(value).is_integer() and abs(value) < 1e12 else f"{value:.7g}"


def half_width(row: Row) -> str:
    """The half-width of the interval, a dash for exact values; with the level when it is not the heading's."""
    if row.half_width is None:
        return "-"
    return f"{row.half_width:.2g}" + (f" ({row.level:.0%})" if row.level != LEVEL else "")


def cells(row: Row) -> tuple[str, ...]:
    """A row as text, in the order of HEADING."""
    return row.quantity, number(row.expected), number(row.measured), half_width(row), row.rule, row.verdict


def misfits(outcomes: Sequence[Outcome]) -> list[str]:
    """A line for each row that misses for a known cause."""
    return [f"{outcome.check.id} {row.quantity}: {row.cause}" for outcome in outcomes for row in outcome.misfits]


def render(outcomes: Sequence[Outcome]) -> Group:
    """A table for the terminal, a section for each check, and below it the misfits with their causes."""
    table = Table(show_edge=False, pad_edge=False)
    for place, name in enumerate(HEADING):
        table.add_column(name, justify="right" if 1 <= place <= 3 else "left", overflow="fold")
    for outcome in outcomes:
        colour = "green" if outcome.passed else "red"
        table.add_row(Text(f"{outcome.check.id} {outcome.check.title}", style=f"bold {colour}"))
        for row in outcome.rows:
            *plain, verdict = cells(row)
            table.add_row(*map(Text, plain), Text(verdict, style=COLOURS[verdict]))
        table.add_section()
    known = misfits(outcomes)
    below = [Text(f"misfits with their causes: {len(known)}", style="yellow"), *map(Text, known)] if known else []
    return Group(table, *below)


def markdown(outcomes: Sequence[Outcome]) -> str:
    """A section for each check: what is expected and why, and its rows."""
    passed = sum(outcome.passed for outcome in outcomes)
    seconds = sum(outcome.seconds for outcome in outcomes)
    form = "short form (`--quick`)" if any(outcome.quick for outcome in outcomes) else "full form"
    known = len(misfits(outcomes))
    counted = f", misfits with their causes: {known}" if known else ""
    lines = [f"{passed} of {len(outcomes)} checks passed{counted}; {form}, {seconds:.0f} s.", ""]
    for outcome in outcomes:
        lines += [f"## {outcome.check.id} {outcome.check.title}", "", f"Expected: {outcome.check.expected}.", ""]
        lines += [_line(HEADING), _line(["---"] * len(HEADING))]
        lines += [_line(cells(row)) for row in outcome.rows] + [""]
        lines += [f"- Misfit, {row.quantity}: {row.cause}" for row in outcome.misfits] + [""] * bool(outcome.misfits)
    return "\n".join(lines)


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def to_dict(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Plain data for JSON."""
    return {
        "passed": all(outcome.passed for outcome in outcomes),
        "misfits": len(misfits(outcomes)),
        "level": LEVEL,
        "checks": [outcome.to_dict() for outcome in outcomes],
    }
