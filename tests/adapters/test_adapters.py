"""RLlib's observation and Minari's datasets; that nobody imports the adapters' libraries."""

import copy
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from episodes import lowest
from gymnasium.utils.env_checker import data_equivalence

import kvmgym
from kvmgym.adapters import rllib
from kvmgym.scenarios import BY_NAME

DURATION_NS = 3_000_000


def test_adapters_are_imported_by_nobody() -> None:
    heavy = "stable_baselines3", "torch", "pettingzoo", "ray", "minari", "h5py", "matplotlib"
    code = (
        f"import sys, kvmgym, kvmgym.adapters, kvmgym.adapters.rllib; print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- documentation ----------------------------------------------------------------------------------------------------

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adapters.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
NEEDS = {
    "time": "gymnasium",
    "masks": "gymnasium",
    "sb3": "sb3_contrib",
    "pettingzoo": "pettingzoo",
    "rllib": "gymnasium",
    "training": "torch ray.rllib",
    "torchrl": "torchrl",
    "minari": "minari h5py",
}
SLOW = ("training",)  # Ray takes seconds to start


@pytest.mark.parametrize(
    "place, needs",
    [
        pytest.param(place, NEEDS[name], id=name, marks=[pytest.mark.slow] if name in SLOW else [])
        for place, name in enumerate(NEEDS)
    ],
)
@pytest.mark.filterwarnings("ignore:.*is set to None", "ignore:`eval_env`")  # Minari asks for a description
@pytest.mark.filterwarnings("ignore:.*Overriding environment rllib")  # by RLlib itself
def test_the_examples_of_the_documentation_print_what_they_say(
    place: int, needs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for library in needs.split():
        pytest.importorskip(library)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert len(EXAMPLES) == len(NEEDS)
    try:
        exec(compile(EXAMPLES[place], "example", "exec"), {})
    finally:
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()
    told = re.search(r"print\(.*\)  # (.*)", EXAMPLES[place])
    assert told and capsys.readouterr().out == told[1] + "\n"


# --- RLlib ------------------------------------------------------------------------------------------------------------


def test_rllib_gets_the_observation_and_the_mask_it_expects() -> None:
    env = rllib.create({"scenario": "dbench-small", "duration_ns": DURATION_NS})
    assert set(env.observation_space.spaces) == {"observations", "action_mask"}
    assert env.observation_space["action_mask"] == gym.spaces.Box(0.0, 1.0, (5,), np.float32)
    assert env.observation_space["observations"] == env.unwrapped.observation_space
    seen, _ = env.reset(seed=1)
    ended = False
    while not ended:
        assert env.observation_space.contains(seen)
        with np.errstate(divide="ignore"):
            allowed = np.isfinite(np.log(seen["action_mask"]))  # what its modules add to the logits
        np.testing.assert_array_equal(allowed, env.get_wrapper_attr("action_masks")())
        seen, _, _, ended, _ = env.step(int(lowest(seen["action_mask"])))
    assert rllib.create().unwrapped.action_space == gym.spaces.Discrete(5)
    with pytest.raises(TypeError, match="scenarioo"):
        rllib.create({"scenarioo": "dedup-small"})


def test_rllib_gets_the_native_batch_when_it_asks_for_one() -> None:
    config = {"scenario": "dbench-small", "duration_ns": DURATION_NS}
    batch = rllib.create({**config, "num_envs": 2})  # as gym_env_vectorize_mode="vector_entry_point" does
    single = rllib.create(config)
    assert batch.num_envs == 2 and batch.single_observation_space == single.observation_space
    assert batch.metadata["autoreset_mode"] == gym.vector.AutoresetMode.NEXT_STEP
    seen, (expected, _) = batch.reset(seed=0)[0], single.reset(seed=1)
    ended = False
    while not ended:
        assert batch.observation_space.contains(seen)
        assert data_equivalence({key: rows[1] for key, rows in seen.items()}, expected)
        kept, before = seen, copy.deepcopy(seen)
        actions = lowest(seen["action_mask"])
        seen = batch.step(actions)[0]
        expected, _, _, ended, _ = single.step(int(actions[1]))
        assert data_equivalence(kept, before)  # a later step leaves what RLlib keeps alone
    for fixed in ({"copy": False}, {"autoreset_mode": "same_step"}):
        with pytest.raises(TypeError, match=next(iter(fixed))):
            rllib.create({"num_envs": 2, **fixed})


# --- Minari -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    pytest.importorskip("minari")
    pytest.importorskip("h5py")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    about = {
        "author": "A",
        "author_email": "a@example.org",
        "code_permalink": "-",
        "description": "-",
        "eval_env": None,
    }
    from kvmgym.adapters.minari import record

    def recorded(dataset_id: str, agent: Any, **options: Any) -> Any:
        import minari

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Minari asks for what `about` may have
            record(dataset_id, agent, about={"algorithm_name": "lowest", **about}, **options)
            return minari.load_dataset(dataset_id)

    return recorded


@pytest.mark.parametrize("form", ["flat", "dict"])
def test_a_dataset_holds_what_the_single_environment_does(recorder: Callable[..., Any], form: str) -> None:
    dataset = recorder(
        "kvmgym/lowest-v0",
        lambda observations, infos: lowest(infos["action_mask"]),
        episodes=5,
        num_envs=2,
        seed=20,
        duration_ns=DURATION_NS,
        observation=form,
        copy=False,
    )
    env = dataset.recover_environment()
    assert env.spec.kwargs == {"scenario": "dedup-small", "duration_ns": DURATION_NS, "observation": form}
    metadata = list(dataset.storage.get_episode_metadata(range(5)))
    assert [row["seed"] for row in metadata] == [20, 21, 22, 23, 24]
    assert dataset.total_episodes == 5 and dataset.total_steps == sum(int(row["total_steps"]) for row in metadata)
    for episode, row in zip(dataset.iterate_episodes(), metadata, strict=True):
        seen, info = env.reset(seed=row["seed"])
        rows = {"": episode.observations} if form == "flat" else episode.observations
        for step in range(len(episode.actions) + 1):
            stored = {key: values[step] for key, values in rows.items()}
            assert data_equivalence(stored, {"": seen} if form == "flat" else seen)
            np.testing.assert_array_equal(episode.infos["action_mask"][step], info["action_mask"])
            assert episode.infos["elapsed_ns"][step] == info["elapsed_ns"]
            if step == len(episode.actions):
                break
            seen, reward, _, truncated, info = env.step(int(episode.actions[step]))
            assert reward == episode.rewards[step] and truncated == episode.truncations[step]
        assert episode.truncations[-1] and not episode.terminations.any()


def test_an_agent_is_prepared_bound_and_given_its_options(recorder: Callable[..., Any]) -> None:
    class Agent:
        name = "kernel"
        env_options = {"kernel_agent": True}  # noqa: RUF012
        batch: Any = None

        def prepare(self, scenario: Any) -> Any:
            return BY_NAME["dbench-small"]

        def bind(self, env: Any) -> None:
            self.batch = env

        def act(self, observations: Any, infos: Any) -> Any:
            return self.batch.ask("strict")

    dataset = recorder("kvmgym/kernel-v0", Agent(), episodes=2, duration_ns=DURATION_NS)
    assert dataset.total_episodes == 2 and dataset.total_steps > 2
    assert dataset.env_spec is None  # the prepared scenario is an object: no plain data


def test_what_cannot_be_recorded_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from kvmgym.adapters import minari

    batch = kvmgym.DirectedYieldVectorEnv(1, autoreset_mode="same_step")
    with pytest.raises(ValueError, match="next_step"):
        minari.collect(batch, lambda observations, infos: [0], seed=0)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"recording needs h5py: pip install 'kvmgym\[minari\]'"):
        minari.record("x-v0", None, episodes=1)
