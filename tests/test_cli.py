"""The command line as a newcomer meets it: output, files, messages and exit statuses."""

import json
from pathlib import Path

import pytest

from kvmgym import cli
from kvmgym.docs import TABLES, filled

QUICK = ["--scenarios", "hotlock-small", "--seeds", "2", "--duration", "0.01", "--warmup", "0.002"]


def test_compare_prints_a_table_and_writes_json_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, summary = tmp_path / "out", tmp_path / "copy.json"
    assert cli.main(["compare", *QUICK, "--out", str(out), "--json", str(summary)]) == 0
    text = capsys.readouterr().out
    assert "hotlock-small" in text and "relaxed" in text and "gain in guest operations/s over legacy" in text
    data = json.loads(summary.read_text())
    assert [cell["policy"] for cell in data["cells"]] == ["none", "random", "legacy", "strict", "relaxed"]
    assert json.loads((out / "summary.json").read_text())["cells"] == data["cells"]
    assert (out / "gain.png").read_bytes()[:4] == b"\x89PNG"
    assert len((out / "runs.jsonl").read_text().splitlines()) == 10


def test_compare_takes_a_scenario_file_and_names_its_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from kvmgym.scenarios import BY_NAME

    text = BY_NAME["hotlock-small"].to_toml()
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text(text)
    bad.write_text(text.replace("vcpus", "vcpsu", 1))
    arguments = ["compare", "--seeds", "2", "--duration", "0.005", "--policies", "none", "--out", str(tmp_path / "out")]
    assert cli.main([*arguments, "--scenario", str(good)]) == 0
    assert cli.main([*arguments, "--scenario", str(bad)]) == 2
    message = capsys.readouterr().err
    assert "bad.toml" in message and "vcpsu" in message and 'did you mean "vcpus"' in message


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["compare", "--policies", "relaxd"], 'unknown policy "relaxd": did you mean "relaxed"'),
        (["compare", "--scenarios", "dedup-2vn"], 'unknown scenario "dedup-2vn": did you mean "dedup-2vm"'),
        (["compare", "--seeds", "1"], "--seeds = 1: must be at least 2"),
        (["compare", "--duration", "-1"], "--duration = -1.0: must be above 0"),
        (["compare", "--vms", "2,x"], "--vms = 'x': must be whole numbers from 1 to 64"),
    ],
)
def test_bad_input_is_one_message_before_anything_runs(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unwritable_folder_is_said_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert cli.main(["compare", *QUICK, "--out", str(blocked / "out")]) == 1
    assert "file" in capsys.readouterr().err


def test_a_missing_scenario_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", "--scenario", "nowhere.toml"]) == 1
    assert "nowhere.toml: No such file or directory" in capsys.readouterr().err


def test_list_shows_every_entry(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "list.json"
    assert cli.main(["list", "--json", str(out)]) == 0
    data = json.loads(out.read_text())
    assert {row["policy"] for row in data["policies"]} >= {"none", "legacy", "relaxed"}
    assert {row["workload"] for row in data["workloads"]} >= {"dbench", "dedup", "vips"}
    assert {row["scenario"] for row in data["scenarios"]} >= {"dedup-2vm", "dedup-4vm"}
    assert "dedup" in capsys.readouterr().out


def test_help_of_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("list", "compare", "validate", "bench"):
        with pytest.raises(SystemExit) as stopped:
            cli.main([command, "--help"])
        assert stopped.value.code == 0
        assert "--json FILE" in capsys.readouterr().out


def test_documentation_tables_fill_in_once() -> None:
    page = "before\n<!-- table: costs -->\nold\n<!-- end -->\nafter\n"
    once = filled(page)
    assert "| `switch_ns` | 2,000 | 1200-4000 | V, R |" in once and "old" not in once
    assert once.startswith("before\n") and once.endswith("after\n") and filled(once) == once
    with pytest.raises(KeyError):
        filled("<!-- table: nothing -->\n<!-- end -->")
    assert "state-vcpu" in TABLES


DEADLOCK = """
name = "stuck"
[host]
pcpus = 2
[[vm]]
name = "a"
vcpus = 2
workload = "ring"
[[workload]]
name = "ring"
description = "each waits for the other's item before it gives its own"
[[workload.queue]]
name = "there"
capacity = 1
[[workload.queue]]
name = "back"
capacity = 1
[[workload.role]]
name = "left"
program = [{ kind = "get", queue = "back" }, { kind = "compute", dist = { kind = "constant", ns = 1000 } },
           { kind = "put", queue = "there" }]
[[workload.role]]
name = "right"
program = [{ kind = "get", queue = "there" }, { kind = "compute", dist = { kind = "constant", ns = 1000 } },
           { kind = "put", queue = "back" }]
"""


def test_a_guest_that_deadlocks_is_reported_with_who_waits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "stuck.toml"
    file.write_text(DEADLOCK)
    assert cli.main(["compare", "--scenario", str(file), "--seeds", "2", "--out", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert "deadlock in VM 'a'" in message
    assert "vCPU 0 waits at 'back'" in message and "vCPU 1 waits at 'there'" in message
