"""The environment's part of `kvmgym bench`: decisions a second, what Gymnasium costs, and peers in one run.

Ratios are taken within one run. Environment and compiled rollout run the same policy, so that they meet like worlds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from kvmgym.bench.figures import WARMUP_NS, Figure, at_least, at_most, scenario_of, timed
from kvmgym.env import stepping
from kvmgym.env.rows import Worlds
from kvmgym.env.single import ID, DirectedYieldEnv
from kvmgym.env.vector import DirectedYieldVectorEnv
from kvmgym.params import Scenario
from kvmgym.policies import BY_NAME

ENDLESS_NS = 10**15


def endless(number: int, scenario: Scenario, **options: Any) -> DirectedYieldVectorEnv:
    """A reset environment whose episodes do not end within a measurement, without copies."""
    env = DirectedYieldVectorEnv(number, scenario, duration_ns=ENDLESS_NS, copy=False, **options)
    env.reset(seed=0)
    return env


def _told(env: DirectedYieldVectorEnv, name: str) -> int:
    """The sum of a number of the hosts' records over the rows."""
    return sum(int(env.worlds.world(row).host[0][name]) for row in range(env.num_envs))


def _roll_out(worlds: Worlds, span_ns: int) -> None:
    """Run every world on with `relaxed`, compiled, without stopping at decisions."""
    policy = stepping.address_of(BY_NAME["relaxed"])
    stepping.rollout_rows(worlds.everyone, worlds.states, worlds.statics.bytes, worlds.rows, int(span_ns), policy)


def batch_speed(scenario: Scenario, rows: int, steps: int, repeats: int) -> tuple[float, float]:
    """Decisions a second of the batch, and that over the same of the compiled rollout. The actions are those of
    `relaxed`; working them out is not counted. The rollout has worlds of its own, as many, and runs them for the same
    simulated time: stepping a row to its n-th decision from an arbitrary time would meet long waits too often."""
    env, other = endless(rows, scenario, kernel_agent=True), endless(rows, scenario, kernel_agent=True)
    actions = np.zeros(rows, np.int64)
    for worlds in (env.worlds, other.worlds):
        _roll_out(worlds, WARMUP_NS)
        for row in range(rows):
            worlds.go_on(row, ENDLESS_NS)

    def stepped() -> float:
        seconds = 0.0
        for _ in range(steps):
            env.worlds.ask(BY_NAME["relaxed"], actions)
            seconds += timed(lambda: env.step(actions))
        return seconds

    for _ in range(3):
        stepped()
    rates, ratios = [], []
    for _ in range(repeats):
        before, decisions = _told(env, "now_ns"), _told(other, "decisions")
        rate = rows * steps / stepped()
        span_ns = (_told(env, "now_ns") - before) // rows
        seconds = timed(lambda span_ns=span_ns: _roll_out(other.worlds, span_ns))  # type: ignore[misc]
        rates.append(rate)
        ratios.append(rate * seconds / (_told(other, "decisions") - decisions))
    return statistics.median(rates), statistics.median(ratios)


def _batch_figures(repeats: int) -> list[Figure]:
    large, ratio = batch_speed(scenario_of(16, 4, 16), 256, 100, repeats)
    fewer, fewer_ratio = batch_speed(scenario_of(16, 4, 16), 16, 1600, repeats)
    small, small_ratio = batch_speed(scenario_of(4, 1, 8), 256, 200, repeats)
    of = "of the compiled rollout's decisions a second"
    return [
        at_least("decisions, 16 x 64, 256 rows, observed", large / 1e3, "k/s", 400, "on one core"),
        at_least("the same against the compiled rollout", ratio, "x", 0.30, of),
        Figure("decisions, 16 x 64, 16 rows, observed", fewer / 1e3, "k/s", detail=f"{fewer_ratio:.2f} {of}"),
        at_least("decisions, 4 x 8, 256 rows, observed", small / 1e3, "k/s", 550, f"{small_ratio:.2f} {of}"),
    ]


