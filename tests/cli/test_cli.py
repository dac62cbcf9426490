"""The command line as a newcomer meets it: output, files, messages and exit statuses."""

import argparse
import io
import json
import random
from pathlib import Path

import pytest
from rich.console import Console

from kvmgym.cli import list as listing
from kvmgym.cli import main
from kvmgym.cli.compare import DEFAULT_POLICIES, MANY, chosen_policies, chosen_scenarios, tables
from kvmgym.measure.bounds import MEMBERS
from kvmgym.measure.compare import grouped
from kvmgym.measure.gains import Cell, HostGain, VmGain
from kvmgym.measure.stats import Gain, Interval
from kvmgym.params import Dist, HaltPoll, Host, HostTask, Ple, Scenario, Vm
from kvmgym.policies import BY_NAME as POLICY
from kvmgym.policies import POLICIES, Policy
from kvmgym.scenarios import SCENARIOS
from kvmgym.workloads import BY_NAME as WORKLOADS
from tools.docs import TABLES, filled

QUICK = ["--scenarios", "hotlock-small", "--seeds", "2", "--duration", "0.01", "--warmup", "0.002"]


def test_compare_prints_a_table_and_writes_json_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, summary = tmp_path / "out", tmp_path / "copy.json"
    assert main.main(["compare", *QUICK, "--out", str(out), "--json", str(summary)]) == 0
    text = capsys.readouterr().out
    assert "hotlock-small" in text and "relaxed" in text and "gain in guest operations/s over legacy" in text
    assert "what lies behind it" not in text and "--details" in text
    data = json.loads(summary.read_text())
    ran = [*DEFAULT_POLICIES[:-1], *MEMBERS]
    assert DEFAULT_POLICIES[-1] == "bound" and [cell["policy"] for cell in data["cells"]] == ran
    assert {row["policy"]: row["group"] for row in data["policies"]}["clairvoyant-working"] == "bounds"
    best = max((cell for cell in data["cells"] if cell["policy"] in MEMBERS), key=lambda cell: cell["gain"]["mean"])
    assert data["bounds"] == {"hotlock-small": {"policy": best["policy"], "gain": best["gain"]}}
    assert all(cell["wasted_share"] >= 0 for cell in data["cells"])
    assert json.loads((out / "summary.json").read_text())["cells"] == data["cells"]
    assert (out / "gain.png").read_bytes()[:4] == b"\x89PNG"
    assert len((out / "runs.jsonl").read_text().splitlines()) == 2 * len(ran)


