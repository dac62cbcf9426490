"""Tables that fit their width: numbers are never broken; a table that is too wide turns vertical, a block a row."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

from rich.cells import cell_len
from rich.console import Group
from rich.table import Column, Table
from rich.text import Text

WORD = 16  # a column of words may be folded to this width, not narrower


def fitted(table: Table, width: int) -> Table | Group:
    """The table when its columns of numbers and its names fit the width unbroken, else its vertical form.

    Columns of numbers are those that are justified to the right, names those without wrapping.
    """
    if not table.columns or _table_width([_widest(column) for column in table.columns]) <= width:
        return table
    if _table_width([_least(column) for column in table.columns]) > width:
        return vertical(table, width)
    found = copy(table)
    found.columns = [
        replace(column, width=_least(column)) if column.justify == "right" else column for column in table.columns
    ]
    return found


def vertical(table: Table, width: int) -> Group:
    """A block for each row: its first cell, and below it a line for each other cell that says something, with the
    heading of its column. What is too long for one line goes on below, indented."""
    heads = [" ".join(_words(column.header).split()) for column in table.columns]
    cells = [list(column.cells) for column in table.columns]
    found: list[Text] = []
    if table.title:
        found.append(Text(_folded(_words(table.title), width), style="italic"))
    for place, row in enumerate(table.rows):
        first, *rest = [column[place] for column in cells]
        style = row.style or (first.style if isinstance(first, Text) else "")
        found += [Text(""), Text(_folded(_words(first).strip(), width), style=style or "bold")]
        for head, cell in zip(heads[1:], rest, strict=True):
            if _words(cell).strip():
                found.append(_line(head, cell, width))
    return Group(*found)


def changed(table: Table, change: Callable[[str], str]) -> Table:
    """The table with every text in it changed; itself when that changes nothing."""
    texts = [_words(each) for column in table.columns for each in (column.header, *column.cells)]
    if all(change(text) == text for text in [*texts, _words(table.title or "")]):
        return table

    def new(cell: Any) -> Any:
        return Text(change(cell.plain), style=cell.style) if isinstance(cell, Text) else change(_words(cell))

    found = copy(table)
    found.title = new(table.title) if table.title else table.title
    found.columns = [
        replace(column, header=new(column.header), _cells=[new(cell) for cell in column.cells])
        for column in table.columns
    ]
    return found


def _words(cell: Any) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell)


def _lines(column: Column) -> list[str]:
    return [line for cell in column.cells for line in _words(cell).split("\n")]


def _longest(texts: Sequence[str]) -> int:
    return max(map(cell_len, texts), default=0)


def _widest(column: Column) -> int:
    """The width with which nothing has to be folded."""
    full = _longest([*_words(column.header).split("\n"), *_lines(column)])
    return min(full, column.max_width) if column.max_width else full


def _least(column: Column) -> int:
    """The width below which a number, a name or a heading's word would be broken."""
    words = _longest(_words(column.header).split())
    if column.justify == "right" or column.no_wrap:
        return max(words, _longest(_lines(column)))
    return max(words, min(_widest(column), WORD))


def _table_width(widths: Sequence[int]) -> int:
    """Of a table whose columns are two spaces and at most a line apart, with a space or a line at its ends."""
    return sum(widths) + 3 * (len(widths) - 1) + 2


def _line(head: str, cell: Any, width: int) -> Text:
    """`  head  words`, the words on lines of their own where they would be broken otherwise."""
    words = " ".join(_words(cell).split())
    style = cell.style if isinstance(cell, Text) else ""
    begin = f"  {head}  "
    if cell_len(begin) + cell_len(words) <= width:
        return Text.assemble(begin, (words, style))
    below = _folded(words, width - 4).replace("\n", "\n    ")
    return Text.assemble(_folded(begin.rstrip(), width), "\n    ", (below, style))


def _folded(text: str, width: int) -> str:
    lines = (textwrap.fill(line, max(width, 8), break_on_hyphens=False) for line in text.split("\n"))
    return "\n".join(lines)
