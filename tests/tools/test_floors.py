"""The lowest versions that the project claims, as pip takes them."""

from pathlib import Path

import pytest

from tools.floors import floors


def test_every_dependency_has_its_floor() -> None:
    found = dict(each.split("==") for each in floors(extras=["plots"]))
    assert list(found) == ["numpy", "numba", "gymnasium", "rich", "matplotlib"]
    assert all(version[0].isdigit() for version in found.values())


def test_names_extras_and_upper_ends(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text(
        '[project]\ndependencies = ["a>=1.2,<3", "b-c>=2"]\n'
        '[project.optional-dependencies]\nmore = ["ray[default]>=2.40"]\n'
    )
    assert floors(project) == ["a==1.2", "b-c==2"]
    assert floors(project, ["more"])[-1] == "ray[default]==2.40"
    with pytest.raises(KeyError):
        floors(project, ["less"])
    project.write_text('[project]\ndependencies = ["a<3"]\n')
    with pytest.raises(ValueError, match="a<3: must have a lowest version, as numpy>=2.0"):
        floors(project)
