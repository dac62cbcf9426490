"""Trained agents on the disk: weights in safetensors, settings in JSON. Loading runs no code from a file.

A run's folder holds settings.json (what the agent is and how it was trained), weights.safetensors (what acts) and
checkpoint.safetensors (what training goes on from). Each file is replaced as a whole, so an interruption leaves the old
one. Whatever is wrong with a file, reading it raises one ValueError that names the file and says what to do.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from kvmgym.env.observation import GLOBALS, VCPU_FIELDS
from kvmgym.files import from_json, to_json, write_atomically
from kvmgym_agents.ppo.network import CandidateNetwork, NetworkSettings, field_names
from kvmgym_agents.ppo.training import CHECKPOINT, KIND, SETTINGS, WEIGHTS

VERSION = 1
MOST_BYTES = 256 * 2**20
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Settings:
    """What settings.json holds. fields, digest: the observation that the weights belong to; training: for the reader,
    and for going on."""

    network: NetworkSettings
    training: dict[str, Any]
    kind: str = KIND
    version: int = VERSION
    fields: tuple[str, ...] = field(default_factory=field_names)
    digest: str = field(default_factory=lambda: observation_digest())


def observation_digest() -> str:
    """A digest of the observation's fields, in order, with their meanings, units and ranges: a field that has come to
    mean something else makes old weights wrong without a word."""
    declared = [(found.name, found.meaning, found.unit, found.low, found.high) for found in (*GLOBALS, *VCPU_FIELDS)]
    return hashlib.sha256(repr(declared).encode()).hexdigest()[:16]


def write_settings(folder: Path, settings: Settings) -> None:
    """Write settings.json."""
    write_atomically(folder / SETTINGS, to_json(asdict(settings), indent=2) + "\n")


def read_settings(folder: Path) -> Settings:
    """Read settings.json. Errors: ValueError unless it is of this version and of the observation of this kvmgym."""
    path = Path(folder) / SETTINGS
    content = _read(path)
    try:
        found = from_json(content)
    except ValueError as error:
        raise ValueError(f"{path}: no JSON ({error}); the file is damaged") from None
    if not isinstance(found, dict) or found.get("kind") != KIND:
        kind = found.get("kind") if isinstance(found, dict) else type(found).__name__
        raise ValueError(f'{path}: kind is {kind!r}, not "{KIND}": no agent of kvmgym_agents.ppo')
    if found.get("version") != VERSION:
        raise ValueError(f"{path}: version {found.get('version')!r}; this kvmgym reads version {VERSION}")
    wanted = set(Settings.__dataclass_fields__)
    odd = sorted(wanted ^ set(found))
    if odd:
        raise ValueError(f"{path}: fields that are missing or not known: {', '.join(odd)}")
    for name, kinds in (("network", dict), ("training", dict), ("fields", list), ("digest", str)):
        if not isinstance(found[name], kinds):
            raise ValueError(f"{path}: {name} is a {type(found[name]).__name__}, not a {kinds.__name__}")
    _check_observation(path, found["fields"], found["digest"])
    odd = sorted(set(found["network"]) ^ set(NetworkSettings.__dataclass_fields__))
    if odd:
        raise ValueError(f"{path}: network: missing or not known: {', '.join(odd)}")
    try:
        network = NetworkSettings(**found["network"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: network: {error}") from None
    if network.inputs != len(field_names()):
        raise ValueError(f"{path}: network: inputs = {network.inputs} but there are {len(field_names())} fields")
    return Settings(network, found["training"])


def _check_observation(path: Path, fields: list[Any], digest: str) -> None:
    here = field_names()
    if tuple(fields) != here:
        only_there = [str(name) for name in fields if name not in here]
        only_here = [name for name in here if name not in fields]
        unlike = f"only there: {', '.join(only_there) or 'none'}; only here: {', '.join(only_here) or 'none'}"
        raise ValueError(
            f"{path}: the agent was trained on another observation ({digest}) than this kvmgym's "
            f"({observation_digest()}): {unlike if only_there or only_here else 'the order differs'}; train it again"
        )
    if digest != observation_digest():
        raise ValueError(
            f"{path}: the agent's observation {digest} has the fields of this kvmgym's {observation_digest()} with "
            "other meanings, units or ranges; train it again"
        )


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, Any]) -> None:
    """Write tensors with notes (plain data for JSON) and a digest of both."""
    plain = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    text = to_json(dict(notes))
    write_atomically(path, save(plain, {"kind": KIND, "notes": text, "digest": _digest(plain, text)}))


def read_tensors(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Tensors and notes. Errors: ValueError for a file that is missing, cut off or altered."""
    content = _read(path)
    try:
        tensors: Tensors = load(content)
        header = from_json(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        notes = from_json(header["notes"])
        right = header["kind"] == KIND and header["digest"] == _digest(tensors, header["notes"])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a file of kvmgym_agents.ppo, or damaged or cut off ({error})") from None
    if not right:
        raise ValueError(f"{path}: damaged: its content does not match its digest")
    return tensors, notes


def save_weights(folder: Path, network: CandidateNetwork, notes: Mapping[str, Any]) -> None:
    """Write weights.safetensors."""
    write_tensors(folder / WEIGHTS, network.state_dict(), notes)


def load_network(folder: Path) -> tuple[CandidateNetwork, Settings]:
    """The network of a run's folder, ready to act, and its settings. Errors: ValueError."""
    settings = read_settings(folder)
    tensors, _ = read_tensors(Path(folder) / WEIGHTS)
    with torch.device("meta"):  # sizes without numbers: a network that the weights do not fit is never made
        network = CandidateNetwork(settings.network)
    _check_tensors(network, tensors, Path(folder) / WEIGHTS)
    network.to_empty(device="cpu").load_state_dict(tensors)
    return network.eval(), settings


def save_checkpoint(
    folder: Path, network: CandidateNetwork, optimizer: torch.optim.Optimizer, progress: Mapping[str, Any]
) -> None:
    """Write checkpoint.safetensors: weights, the optimizer's state, and how far training has come."""
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for place, state in optimizer.state_dict()["state"].items():
        tensors.update({f"optimizer.{place}.{name}": value for name, value in state.items()})
    write_tensors(folder / CHECKPOINT, tensors, progress)


def load_checkpoint(folder: Path, network: CandidateNetwork, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put a checkpoint into a network and its optimizer; returns the progress. Errors: ValueError."""
    path = Path(folder) / CHECKPOINT
    tensors, progress = read_tensors(path)
    whole = optimizer.state_dict()
    state: dict[int, Tensors] = {}
    weights: Tensors = {}
    for name, tensor in tensors.items():
        owner, _, rest = name.partition(".")
        place, _, last = rest.partition(".")
        if owner == "network":
            weights[rest] = tensor
        elif owner == "optimizer" and place.isdigit() and int(place) < len(whole["param_groups"][0]["params"]):
            state.setdefault(int(place), {})[last] = tensor
        else:
            raise ValueError(f"{path}: holds {name!r}, which this network does not have")
    _check_tensors(network, weights, path)
    network.load_state_dict(weights)
    for number, parameter in enumerate(network.parameters()):
        for part, value in state.get(number, {}).items():
            if value.shape not in (parameter.shape, torch.Size([])):
                raise ValueError(f"{path}: optimizer.{number}.{part} is {list(value.shape)}: of another network")
    optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
    return progress


def _check_tensors(network: CandidateNetwork, tensors: Tensors, path: Path) -> None:
    """Check that tensors are a network's own and finite. Errors: ValueError."""
    wanted = network.state_dict()
    unlike = sorted(set(wanted) ^ set(tensors))
    if unlike:
        raise ValueError(f"{path}: weights of another network: missing or not known: {', '.join(unlike)}")
    for name, own in wanted.items():
        tensor = tensors[name]
        if tensor.shape != own.shape or tensor.dtype != own.dtype:
            raise ValueError(
                f"{path}: {name} is {tensor.dtype} {list(tensor.shape)}; the settings say {list(own.shape)}"
            )
        if not math.isfinite(float(tensor.abs().sum())):
            raise ValueError(f"{path}: {name} holds numbers that are not finite")


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path}: larger than {MOST_BYTES} bytes: no file of kvmgym_agents.ppo")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}): is this the folder of a training run?") from None


def _digest(tensors: Mapping[str, torch.Tensor], notes: str) -> str:
    found = hashlib.sha256(notes.encode())
    for name in sorted(tensors):
        found.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}".encode())
        found.update(tensors[name].cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
