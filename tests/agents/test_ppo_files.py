"""Trained agents on the disk: what comes back, what is refused, and that no code in a file is run."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

import kvmgym_agents  # noqa: E402
from kvmgym_agents.ppo import agent as ppo_agent  # noqa: E402
from kvmgym_agents.ppo import storage  # noqa: E402
from kvmgym_agents.ppo.network import CandidateNetwork, field_names  # noqa: E402
from networks import network, rows  # noqa: E402


def saved(folder: Path) -> CandidateNetwork:
    made = network()
    storage.write_settings(folder, storage.Settings(made.settings, {"minutes": 1}))
    storage.save_weights(folder, made, {"steps": 1})
    return made


def test_a_saved_agent_comes_back_as_it_was(tmp_path: Path) -> None:
    made = saved(tmp_path / "mine")
    found = kvmgym_agents.load(tmp_path / "mine")
    assert found.name == "mine" and isinstance(found, ppo_agent.PpoAgent)
    seen = rows(2, 5)
    assert torch.equal(found.network(seen)[0], made(seen)[0])


def test_weights_that_are_cut_off_or_altered_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    path = tmp_path / storage.WEIGHTS
    whole = path.read_bytes()
    for length in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"weights\.safetensors: not a file of kvmgym_agents\.ppo"):
            ppo_agent.load(tmp_path)
    for place in (len(whole) - 3, len(whole) // 2):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"weights\.safetensors: damaged: its content does not match its digest"):
            ppo_agent.load(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=r"weights\.safetensors: cannot be read \(No such file"):
        ppo_agent.load(tmp_path)


class _Evil:
    """Unpickled, it would make a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("name", [storage.WEIGHTS, storage.SETTINGS])
def test_no_code_in_a_file_is_run(tmp_path: Path, name: str) -> None:
    saved(tmp_path)
    marker = tmp_path / "ran"
    evil = pickle.dumps(_Evil(marker))
    pickle.loads(evil)
    assert marker.exists()  # it would have
    marker.unlink()
    (tmp_path / name).write_bytes(evil)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        ppo_agent.load(tmp_path)
    torch.save({"x": _Evil(marker)}, tmp_path / name)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        ppo_agent.load(tmp_path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kind": "dqn"}, "kind is 'dqn', not \"maskable-ppo\""),
        ({"version": 2}, "version 2; this kvmgym reads version 1"),
        ({"more": 1}, "missing or not known: more"),
        ({"training": None}, "training is a NoneType, not a dict"),
        ({"network": {"hidden": 8}}, "network: missing or not known: inputs"),
        ({"network": {"inputs": 34, "hidden": 8, "deep": 3}}, "network: missing or not known: deep"),
        ({"network": {"inputs": 33, "hidden": 8}}, "inputs = 33 but there are 34 fields"),
        ({"network": {"inputs": 34, "hidden": 0}}, "NetworkSettings.hidden = 0: must be 1 to 4096"),
        (
            {"network": {"inputs": 34, "hidden": 16}},
            r"embed\.0\.weight is torch\.float32 \[8, 34\]; the settings say \[16, 34\]",
        ),
        (
            {"digest": "0123"},
            f"observation 0123 .* {storage.observation_digest()} with other meanings, units or ranges",
        ),
        (
            {"fields": ["global.window", "vcpu.mood"], "digest": "0123"},
            rf"another observation \(0123\) than this kvmgym's \({storage.observation_digest()}\): "
            r"only there: vcpu\.mood; only here: global\.exits, ",
        ),
        ({"fields": list(reversed(field_names()))}, "the order differs"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    saved(tmp_path)
    path = tmp_path / storage.SETTINGS
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        ppo_agent.load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"kind": "maskable-ppo"}'])
def test_damaged_settings_are_refused(tmp_path: Path, text: str) -> None:
    saved(tmp_path)
    (tmp_path / storage.SETTINGS).write_text(text)
    with pytest.raises(ValueError, match=r"settings\.json"):
        ppo_agent.load(tmp_path)


def test_weights_that_are_not_finite_or_of_another_network_are_refused(tmp_path: Path) -> None:
    made = saved(tmp_path)
    tensors = made.state_dict()
    storage.write_tensors(tmp_path / storage.WEIGHTS, {**tensors, "no_yield.bias": torch.tensor([torch.nan])}, {})
    with pytest.raises(ValueError, match=r"no_yield\.bias holds numbers that are not finite"):
        ppo_agent.load(tmp_path)
    storage.write_tensors(tmp_path / storage.WEIGHTS, {**tensors, "odd": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match="missing or not known: odd"):
        ppo_agent.load(tmp_path)


def test_a_checkpoint_brings_back_weights_and_optimizer(tmp_path: Path) -> None:
    def trained(seed: int) -> tuple[CandidateNetwork, Any]:
        made = network(seed)
        optimizer = torch.optim.Adam(made.parameters(), lr=1e-2)
        for step in range(3):
            optimizer.zero_grad()
            scores, values = made(rows(4, 3, step))
            (scores.square().mean() + values.square().mean()).backward()
            optimizer.step()
        return made, optimizer

    first, optimizer = trained(0)
    storage.save_checkpoint(tmp_path, first, optimizer, {"steps": 3})
    second, other = trained(1)
    assert storage.load_checkpoint(tmp_path, second, other) == {"steps": 3}
    for mine, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        for name in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(optimizer.state[mine][name], other.state[theirs][name])
    wider = network(hidden=16)
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors: embed.*; the settings say \[16, 34\]"):
        storage.load_checkpoint(tmp_path, wider, torch.optim.Adam(wider.parameters()))
