"""Running and reporting the checks."""

import json
from dataclasses import replace

import pytest
from rich.console import Console

from kvmgym import validate
from kvmgym.measure.stats import Interval
from kvmgym.params import Compute, Dist
from kvmgym.validate import formulas, series, stalls
from kvmgym.validate.lab import MS, Lab, S
from kvmgym.validate.rows import exact, ratio, statistical


def test_the_table_of_checks():
    assert [check.id for check in validate.CHECKS] == [f"V{n}" for n in range(1, 13)]
    for check in validate.CHECKS:
        assert check.function.__doc__.startswith((f"{check.id}:", f"{check.id} "))


def test_run_checks_keeps_the_order_and_tells_its_progress():
    told = []
    outcomes = validate.run_checks(["V7", "V4"], quick=True, progress=lambda *what: told.append(what), threads=2)
    assert [outcome.check.id for outcome in outcomes] == ["V4", "V7"]
    assert all(outcome.passed for outcome in outcomes)
    assert [len(outcome.rows) for outcome in outcomes] == [17, 3]
    shares = [share for share, _ in told]
    assert shares == sorted(shares) and shares[0] == 0.0 and shares[-1] == 1.0
    assert told[0][1].startswith("V4 ") and told[-1][1].startswith("V7 ")


def test_results_do_not_depend_on_threads():
    one, two = (validate.run_checks(["V5"], quick=True, threads=threads)[0].rows for threads in (1, 2))
    assert one == two


@pytest.mark.parametrize(
    "ids, threads, message",
    [(["V13"], 1, 'unknown check "V13"'), (["v4"], 1, 'unknown check "v4"'), (["V4"], 0, "threads = 0: must be 1")],
)
def test_bad_arguments(ids, threads, message):
    with pytest.raises(ValueError, match=message):
        validate.run_checks(ids, threads=threads)


@pytest.fixture
def outcomes():
    rows = (exact("exits", 4, 4), statistical("wait | x", 0.5, Interval(0.52, 0.001, 9), 0.01))
    check = replace(validate.CHECKS[0], title="a title", expected="theory")
    return [validate.Outcome(check, rows, False, 1.25), validate.Outcome(check, rows[:1], True, 0.25)]


def test_an_outcome_passes_when_none_of_its_rows_fails(outcomes):
    assert [outcome.passed for outcome in outcomes] == [False, True]
    assert not replace(outcomes[1], rows=()).passed


@pytest.fixture
def misfit():
    rows = (
        series.judged("gain, right", 14.4, Interval(9.0, 1.0, 10), (6, 15)),
        series.judged("gain, low", 14.4, Interval(3.0, 1.0, 10), (6, 15), cause="queues are never that long"),
    )
    return validate.Outcome(next(check for check in validate.CHECKS if check.id == "V9"), rows, False, 1.0)


def test_a_misfit_fails_nothing_and_is_counted_and_shown_with_its_cause(misfit, outcomes):
    assert misfit.passed and [row.quantity for row in misfit.misfits] == ["gain, low"]
    data = validate.to_dict([misfit])
    assert (data["passed"], data["misfits"]) == (True, 1)
    assert [row["verdict"] for row in data["checks"][0]["rows"]] == ["pass", "misfit"]
    assert validate.to_dict(outcomes)["misfits"] == 0
    console = Console(width=120, record=True)
    console.print(validate.render([misfit]))
    text = console.export_text()
    assert "misfits with their causes: 1" in text and "V9 gain, low: queues are never that long" in text
    page = validate.markdown([misfit])
    assert page.startswith("1 of 1 checks passed, misfits with their causes: 1; full form")
    assert "| 1 (95%) | mean in +6 … +15; half-width ≤ 3 | misfit |" in page
    assert "- Misfit, gain, low: queues are never that long" in page


def test_a_failure_beside_a_misfit_fails(misfit):
    failing = series.judged("gain, worse", 14.4, Interval(2.0, 1.0, 10), (6, 15))
    assert not replace(misfit, rows=(*misfit.rows, failing)).passed


def test_render(outcomes):
    console = Console(width=120, record=True)
    console.print(validate.render(outcomes))
    lines = console.export_text().splitlines()
    assert sum("V1 a title" in line for line in lines) == 2
    assert any("wait | x" in line and "0.52" in line and "0.001" in line and "FAIL" in line for line in lines)


def test_markdown(outcomes):
    text = validate.markdown(outcomes)
    assert "isfit" not in text and text.startswith("1 of 2 checks passed; short form (`--quick`), 2 s.")
    assert "## V1 a title\n\nExpected: theory.\n" in text
    assert "| exits | 4 | 4 | - | equal | pass |" in text
    assert "| wait \\| x | 0.5 | 0.52 | 0.001 | in interval, half-width ≤ 1% | FAIL |" in text


def test_to_dict_is_json(outcomes):
    data = json.loads(json.dumps(validate.to_dict(outcomes), allow_nan=False))
    assert (data["passed"], data["level"]) == (False, 0.999)
    assert [check["passed"] for check in data["checks"]] == [False, True]
    assert data["checks"][0]["rows"][1] == {
        "quantity": "wait | x",
        "expected": 0.5,
        "measured": 0.52,
        "half_width": 0.001,
        "rule": "in interval, half-width ≤ 1%",
        "passed": False,
        "cause": "",
        "level": 0.999,
        "verdict": "FAIL",
    }


@pytest.mark.slow
def test_every_check_passes_in_its_short_form():
    failed = [
        (outcome.check.id, row)
        for outcome in validate.run_checks(quick=True, threads=2)
        for row in outcome.rows
        if row.failed
    ]
    assert failed == []


def test_a_start_at_uniform_phases_is_what_the_formula_needs():
    """Started in step, all targets of a shootdown run or wait together and the latency is that of one target."""
    scenario = stalls.lonely_sender(2)
    idle = Compute(Dist.constant(S))
    step = replace(scenario.host, start="aligned")
    vms = tuple(
        replace(
            vm, workload=replace(vm.workload, roles=tuple(replace(r, program=r.program[1:]) for r in vm.workload.roles))
        )
        for vm in scenario.vms
    )
    assert vms[1].workload.roles[0].program[0].phases == (idle,)
    found = Lab().worlds(
        replace(scenario, host=step, vms=vms),
        "none",
        lambda result: (result.vms[0].shootdown_ns, result.vms[0].shootdowns),
        worlds=8,
        duration_ns=2 * S,
        warmup_ns=100 * MS,
    )
    alone = formulas.shootdown_latency(2, 1, 3.0)
    assert ratio(found, MS).holds(alone) and alone < 1.0
