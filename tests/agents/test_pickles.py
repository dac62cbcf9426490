"""What a worker of another process is sent can be pickled after it was used, and does there what it does here."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest
from digests import digest
from kvmgym_agents import KernelAgent
from kvmgym_agents.heuristics import HEURISTICS

import kvmgym
from kvmgym import DirectedYieldEnv, DirectedYieldVectorEnv
from kvmgym.measure.agents import learned
from kvmgym.measure.compare import Learned
from kvmgym.measure.evaluate import evaluate
from kvmgym.measure.store import Run, summarise
from kvmgym.scenarios import BY_NAME
from kvmgym.world.blueprint import Blueprint

SMALL = BY_NAME["dedup-small"]
TIMES = {"duration_ns": 2_000_000, "warmup_ns": 500_000}


def first_ready(vm: Any, vcpus: Any, me: int, ask: Any) -> int:
    """A user's own policy."""
    for i in range(vm.vcpus):
        if i != me and vcpus[i].ready:
            return i
    return -1


def again(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def test_a_blueprint_and_a_result() -> None:
    blueprint = Blueprint(SMALL)
    found = kvmgym.simulate(blueprint, "legacy", seed=3, **TIMES)
    copy = again(blueprint)
    assert kvmgym.simulate(copy, "legacy", seed=3, **TIMES) == found == again(found)
    (row,), (other) = blueprint.worlds([1]), copy.worlds([1])
    assert digest(blueprint, row) == digest(copy, other[0])


def played(env: Any, steps: int = 20) -> list[Any]:
    """Rewards and times of the lowest allowed action, from where the environment stands."""
    found = []
    for _ in range(steps):
        masks = np.atleast_2d(env.action_masks())
        actions = masks.argmax(axis=1)
        _, reward, _, _, info = env.step(actions if masks.shape[0] > 1 else int(actions[0]))
        found.append((np.asarray(reward).tolist(), np.asarray(info["elapsed_ns"]).tolist()))
    return found


@pytest.mark.parametrize(
    "make",
    [
        lambda: DirectedYieldEnv("dedup-small", others="relaxed", controlled=[0]),
        lambda: DirectedYieldVectorEnv(3, "dedup-small", autoreset_mode="same_step"),
        lambda: DirectedYieldVectorEnv(4, ["dedup-small", "vips-small"], threads=2, observation="dict", copy=False),
    ],
    ids=["single", "batch", "threads"],
)
def test_an_environment_goes_on_where_it_stood(make: Callable[[], Any]) -> None:
    env = make()
    env.reset(seed=5)
    played(env)
    copy = again(env)
    assert played(copy) == played(env)
    worlds = again(env.worlds)
    for both in (worlds, env.worlds):
        both.reset(0, world_seed=7)
        both.step(both.masks.argmax(axis=1), np.array([0]))
    assert worlds.rows.tolist() == env.worlds.rows.tolist() and worlds.rewards.tolist() == env.worlds.rewards.tolist()
    drawn = [[int(generator.integers(2**62)) for generator in both.generators] for both in (worlds, env.worlds)]
    assert drawn[0] == drawn[1]
    env.close()
    assert again(env).worlds.number == env.worlds.number


@pytest.mark.parametrize("make", HEURISTICS)
def test_a_heuristic(make: Callable[[], Any]) -> None:
    agent = make()
    rows = evaluate(agent, SMALL, [0, 1], **TIMES)
    assert evaluate(again(agent), SMALL, [0, 1], **TIMES) == rows


@pytest.mark.parametrize("policy", ["relaxed", "linear", "clairvoyant", first_ready])
def test_a_policy_its_runs_and_the_agent_that_asks_it(policy: Any) -> None:
    """After each has been used: compiled code and the environment that an agent is bound to stay behind."""
    agent = KernelAgent(policy)
    rows = evaluate(agent, SMALL, [0, 1], **TIMES)
    assert rows[0]["decisions"] > 0
    assert evaluate(again(agent), SMALL, [0, 1], **TIMES) == rows
    with pytest.raises(RuntimeError, match="bind"):
        again(agent).act(None, {})
    run = Run(SMALL, agent.policy, 1, TIMES["duration_ns"], TIMES["warmup_ns"])
    assert summarise(run) == summarise(again(run)) == rows[1]
    assert again(run).key == run.key


def evaluated(agent: Learned, seeds: list[int]) -> list[dict[str, Any]]:
    return agent.evaluate(SMALL, seeds, TIMES["duration_ns"], TIMES["warmup_ns"], tell=lambda done: None)


def test_a_trained_agent_and_its_runs_in_another_process(tmp_path: Any) -> None:
    """Spawned, as a Ray worker is: nothing but the pickle goes over."""
    pytest.importorskip("torch")
    storage = pytest.importorskip("kvmgym_agents.ppo.storage")
    from networks import network

    made = network()
    folder = tmp_path / "my-ppo"
    storage.write_settings(folder, storage.Settings(made.settings, {}))
    storage.save_weights(folder, made, {})
    agent = learned(folder)
    rows = evaluated(agent, [0, 1])
    assert [row["policy"] for row in rows] == ["my-ppo", "my-ppo"]
    run = Run(SMALL, agent, 0, TIMES["duration_ns"], TIMES["warmup_ns"])
    assert again(run).key == run.key
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(agent.evaluate, SMALL, [0, 1], *TIMES.values(), tell=print).result() == rows