def test_compare_of_few_policies_shows_what_lies_behind_and_of_many_with_details(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compare", *QUICK, "--out", str(tmp_path)]
    for more, shown in (["--policies", "none,clairvoyant"], True), ([], False), (["--details"], True):
        assert main.main([*arguments, *more]) == 0
        text = " ".join(capsys.readouterr().out.split())  # wherever the folder's name lets lines wrap
        assert ("wasted CPU" in text.replace("operations/s, wasted CPU", "")) is shown
        assert "bound (privileged)" in text


def made_up(scenarios: list[str], policies: list[Policy]) -> list[Cell]:
    rng = random.Random(1)
    behind = {"wasted_share": 0.1, "ple_exits_per_s": 1e5, "yields_ok_per_s": 1e5, "fairness": 1.0}

    def one() -> HostGain:
        mean, half = rng.uniform(-0.5, 0.5), rng.uniform(0, 0.12)
        gain = Gain(mean, mean - half, mean + half, 9)
        return HostGain(gain, "", (VmGain("vm0", "p", Interval(79_000, 9, 9), gain),))

    return [Cell(s, p.name, one(), Interval(79_000, 9, 9), behind) for s in scenarios for p in policies]


def printed(scenarios: list[str], policies: list[Policy], width: int, details: bool = False) -> list[list[str]]:
    """The lines of each table."""
    found = []
    for table in tables(made_up(scenarios, policies), "legacy", policies, width, details):
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(table)
        found.append([line.rstrip() for line in console.export_text().splitlines()])
    return found


def test_all_policies_on_the_series_are_one_table_with_the_bound_on_top() -> None:
    names = ["dbench-2vm", "dedup-2vm", "vips-2vm"]
    (lines,) = printed(names, list(POLICIES), 120)
    assert max(map(len, lines)) <= 120
    heading = next(place for place, line in enumerate(lines) if "dbench-2vm" in line)
    assert lines[heading].split() == names
    assert lines[heading + 1].split() == ["policy", "year", "+14.4,", "+6.7", "+47.1,", "+9.7", "+26.2,", "+11.4"]
    body = [line.split() for line in lines[heading + 3 :] if line]
    assert body[0] == ["bound", "(privileged)"]
    rows = [cells for cells in body if cells[0] in POLICY]
    assert [cells[0] for cells in rows] == [policy.name for policy in grouped(POLICIES)]
    assert rows[0][0].startswith("clairvoyant")
    for cells in rows:
        assert cells[1] == POLICY[cells[0]].year
        assert cells[2:] == ["79,000/s"] * 3 if cells[0] == "legacy" else cells[3::3] == ["±"] * 3


@pytest.mark.parametrize("width", [100, 120])
def test_nine_scenarios_fold_into_tables_that_fit(width: int) -> None:
    names = [f"{work}-{vms}vm" for vms in (2, 3, 4) for work in ("dbench", "dedup", "vips")]
    found = printed(names, list(POLICIES), width)
    assert len(found) > 1 and max(len(line) for lines in found for line in lines) <= width
    heads = [name for lines in found for name in next(line for line in lines if "-" in line and "vm" in line).split()]
    assert heads == names
    for lines in found:
        assert {line.split()[0] for line in lines if line.strip()} >= {policy.name for policy in POLICIES}


def test_few_policies_are_columns() -> None:
    policies = [POLICY[name] for name in ("none", "legacy", "relaxed", "clairvoyant")]
    gains, *vms, behind = printed(["dbench-2vm", "hotlock-small"], policies, 100)
    row = next(line for line in gains if line.startswith(" dbench-2vm"))
    assert row.split()[-2:] == ["+14.4,", "+6.7"] and row.count("±") == 3
    assert any("bound (privileged)" in line for line in gains) and "legacy" not in " ".join(gains[1:])
    assert sum("79,000" in line for line in behind) == 8
    assert [lines[0].split(":")[0].strip() for lines in vms] == ["dbench-2vm", "hotlock-small"]
    many = [*policies, *(POLICY[name] for name in ("2011", "2012", "strict"))]
    assert len(many) > MANY
    assert len(printed(["dbench-2vm"], many, 100)) == 1 and len(printed(["dbench-2vm"], many, 100, details=True)) == 3


def options(*arguments: str) -> argparse.Namespace:
    return main.parser().parse_args(["compare", *arguments])


def test_policies_by_name_and_group() -> None:
    assert [policy.name for policy in chosen_policies("all", "legacy")] == [policy.name for policy in POLICIES]
    assert [policy.name for policy in chosen_policies("relaxed, none,relaxed", "legacy")] == [
        "relaxed",
        "none",
        "legacy",
    ]
    kernel = [policy.name for policy in chosen_policies("kernel,bounds", "legacy")]
    assert kernel[:2] == ["2011", "2012"] and kernel[-4:] == ["legacy", *MEMBERS] and kernel.count("legacy") == 1
    for name in ("bound", "clairvoyant-bound", "bounds"):
        assert [policy.name for policy in chosen_policies(name, "legacy")] == [*MEMBERS, "legacy"]
    with pytest.raises(ValueError, match='unknown policy "kernal": did you mean "kernel"'):
        chosen_policies("kernal", "legacy")


def test_scenarios_by_name_group_and_tag() -> None:
    def names(*arguments: str) -> list[str]:
        return [scenario.name for scenario in chosen_scenarios(options(*arguments))]

    assert names("--scenarios", "all") == [scenario.name for scenario in SCENARIOS]
    assert names() == ["dbench-2vm", "dedup-2vm", "vips-2vm"]
    assert len(names("--vms", "2,3,4")) == 9
    assert names("--scenarios", "vips-2vm,series") == ["vips-2vm", "dbench-2vm", "dedup-2vm"]
    for tag in ("train", "validation", "test"):
        assert names("--scenarios", tag) == [scenario.name for scenario in SCENARIOS if scenario.tag == tag] != []
    with pytest.raises(ValueError, match="at least one name"):
        names("--scenarios", ",")


def test_two_scenarios_of_one_name_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    text = next(s for s in SCENARIOS if s.name == "hotlock-small").to_toml()
    file.write_text(text.replace("pcpus = 4", "pcpus = 3"))
    with pytest.raises(ValueError, match="--scenarios = 'hotlock-small': must be one scenario of that name"):
        chosen_scenarios(options("--scenario", str(file), "--scenarios", "hotlock-small"))


def test_compare_takes_a_scenario_file_and_names_its_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from kvmgym.scenarios import BY_NAME

    text = BY_NAME["hotlock-small"].to_toml()
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text(text)
    bad.write_text(text.replace("vcpus", "vcpsu", 1))
    arguments = ["compare", "--seeds", "2", "--duration", "0.005", "--policies", "none", "--out", str(tmp_path / "out")]
    assert main.main([*arguments, "--scenario", str(good)]) == 0
    assert main.main([*arguments, "--scenario", str(bad)]) == 2
    message = capsys.readouterr().err
    assert "bad.toml" in message and "vcpsu" in message and 'did you mean "vcpus"' in message


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["compare", "--policies", "relaxd"], 'unknown policy "relaxd": did you mean "relaxed"'),
        (["compare", "--scenarios", "dedup-2vn"], 'unknown scenario "dedup-2vn": did you mean "dedup-2vm"'),
        (["compare", "--seeds", "1"], "--seeds = '1': must be a whole number from 2 to 10,000"),
        (["compare", "--duration", "-1"], "--duration = '-1': must be a number of seconds from 1e-09 to 1,000,000"),
        (["compare", "--vms", "2,x"], "--vms = 'x': must be whole numbers from 1 to 64"),
    ],
)
def test_bad_input_is_one_message_before_anything_runs(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unwritable_folder_is_said_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main.main(["compare", *QUICK, "--out", str(blocked / "out")]) == 2
    assert "file is none" in capsys.readouterr().err


def test_a_missing_scenario_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["compare", "--scenario", "nowhere.toml"]) == 2
    assert capsys.readouterr().err == (
        "kvmgym compare: --scenario = 'nowhere.toml': must be a file that can be read (No such file or directory)\n"
    )


