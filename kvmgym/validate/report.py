"""Outcomes as a table for a terminal, as Markdown for docs/validation.md, and as plain data for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from kvmgym.validate.rows import LEVEL, Outcome, Row

HEADING = ("quantity", "expected", "measured", "±99.9 %", "has to be", "verdict")


def number(value: float) -> str:
    """A value in seven significant digits; whole numbers in full."""
    return f"{int(value):,}" if float(value).is_integer() and abs(value) < 1e12 else f"{value:.7g}"


def half_width(row: Row) -> str:
    """The half-width of the interval, a dash for exact values."""
    return "-" if row.half_width is None else f"{row.half_width:.2g}"


def cells(row: Row) -> tuple[str, ...]:
    """A row as text, in the order of HEADING."""
    return row.quantity, number(row.expected), number(row.measured), half_width(row), row.rule, row.verdict


def render(outcomes: Sequence[Outcome]) -> Table:
    """A table for the terminal, a section for each check."""
    table = Table(show_edge=False, pad_edge=False)
    for place, name in enumerate(HEADING):
        table.add_column(name, justify="right" if 1 <= place <= 3 else "left", overflow="fold")
    for outcome in outcomes:
        colour = "green" if outcome.passed else "red"
        table.add_row(Text(f"{outcome.check.id} {outcome.check.title}", style=f"bold {colour}"))
        for row in outcome.rows:
            *plain, verdict = cells(row)
            table.add_row(*map(Text, plain), Text(verdict, style="green" if row.passed else "bold red"))
        table.add_section()
    return table


def markdown(outcomes: Sequence[Outcome]) -> str:
    """A section for each check: what is expected and why, and its rows."""
    passed = sum(outcome.passed for outcome in outcomes)
    seconds = sum(outcome.seconds for outcome in outcomes)
    form = "short form (`--quick`)" if any(outcome.quick for outcome in outcomes) else "full form"
    lines = [f"{passed} of {len(outcomes)} checks passed; {form}, {seconds:.0f} s.", ""]
    for outcome in outcomes:
        lines += [f"## {outcome.check.id} {outcome.check.title}", "", f"Expected: {outcome.check.expected}.", ""]
        lines += [_line(HEADING), _line(["---"] * len(HEADING))]
        lines += [_line(cells(row)) for row in outcome.rows] + [""]
    return "\n".join(lines)


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def to_dict(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Plain data for JSON."""
    return {
        "passed": all(outcome.passed for outcome in outcomes),
        "level": LEVEL,
        "checks": [outcome.to_dict() for outcome in outcomes],
    }
