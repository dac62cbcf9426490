"""What the documentation shows runs as it stands."""

import re
from pathlib import Path
from typing import Any

import pytest

from kvmgym.measure.simulate import simulate
from kvmgym.params import Scenario
from kvmgym.workloads import BY_NAME

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/policies.md", "docs/tutorial.md", "docs/environment.md", "docs/gains.md")


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


EXAMPLES = [pytest.param(code, id=f"{page}-{k}") for page in PAGES for k, code in enumerate(blocks(page, "python"))]


@pytest.mark.parametrize("code", EXAMPLES)
def test_python_examples_run(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(compile(code, "example", "exec"), names)
    shown = capsys.readouterr().out.split("\n")[0]
    comment = re.search(r"print\(.*\)\s+# (.*)", code)
    if comment:
        assert shown == comment[1]
    elif "truncated" in names and "envs" not in names:  # an episode, to its end
        assert names["truncated"] and names["info"]["now_ns"] == 20_000_000
    elif "envs" in names:
        assert shown.startswith("(32, ")
    else:
        assert names["result"].ops_per_s > 0 and shown


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 17


def test_the_scenario_file_runs() -> None:
    (text,) = blocks("docs/scenarios.md", "toml")
    scenario = Scenario.from_toml_text(text, BY_NAME)
    assert [vm.workload.name for vm in scenario.vms] == ["burst", "dbench"]
    result = simulate(scenario, "legacy", duration_ns=20_000_000, warmup_ns=0)
    assert all(vm.ops > 0 for vm in result.vms) and result.tasks[0].total("run_ns") > 0