def test_list_shows_every_entry(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "list.json"
    assert main.main(["list", "--json", str(out)]) == 0
    data = json.loads(out.read_text())
    assert {row["policy"] for row in data["policies"]} >= {"none", "legacy", "relaxed"}
    assert {row["workload"] for row in data["workloads"]} >= {"dbench", "dedup", "vips"}
    assert {row["scenario"] for row in data["scenarios"]} >= {"dedup-2vm", "dedup-4vm"}
    assert {row["policy"]: row["group"] for row in data["policies"]}["clairvoyant"] == "bound (privileged)"
    assert all(row["year"] and row["source"] and row["sees"] for row in data["policies"])
    assert "kvm_vcpu_on_spin" in next(row["source"] for row in data["policies"] if row["policy"] == "legacy")
    text = capsys.readouterr().out
    for name in (*(policy.name for policy in POLICIES), *WORKLOADS, *(scenario.name for scenario in SCENARIOS)):
        assert name in text


@pytest.mark.parametrize("kind", listing.KINDS)
def test_lists_fit_120_columns_with_whole_names(kind: str) -> None:
    heading, rows = listing.rows(kind)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(listing.terminal_table(kind, [dict(zip(heading, row, strict=True)) for row in rows]))
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert max(map(len, lines)) <= 120
    first = {line.split()[0] for line in lines if line.split()}
    assert {row[0] for row in rows} <= first
    assert len(lines) - 5 < 6 * len(rows)  # five without a row


def test_scenarios_are_listed_with_the_switches_that_are_not_at_their_default() -> None:
    work, other = WORKLOADS["dbench"], WORKLOADS["compute"]
    host = Host(pcpus=3, slice_ns=1_500_000, ple=Ple(grow=3, window_ns=999), halt_poll=HaltPoll(200_000))
    vms = (
        Vm("a", 2, work, pin=(0, 1), stream=5),
        Vm("b", 2, work, pin=(1, 2)),
        Vm("c", 1, other, cpus=(0, 1), pv_tlb_flush=True, ipi_tracking="off", enable_relaxed_boost=False),
    )
    scenario = Scenario("s", host, vms, (HostTask("t", Dist.constant(5)),), "words", "test")
    assert listing._scenario_row(scenario) == (
        "s",
        "3 pCPUs, slice 1500 us, ple (window 999 ns, grow 3), halt_poll max 200 us",
        "2 x 2 vCPUs dbench (pinned), 1 x 1 vCPUs compute (on pCPUs 0-1, ipi_tracking off, no enable_relaxed_boost, "
        "pv_tlb_flush), 1 host tasks",
        "test",
        "20 ms",
        "words",
    )


def test_help_of_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("list", "compare", "validate", "bench"):
        assert main.main([command, "--help"]) == 0
        assert "--json FILE" in capsys.readouterr().out


def test_documentation_tables_fill_in_once() -> None:
    page = "before\n<!-- table: costs -->\nold\n<!-- end -->\nafter\n"
    once = filled(page)
    assert "| `switch_ns` | 2,000 | 1200-4000 | V, R |" in once and "old" not in once
    assert once.startswith("before\n") and once.endswith("after\n") and filled(once) == once
    with pytest.raises(KeyError):
        filled("<!-- table: nothing -->\n<!-- end -->")
    assert {"state-vcpu", "state-task", "halt-poll"} <= set(TABLES)
    assert "| `weights` | f8 × 16 |" in TABLES["state-ask"]()
    host = TABLES["host"]()
    assert "`yield_deboost`" in host and not any(name in host for name in ("costs", "`ple`", "halt_poll"))
    heading, _, intel, *others = TABLES["ple-presets"]().splitlines()
    assert heading.startswith("| machine | `enabled` | `window_ns` |")
    assert intel.startswith("| intel | `True` | `1638` |")
    assert [line.split()[1] for line in others] == ["amd", "arm64", "s390"]


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
    assert main.main(["compare", "--scenario", str(file), "--seeds", "2", "--out", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert "deadlock in VM 'a'" in message
    assert "vCPU 0 waits at 'back'" in message and "vCPU 1 waits at 'there'" in message