def _call_figures(repeats: int, steps: int = 20_000) -> list[Figure]:
    """What a step of one row costs over the simulation: the batched call and the single environment."""
    scenario = scenario_of(4, 1, 8)
    over_batch, over_single = [], []
    for _ in range(repeats):
        inside, batch = endless(1, scenario), endless(1, scenario)
        single = DirectedYieldEnv(scenario, duration_ns=ENDLESS_NS)
        single.reset(seed=0)
        action, worlds = np.array([8]), inside.worlds
        arrays = (worlds.everyone, worlds.states, worlds.statics.bytes, action, worlds.address, worlds.weights)
        written = (worlds.masks, worlds.flat, worlds.rows, worlds.rewards)
        stepping.step_often(*arrays, *written, 10)
        for _ in range(10):
            batch.step(action)
            single.step(8)
        alone = timed(lambda: stepping.step_often(*arrays, *written, steps))  # noqa: B023
        batched = timed(lambda: [batch.step(action) for _ in range(steps)])  # noqa: B023
        singly = timed(lambda: [single.step(8) for _ in range(steps)])  # noqa: B023
        over_batch.append((batched - alone) / steps * 1e6)
        over_single.append((singly - alone) / steps * 1e6)
    return [
        at_most("overhead of a batched call at 1 row", statistics.median(over_batch), "us", 5.0),
        at_most("overhead of Env.step", statistics.median(over_single), "us", 15.0),
    ]


def _peer_figures(repeats: int, rows: int = 64, steps: int = 50) -> list[Figure]:
    """Against Gymnasium's own vector environments over the single environment."""
    options: dict[str, Any] = {"scenario": "dedup-small", "duration_ns": ENDLESS_NS}
    rates: dict[str, list[float]] = {"native": [], "sync": [], "async": []}
    actions = np.full(rows, 4)
    for _ in range(repeats):
        for mode, found in rates.items():
            if mode == "native":
                env: Any = gym.make_vec(ID, num_envs=rows, **options)
            else:
                env = gym.make_vec(ID, num_envs=rows, vectorization_mode=mode, **options)
            env.reset(seed=0)
            env.step(actions)
            found.append(steps / timed(lambda env=env: [env.step(actions) for _ in range(steps)]))  # type: ignore[misc]
            env.close()
    native = statistics.median(rates["native"])
    return [
        at_least(f"against SyncVectorEnv, {rows} rows", native / statistics.median(rates["sync"]), "x", 5),
        at_least(f"against AsyncVectorEnv, {rows} rows", native / statistics.median(rates["async"]), "x", 30),
    ]


def _training_figure() -> list[Figure]:
    """The environment's share of the time of SB3's PPO on 16 pCPUs with two VMs of 16 vCPUs."""
    name = "environment's share of PPO training, 16 x 32"
    try:
        from sb3_contrib import MaskablePPO

        from kvmgym.adapters.sb3 import NativeVecEnv
    except ImportError:
        return [Figure(name, None, "%", detail="not installed: pip install 'kvmgym[train]'")]
    venv: Any = NativeVecEnv(64, scenario_of(16, 2, 16))
    spent, step = [0.0], venv.step_wait

    def counted() -> Any:
        began = time.perf_counter()
        result = step()
        spent[0] += time.perf_counter() - began
        return result

    venv.step_wait = counted
    model = MaskablePPO("MlpPolicy", venv, n_steps=128, batch_size=1024, device="cpu", seed=0)
    model.learn(64 * 128)
    spent[0] = 0.0
    seconds = timed(lambda: model.learn(3 * 64 * 128))
    return [at_most(name, 100 * spent[0] / seconds, "%", 10, f"{3 * 64 * 128 / seconds:,.0f} steps/s, 64 rows")]


def parts(repeats: int) -> list[tuple[str, Callable[[], list[Figure]]]]:
    """The measurements by what they are about."""
    return [
        ("the batched environment", lambda: _batch_figures(repeats)),
        ("calls of the environment", lambda: _call_figures(repeats)),
        ("Gymnasium's vector environments", lambda: _peer_figures(min(repeats, 3))),
        ("training", _training_figure),
    ]
