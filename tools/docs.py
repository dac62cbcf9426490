"""Tables of the documentation, made from the code: `python -m tools.docs` writes them, `--check` only compares.

A Markdown file names a table between `<!-- table: NAME -->` and `<!-- end -->`; what stands between is replaced.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from kvmgym.cli.list import rows
from kvmgym.cli.tables import markdown
from kvmgym.core import layout
from kvmgym.env import observation, reward
from kvmgym.params import PLE_PRESETS, Costs, HaltPoll, Host, Ple
from kvmgym.params.kernels import default_of

BLOCK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def costs() -> str:
    """The costs with value, range and mark."""
    found = []
    for item in fields(Costs):
        meta = item.metadata
        found.append((f"`{item.name}`", f"{item.default:,}", meta["range"], meta["mark"], meta["doc"]))
    return markdown(("cost", "default", "range", "mark", "what"), found)


def defaults(kind: type[Host] | type[Ple] | type[HaltPoll]) -> str:
    """The other fields of a host, of pause-loop exiting or of halt polling with their defaults."""
    simple = [item for item in fields(kind) if not item.metadata.get("table")]
    return markdown(("field", "default"), [(f"`{item.name}`", f"`{default_of(kind(), item)!r}`") for item in simple])


def presets() -> str:
    """Pause-loop exiting of each machine, a column a field."""
    names = [item.name for item in fields(Ple)]
    rows = [[name, *(f"`{getattr(ple, field)!r}`" for field in names)] for name, ple in PLE_PRESETS.items()]
    return markdown(["machine", *(f"`{name}`" for name in names)], rows)


def state(table: list[layout.Field]) -> str:
    """A state table: field, type, meaning, writer."""
    found = []
    for name, kind, text in table:
        meaning, writer, window = layout.meaning((name, kind, text))
        count, scalar = kind[:-2], kind[-2:]
        found.append((f"`{name}`", f"{scalar} × {count}" if count else scalar, meaning, writer + "; window" * window))
    return markdown(("field", "type", "meaning", "written by"), found)


def trace_kinds() -> str:
    """The kinds of trace rows."""
    return markdown(("code", "name"), [(str(code), name) for code, name in enumerate(layout.TRACE_NAMES)])


def observed(table: Sequence[observation.Field]) -> str:
    """Observation fields: place, name, range, unit, meaning, source."""
    found = []
    for place, field in enumerate(table):
        limits = f"{field.low:g} to {field.high:g}"
        found.append((str(place), f"`{field.name}`", limits, field.unit, field.meaning, field.source))
    return markdown(("place", "field", "range", "unit", "meaning", "kernel source"), found)


def reward_terms() -> str:
    """The reward terms with their default weights."""
    return markdown(
        ("term", "default weight", "meaning"),
        [(f"`{term.name}`", f"{term.weight:g}", term.meaning) for term in reward.TERMS],
    )


STATE = {"host": layout.HOST_FIELDS, "ask": layout.ASK_FIELDS, "pcpu": layout.PCPU_FIELDS, "rq": layout.RQ_FIELDS,
         "se": layout.SE_FIELDS, "vm": layout.VM_FIELDS, "vcpu": layout.VCPU_FIELDS, "task": layout.TASK_FIELDS,
         "lock": layout.LOCK_FIELDS, "gate": layout.GATE_FIELDS, "trace": layout.TRACE_FIELDS}  # fmt: skip

TABLES: dict[str, Callable[[], str]] = {
    "costs": costs,
    "host": lambda: defaults(Host),
    "ple": lambda: defaults(Ple),
    "ple-presets": presets,
    "halt-poll": lambda: defaults(HaltPoll),
    "trace-kinds": trace_kinds,
    "observation-globals": lambda: observed(observation.GLOBALS),
    "observation-vcpus": lambda: observed(observation.VCPU_FIELDS),
    "observation-privileged": lambda: observed(observation.PRIVILEGED),
    "reward-terms": reward_terms,
    **{kind: lambda kind=kind: markdown(*rows(kind)) for kind in ("policies", "workloads", "scenarios", "kernels")},  # type: ignore[misc]
    **{f"state-{name}": lambda table=table: state(table) for name, table in STATE.items()},  # type: ignore[misc]
}


def filled(text: str) -> str:
    """The text with every table block filled in. KeyError for an unknown table."""
    return BLOCK.sub(lambda match: f"{match[1]}{TABLES[match['name']]()}\n{match[3]}", text)


def main(arguments: Sequence[str]) -> int:
    """Write the tables, or with --check return 1 when a file is out of date."""
    root = Path(__file__).resolve().parent.parent
    pages = [root / "README.md", *(root / "docs").rglob("*.md")]
    stale = []
    for page in sorted(pages):
        text = page.read_text(encoding="utf-8")
        fresh = filled(text)
        if fresh != text:
            stale.append(page.relative_to(root))
            if "--check" not in arguments:
                page.write_text(fresh, encoding="utf-8")
    what = "out of date (run `make docs`)" if "--check" in arguments else "written"
    for page in stale:
        print(f"{page}: {what}")
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
