"""A metric that comparisons show is one line of the table: rows, cells and columns follow."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from kvmgym.cli import tables
from kvmgym.measure import compare, gains
from kvmgym.measure.shown import METRICS, Metric

VM = {"name": "a", "program": "p", "ops_per_s": 10.0, "ple_exits": 6, "yields_ok": 2, "relaxed_ok": 1}
VM |= {"yields_attempted": 4, "relaxed_attempted": 1, "lock_wait": SimpleNamespace(p99_ns=None)}
VM |= {"ipi_latency": SimpleNamespace(p99_ns=5.0)}
RESULT = SimpleNamespace(
    scenario="s", policy="legacy", seed=0, duration_ns=2 * 10**9, warmup_ns=0, mixed=False, ops_per_s=20.0, events=5,
    decisions=3, wasted_share=0.25, fairness=0.75, vms=[SimpleNamespace(**VM), SimpleNamespace(**VM)],
)  # fmt: skip


def test_metrics_are_read_from_a_result() -> None:
    found = {metric.name: (metric.read(RESULT), metric.text(metric.read(RESULT))) for metric in METRICS}
    assert found["wasted_share"] == (0.25, "25.0 %") and found["fairness"] == (0.75, "0.750")
    assert found["ple_exits_per_s"] == (6.0, "6") and found["yields_ok_per_s"] == (3.0, "3")


def test_a_line_more_is_a_column_more(monkeypatch: pytest.MonkeyPatch) -> None:
    more = (*METRICS, Metric("events", "all events", lambda result: result.events / 2, lambda value: f"<{value:.1f}>"))
    for module in (compare, gains, tables):
        monkeypatch.setattr(module, "METRICS", more)
    (cell,) = gains.cells([compare.row_of(RESULT) | {"events": 2.5}], "legacy")
    assert cell.events == 2.5 and cell.to_dict()["events"] == 2.5
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(tables._behind([cell]))
    text = console.export_text()
    assert "all events" in text and "<2.5>" in text and "PLE exits/s" in text


def test_a_cell_has_no_other_attributes() -> None:
    (cell,) = gains.cells([compare.row_of(RESULT)], "legacy")
    assert (cell.wasted_share, cell.fairness, cell.yields_ok_per_s) == (0.25, 0.75, 3.0)
    with pytest.raises(AttributeError, match="wasted_shares"):
        _ = cell.wasted_shares
