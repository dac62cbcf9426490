"""The PPO agent: what its network may depend on, its buffer, its command. test_ppo_files.py has its files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sb3_contrib")
pytest.importorskip("safetensors")

import kvmgym_agents  # noqa: E402
from kvmgym_agents.ppo import agent as ppo_agent  # noqa: E402
from kvmgym_agents.ppo import loop, storage, training  # noqa: E402
from kvmgym_agents.ppo.network import field_names  # noqa: E402
from kvmgym_agents.ppo.policy import TimedBuffer  # noqa: E402
from networks import network, rows  # noqa: E402
from rich.console import Console  # noqa: E402
from stable_baselines3.common.logger import Logger  # noqa: E402

from kvmgym.cli import main  # noqa: E402
from kvmgym.env.vector import DirectedYieldVectorEnv  # noqa: E402
from kvmgym.measure.evaluate import evaluate  # noqa: E402
from kvmgym.measure.simulate import simulate_batch  # noqa: E402
from kvmgym.scenarios import BY_NAME  # noqa: E402

ROOT = Path(__file__).parents[2]
TINY = ("--envs", "4", "--steps", "8", "--batch", "16", "--evaluation-seeds", "2", "--episode-ms", "5")


# --- the network ------------------------------------------------------------------------------------------------------


def test_permuting_the_vcpus_permutes_the_scores() -> None:
    made, seen = network(), rows(5, 7)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    scores, values = made(seen)
    permuted, same_values = made(seen[:, order])
    torch.testing.assert_close(permuted[:, :7], scores[:, order])
    torch.testing.assert_close(permuted[:, 7], scores[:, 7])
    torch.testing.assert_close(same_values, values)
    assert bool((scores[:, :7].std(dim=1) > 1e-3).all())  # the candidates are told apart at all


def test_padding_changes_nothing() -> None:
    made, seen = network(), rows(3, 4)
    padded = torch.cat([seen, torch.zeros(3, 6, seen.shape[2])], dim=1)
    scores, values = made(seen)
    wider, same_values = made(padded)
    torch.testing.assert_close(wider[:, [0, 1, 2, 3, 10]], scores)
    torch.testing.assert_close(same_values, values)


def test_the_end_of_an_episode_is_worth_nothing() -> None:
    scores, values = network()(torch.zeros(2, 4, len(field_names())))
    assert values.tolist() == [0, 0] and bool(torch.isfinite(scores).all())


def test_sb3_policy_and_agent_give_the_same_probabilities(tmp_path: Path) -> None:
    run = loop.Run(tmp_path, training.Training(envs=4, steps=8, batch=16), Console(quiet=True))
    observation = run.vec.reset()
    masks = run.vec.masks()
    theirs = run.model.policy.get_distribution(torch.as_tensor(observation), masks).distribution.probs
    ours = ppo_agent.PpoAgent(run.network).probabilities(observation, masks)
    torch.testing.assert_close(ours, theirs.detach())
    assert float(ours[~torch.as_tensor(masks)].abs().sum()) == 0
    torch.testing.assert_close(ours.sum(dim=1), torch.ones(4))
    greedy, _ = run.model.predict(observation, action_masks=masks, deterministic=True)
    acting = ppo_agent.PpoAgent(run.network, sample=False)
    assert greedy.tolist() == acting.act(observation, {"action_mask": masks}).tolist()


def test_wrong_observations_are_named() -> None:
    acting = ppo_agent.PpoAgent(network())
    with pytest.raises(ValueError, match=r'observation \[2, 20\]: must be \[E, V, 34\], of the form "matrix"'):
        acting.act(np.zeros((2, 20)), {"action_mask": np.ones((2, 5))})
    with pytest.raises(ValueError, match=r"action_mask \[2, 4\]: must be \[2, 5\]"):
        acting.act(np.zeros((2, 4, 34)), {"action_mask": np.ones((2, 4))})


def test_draws_follow_the_probabilities_and_not_the_batch() -> None:
    seen = rows(1, 3).expand(20_000, -1, -1)
    info = {"action_mask": np.tile(np.array([1, 0, 1, 1], np.int8), (20_000, 1)), "now_ns": np.arange(20_000) * 100}
    info |= {name: np.ones(20_000, np.int64) for name in ("vm", "me", "attempt")}
    acting = ppo_agent.PpoAgent(network())
    wanted = acting.probabilities(seen[:1], info["action_mask"][:1])[0].numpy()
    assert wanted.max() < 0.9
    drawn = acting.act(seen, info)
    counts = np.bincount(drawn, minlength=4) / 20_000
    np.testing.assert_allclose(counts, wanted, atol=0.015)  # four standard errors
    assert counts[1] == 0
    few = [17, 3, 1900]
    assert acting.act(seen[few], {key: value[few] for key, value in info.items()}).tolist() == drawn[few].tolist()


# --- the buffer -------------------------------------------------------------------------------------------------------


def test_advantages_discount_by_time_and_compare_with_what_is_usual() -> None:
    """Two steps of one row, 100 µs and 0 (a failed attempt asks again at once), tau 200 µs, by hand."""
    env = DirectedYieldVectorEnv(1, "dedup-small", observation="matrix")
    times = iter(([100_000], [0]))
    buffer = TimedBuffer(
        2, env.single_observation_space, env.single_action_space, "cpu", gae_lambda=0.5, n_envs=1,
        elapsed_ns=lambda: np.array(next(times)), tau_ns=200_000.0,
    )  # fmt: skip
    values, given = (0.5, 0.25), (-0.75, -0.25)
    for value, reward in zip(values, given, strict=True):
        buffer.add(
            env.observation_space.sample(), np.zeros(1), np.array([reward]), np.zeros(1), torch.tensor([value]),
            torch.zeros(1), action_masks=np.ones((1, 5)),
        )  # fmt: skip
    buffer.compute_returns_and_advantage(torch.tensor([2.0]), np.array([False]))
    usual = -1.0  # all the reward / all the time, in units of 100 µs
    second = -0.25 - usual * 0 + 1.0 * 2.0 - 0.25
    first = (-0.75 - usual * 1) + np.exp(-0.5) * 0.25 - 0.5 + np.exp(-0.5) * 0.5 * second
    assert buffer.usual == pytest.approx(usual)
    assert buffer.advantages[:, 0].tolist() == pytest.approx([first, second])
    assert buffer.returns[:, 0].tolist() == pytest.approx([first + 0.5, second + 0.25])


# --- the command ------------------------------------------------------------------------------------------------------


def command(capsys: Any, *arguments: str) -> tuple[int, str]:
    status = main.main(["train", *arguments])
    return status, capsys.readouterr().err


def test_mistakes_are_told_before_any_work(tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "run"
    for arguments, message in (
        (("--scenario", "dedup-smal"), 'unknown scenario "dedup-smal": did you mean "dedup-small"?'),
        (("--scenario", "nowhere.toml"), "--scenario nowhere.toml: No such file"),
        (("--minutes", "0"), "--minutes = 0.0: must be 0.001 to 1e+06"),
        (("--minutes", "nan"), "--minutes = nan: must be"),
        (("--batch", "100000"), "--batch = 100000: must be at most envs * steps"),
        (("--minutes", "inf"), "--minutes = inf: must be 0.001 to 1e+06"),
        (("--decisions", str(2**31)), "--decisions = 2147483648: must be 0 to 2147483647"),
        (("--envs", "1000000"), "--envs = 1000000: must be 2 to 100000"),
        (("--envs", "100000", "--steps", "100000"), "--envs = 100000: must be less, or --steps 100000: a rollout"),
        (("--hidden", "4096"), "--hidden = 4096: must be 1 to 1000"),
        (("--threads", "0"), "--threads = '0': must be a whole number from 1 to 1,024"),
        (("--resume",), "no checkpoint to go on from"),
    ):
        status, error = command(capsys, "--out", str(folder), *arguments)
        assert status == 2 and error.startswith("kvmgym train: ") and message in error
        assert len(error.splitlines()) == 1
        assert not folder.exists()


def test_train_then_resume_then_act_on_wider_vms(tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "run"
    begin = ("--out", str(folder), "--scenario", "dedup-small", *TINY, "--every-s", "0.5")
    assert main.main(["train", *begin, "--minutes", "0.02"]) == 0
    first = json.loads((folder / training.EVALUATIONS).read_text().splitlines()[-1])
    told = first["gain_over_legacy"]["dedup-small"]
    assert first["steps"] >= 32 and [vm["vm"] for vm in told["vms"]] == ["vm0", "vm1"] and 0 < told["fairness"] <= 1
    assert told["gain"]["low"] <= told["gain"]["mean"] <= told["gain"]["high"] and "worst_vm" in told
    assert storage.read_settings(folder).training["minutes"] == 0.02
    before = (folder / storage.WEIGHTS).read_bytes()

    for arguments, message in (
        (begin, "holds a run: go on with --resume"),
        (("--out", str(folder), "--resume"), "has been trained for"),
        (("--out", str(folder), "--resume", "--minutes", "9", "--seed", "5"), "--seed 5: .* was begun with 0"),
    ):
        status, error = command(capsys, *arguments)
        assert status == 2 and re.search(message, error)
    assert (folder / storage.WEIGHTS).read_bytes() == before

    spent = storage.read_tensors(folder / storage.CHECKPOINT)[1]["seconds"]
    assert main.main(["train", "--out", str(folder), "--resume", "--minutes", str(spent / 60 + 0.03)]) == 0
    _, notes = storage.read_tensors(folder / storage.CHECKPOINT)
    assert notes["steps"] > first["steps"] and notes["seconds"] >= spent + 1.8
    assert (folder / storage.WEIGHTS).read_bytes() != before

    acting = kvmgym_agents.load(folder)  # trained on 4 vCPUs, acts on 16
    env = DirectedYieldVectorEnv(3, "dedup-2vm", **acting.env_options, autoreset_mode="same_step", debug=True)
    observation, info = env.reset(seed=0)
    targets = set()
    for _ in range(200):
        actions = acting.act(observation, info)
        assert actions.dtype == np.int64 and env.action_masks()[np.arange(3), actions].all()
        targets |= set(actions.tolist())
        observation, _, _, _, info = env.step(actions)
    assert max(targets) > 4  # not only the first four and "no yield" of the training


def test_a_number_of_decisions_and_a_seed_decide_every_bit(tmp_path: Path, capsys: Any) -> None:
    """However often it is evaluated on the way; another seed gives another network; a run may go on for more."""
    weights = {}
    for name, seed, every_s in (("one", "3", "0.01"), ("two", "3", "60"), ("other", "4", "60")):
        begin = ("--out", str(tmp_path / name), "--scenario", "dedup-small", *TINY, "--every-s", every_s)
        assert main.main(["train", *begin, "--decisions", "50", "--seed", seed]) == 0
        weights[name] = storage.read_tensors(tmp_path / name / storage.WEIGHTS)[0]
    assert all(torch.equal(tensor, weights["two"][name]) for name, tensor in weights["one"].items())
    assert not all(torch.equal(tensor, weights["other"][name]) for name, tensor in weights["one"].items())
    _, notes = storage.read_tensors(tmp_path / "one" / storage.CHECKPOINT)
    assert 50 <= notes["steps"] < 100
    status, error = command(capsys, "--out", str(tmp_path / "one"), "--resume")
    assert status == 2 and "give more --decisions" in error
    assert main.main(["train", "--out", str(tmp_path / "one"), "--resume", "--decisions", "90"]) == 0
    assert storage.read_tensors(tmp_path / "one" / storage.CHECKPOINT)[1]["steps"] >= 90


@pytest.mark.slow
def test_it_learns_to_yield(tmp_path: Path) -> None:
    """At the start the greedy agent yields to nobody or by chance; some 80,000 decisions later it is near the best."""
    settings = training.Training(scenario="dedup-small", minutes=1000, every_s=1e6)
    loop.prepare_torch(1, 0)
    run = loop.Run(tmp_path, settings, Console(quiet=True))
    run.model.set_logger(Logger(None, []))
    run.model.learn(90_000)
    times = {"duration_ns": 80_000_000, "warmup_ns": 20_000_000}
    seeds = range(12)
    found = evaluate(ppo_agent.PpoAgent(run.network), BY_NAME["dedup-small"], seeds, **times)
    mine = np.mean([row["ops_per_s"] for row in found])
    policies = {}
    for name in ("none", "longest-waiting"):
        results = simulate_batch(BY_NAME["dedup-small"], name, seeds=seeds, **times)
        policies[name] = np.mean([result.ops_per_s for result in results])
    assert mine > 1.25 * policies["none"]
    assert mine > 0.93 * policies["longest-waiting"]


def test_single_file_runs_in_seconds() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "agents/ppo_single_file.py"), "--total-steps", "2048", "--num-envs", "16"],
        capture_output=True, text=True, timeout=120, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1 and lines[0].startswith("steps 2048  SPS ") and "return" in lines[0]
