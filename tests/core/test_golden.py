"""Golden trajectories: what a run does changes only when somebody means it to (tests/support/golden.py writes them)."""

import json

import pytest
from golden import FOLDER, RUNS, record


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.json")))
def test_a_run_does_what_it_did(name):
    """The scenario is in the file: an edit of the examples does not matter here."""
    expected = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    text = "\n".join(expected.pop("scenario")) + "\n"
    config = [expected.pop(key) for key in ("policy", "seed", "duration_ns")]
    found = record(text, *config)
    for key in ("first_rows", "counters", "trace_rows", "trace_sha256"):  # the readable ones first
        assert found[key] == expected[key], "meant? python tests/support/golden.py, and say why in CHANGELOG.md"


def test_every_golden_run_has_its_file():
    assert {path.stem for path in FOLDER.glob("*.json")} == {f"{example}-{policy}" for example, policy, *_ in RUNS}
