"""`kvmgym compare --kernel`: a table a kernel, without the policies that a kernel has nothing for."""

import json

import pytest

from kvmgym.cli.compare import chosen_parts, chosen_policies
from kvmgym.cli.main import main
from kvmgym.params import KERNELS
from kvmgym.scenarios import BY_NAME

SMALL = BY_NAME["shootdowns-small"]


def parts(kernels, policies="none,series-v2", baseline="legacy"):
    return chosen_parts(kernels, [SMALL], chosen_policies(policies, baseline), baseline)


def test_each_kernel_is_a_part_with_what_fits_it():
    found = parts("6.1,6.19")
    assert [part.kernel for part in found] == ["6.1", "6.19"]
    assert [part.scenarios[0].host.scheduler for part in found] == ["cfs", "eevdf"]
    fit = [[policy.name for policy in part.policies] for part in found]
    assert fit == [["none", "legacy"], ["none", "series-v2", "legacy"]]
    assert [part.left_out for part in found] == [("series-v2",), ()]
    assert found[0].heading().startswith("Linux 6.1, CFS: a hint is heeded within a wakeup granularity")
    assert "without series-v2: their scheduler half is for EEVDF" in found[0].heading()
    assert [part.kernel for part in parts("6.19,all")] == ["6.19", *list(KERNELS)[:-1]]
    assert [part.kernel for part in parts(None)] == [None]


def test_a_kernel_that_there_is_not_and_a_baseline_that_does_not_fit():
    with pytest.raises(ValueError, match='--kernel: unknown kernel "6.2": did you mean "6.1'):
        parts("6.2")
    with pytest.raises(ValueError, match="--kernel = ''"):
        parts("")
    with pytest.raises(ValueError, match="--baseline = 'series-v2': must be a policy without a scheduler half on 6.1"):
        parts("6.1", baseline="series-v2")
    on_cfs = parts("6.1", "none")[0].scenarios
    with pytest.raises(ValueError, match="policy series-v2: Host.scheduler = 'cfs': must be"):
        chosen_parts(None, on_cfs, chosen_policies("series-v2", "legacy"), "legacy")


def test_compare_prints_a_table_a_kernel(tmp_path, capsys):
    short = ["--seeds", "2", "--duration", "0.01", "--warmup", "0", "--out", str(tmp_path)]
    arguments = ["compare", "--kernel", "6.1,6.19", "--scenarios", SMALL.name, "--policies", "none,series-v2"]
    assert main([*arguments, *short]) == 0
    out = capsys.readouterr().out
    assert out.index("Linux 6.1, CFS") < out.index("Linux 6.19, EEVDF")
    kernels = json.loads((tmp_path / "summary.json").read_text())["kernels"]
    named = {name: [cell["policy"] for cell in data["cells"]] for name, data in kernels.items()}
    assert named == {"6.1": ["none", "legacy"], "6.19": ["none", "series-v2", "legacy"]}
    assert {path.name for path in tmp_path.glob("gain-*.png")} == {"gain-6.1.png", "gain-6.19.png"}
    legacy = [next(cell for cell in data["cells"] if cell["policy"] == "legacy") for data in kernels.values()]
    assert legacy[0] != legacy[1]
