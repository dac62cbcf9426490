"""What is installed: kvmgym and kvmgym_agents, nothing else at the top, with the agents' entry point."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import kvmgym_agents
import pytest

from kvmgym.measure import agents

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_nothing_is_installed_under_a_name_that_others_use() -> None:
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert [Path(package).name for package in packages] == ["kvmgym", "kvmgym_agents"]
    assert all((ROOT / package / "__init__.py").is_file() for package in packages)
    assert not (ROOT / "agents" / "__init__.py").exists()  # a folder, no package: `import agents` is somebody else's


def test_the_entry_points_are_those_of_the_project_and_name_what_they_must() -> None:
    declared = PROJECT["project"]["entry-points"][agents.GROUP]
    installed = {point.name: point.value for point in entry_points(group=agents.GROUP)}
    assert declared.items() <= installed.items(), "install the project again: pip install -e ."
    for name, module in declared.items():
        kind = importlib.import_module(module)
        assert agents.kind(name) is kind and isinstance(kind, agents.Trainable)
        assert set(kind.files) >= {agents.SETTINGS} and kind.needs.startswith("kvmgym[")
        assert module.split(".")[0] == kvmgym_agents.__name__


def test_the_extra_for_training_brings_what_the_progress_bar_of_sb3_needs() -> None:
    wanted = {"tqdm", "rich"}
    given = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["train"]]
    assert wanted <= {text.split(">")[0] for text in given}


def test_the_wheel_holds_two_packages(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"kvmgym", "kvmgym_agents"}
