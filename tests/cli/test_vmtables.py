"""What a comparison shows of hosts whose VMs run different programs."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from kvmgym.cli import main
from kvmgym.cli.tables import tables
from kvmgym.cli.vmtables import by_vm
from kvmgym.measure.gains import Cell, cells
from kvmgym.policies import BY_NAME as POLICY
from kvmgym.scenarios import BY_NAME as SCENARIO

MIXED = ("mixed-8p-4vm", "dedup-noisy-7vm", "dedup-12p-hog-3ms")
POLICIES = ("none", "random", "legacy", "relaxed", "longest-waiting", "clairvoyant-working")
SHORT = ("--seeds", "2", "--duration", "0.06", "--warmup", "0.02")


def found(*ops: tuple[str, float, float], programs: tuple[str, str] = ("dedup", "server")) -> dict[str, Cell]:
    """Cells by policy over legacy; ops: a policy and what VMs a and b get done, the same in two seeds."""
    behind = {"wasted_share": 0.1, "ple_exits_per_s": 1.0, "yields_ok_per_s": 1.0, "fairness": 0.75}
    rows = [
        {"scenario": "host", "policy": policy, "seed": seed, "vm_names": ["a", "b"], "vm_programs": list(programs),
         "vm_ops_per_s": [a, b], "ops_per_s": None if len(set(programs)) > 1 else a + b, **behind}
        for policy, a, b in (("legacy", 100.0, 10.0), *ops)
        for seed in (0, 1)
    ]  # fmt: skip
    return {cell.policy: cell for cell in cells(rows, "legacy")}


def lines(shown: list, width: int = 100) -> list[list[str]]:
    """The words of each printed line."""
    console = Console(width=width, record=True, file=io.StringIO())
    for table in shown:
        console.print(table)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    return [line.split() for line in text.splitlines() if line.strip()]


def test_a_column_a_policy_and_a_row_a_vm() -> None:
    made = found(("none", 50.0, 20.0), ("random", 200.0, 0.0))
    title, head, _, *body = lines(by_vm(made, "legacy", 100, policies_down=False))
    assert " ".join(title) == "host: each VM's own gain over legacy in %" and head == ["VM", *made]
    assert [" ".join(line) for line in body] == [
        "geometric mean +0.0 ± 0.0 b stands still",
        "a (dedup) 100.0/s -50.0 ± 0.0 +100.0 ± 0.0",
        "b (server) 10.0/s +100.0 ± 0.0 stands still",
        "worst VM a -50.0 % b stands still",
        "Jain's fairness 0.750 0.750 0.750",
    ]


def test_a_row_a_policy() -> None:
    made = found(("none", 50.0, 20.0))
    _, _, _, legacy, none = lines(by_vm(made, "legacy", 100, policies_down=True))
    assert legacy == ["legacy", "100.0/s", "10.0/s", "0.750"]
    assert " ".join(none) == "none +0.0 ± 0.0 -50.0 ± 0.0 +100.0 ± 0.0 a -50.0 % 0.750"


def test_who_is_left_out_is_named_above_the_gains() -> None:
    made = found(("none", 50.0, 0.0), ("legacy", 100.0, 0.0))
    assert made["none"].gain and made["none"].gain.mean == -0.5
    shown = lines(tables(list(made.values()), "legacy", [POLICY["none"], POLICY["legacy"]], 100))
    words = " ".join(word for line in shown for word in line)
    assert "left out, as without progress in either run: host b" in words


@pytest.mark.parametrize("width", [60, 80])
def test_what_is_too_wide_goes_on_below(width: int) -> None:
    made = found(*((name, 50.0, 20.0) for name in POLICIES if name != "legacy"))
    shown = lines(by_vm(made, "legacy", width, policies_down=False), width)
    heads = [name for line in shown if line[0] == "VM" for name in line[1:]]
    assert heads == list(made) and sum(line[0] == "geometric" for line in shown) > 1


def test_operations_of_different_programs_are_no_sum_in_any_table() -> None:
    for programs, rate in ((("dedup", "server"), "by VM"), (("dedup", "dedup"), "110")):
        made = found(("none", 50.0, 20.0), programs=programs)
        shown = lines(tables(list(made.values()), "legacy", [POLICY["none"], POLICY["legacy"]], 100, True))
        behind = [" ".join(line) for line in shown[-2:]]
        assert f"host legacy {rate} 10.0 % 1 1 0.750" in behind
        title = " ".join(word for line in shown for word in line)
        assert ("geometric mean of each VM's own gain" in title) is (rate == "by VM")


@pytest.mark.filterwarnings("error::kvmgym.measure.metrics.MixedProgramsWarning")
def test_details_show_the_geometric_mean_each_vm_and_the_worst(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("--scenarios", ",".join(MIXED), "--policies", ",".join(POLICIES))
    assert main.main(["compare", *names, *SHORT, "--details", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    for scenario in MIXED:
        part = text[text.index(f"{scenario}: each VM's own gain") :]
        part = part[: part.index("each VM's own gain", 1 + len(scenario) + 20)] if scenario != MIXED[-1] else part
        heads = [vm.name for vm in SCENARIO[scenario].vms]
        for head in ("geometric mean", "worst VM", "Jain's fairness", *heads):
            assert f"\n {head} " in part, (scenario, head)

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} in JSON")

    data = json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse)
    assert len(data["cells"]) == len(MIXED) * len(POLICIES)
    for cell in data["cells"]:
        assert cell["ops_per_s"] is None and 0 < cell["fairness"] <= 1
        assert [vm["vm"] for vm in cell["vms"]] == [vm.name for vm in SCENARIO[cell["scenario"]].vms]
        assert cell["worst_vm"]["vm"] in [vm["vm"] for vm in cell["vms"]]
        assert (cell["gain"] is None) == bool(cell["why"])


def test_many_policies_show_each_vm_of_a_mixed_host_without_details(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many = ",".join((*POLICIES, "strict"))
    names = ("--scenarios", "dedup-12p-hog-3ms,hotlock-small", "--policies", many)
    assert main.main(["compare", *names, *SHORT, "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "dedup-12p-hog-3ms: each VM's own gain" in text and "hog (swaptions)" in text
    assert "hotlock-small: each VM's own gain" not in text and "--details" in text
