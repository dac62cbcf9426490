"""Measure an agent as `simulate` measures a policy: the same worlds, the same window, the same row of measures.

All seeds of a scenario are rows of one vector environment. The world of seed s is that of `simulate(seed=s)`, so that
agents and compiled policies are paired by seed; a kernel policy as an agent gives the very row of `simulate`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kvmgym.core import layout
from kvmgym.env import stepping
from kvmgym.env.rows import Worlds
from kvmgym.env.vector import DirectedYieldVectorEnv
from kvmgym.measure import metrics
from kvmgym.measure.compare import Row, row_of
from kvmgym.measure.simulate import DURATION_NS, WARMUP_NS, window
from kvmgym.params import Scenario
from kvmgym.params.errors import check
from kvmgym.scenarios import as_scenario
from kvmgym.world.blueprint import seed_list


class Acts(Protocol):
    """What is measured here: anything that answers a vector environment's observations with actions.

    env_options: what the environment has to be made with.
    """

    @property
    def name(self) -> str:
        """Its name in tables."""
        ...

    @property
    def env_options(self) -> Mapping[str, Any]:
        """Arguments of the environment, as {"observation": "dict"}."""
        ...

    def prepare(self, scenario: Scenario) -> Scenario:
        """The scenario with what belongs to the agent switched on in it."""
        ...

    def bind(self, env: Any) -> None:
        """Told the environment before the first `act`."""

    def act(self, observation: Any, info: Mapping[str, Any]) -> npt.NDArray[np.int64]:
        """An action for each row, int64 [E]."""
        ...


_TELL_EVERY = 256  # steps


def evaluate(
    agent: Acts,
    scenario: str | Path | Scenario,
    seeds: Sequence[int],
    duration_ns: int = DURATION_NS,
    warmup_ns: int = WARMUP_NS,
    *,
    threads: int = 1,
    tell: Callable[[float], None] = lambda done: None,
) -> list[Row]:
    """The measures of kvmgym.measure.compare.row_of for each seed, of the last duration_ns of warmup_ns + duration_ns.

    The agent acts in all VMs. threads: of the environment. tell: told the share of the simulated time that has passed,
    now and then. Errors: ValueError for an impossible time or scenario, DeadlockError when a guest deadlocks.
    """
    duration_ns, warmup_ns = window(duration_ns, warmup_ns)
    seeds = seed_list(seeds)
    check(len(seeds) > 0, "seeds", seeds, "at least one seed")
    env = DirectedYieldVectorEnv(
        len(seeds),
        agent.prepare(as_scenario(scenario)),
        duration_ns=max(warmup_ns, 1),
        autoreset_mode="disabled",
        copy=False,
        threads=threads,
        **agent.env_options,
    )
    worlds, until_ns = env.worlds, warmup_ns + duration_ns
    try:
        agent.bind(env)
        worlds.duration_ns = warmup_ns
        for row, seed in enumerate(seeds):
            worlds.reset(row, world_seed=seed)
        _run(agent, env, until_ns, tell)
        for row in range(len(seeds)):
            worlds.go_on(row, until_ns)
        _run(agent, env, until_ns, tell)
        return [_measured(worlds, row, agent.name, seed) for row, seed in enumerate(seeds)]
    finally:
        env.close()


def _run(agent: Acts, env: DirectedYieldVectorEnv, until_ns: int, tell: Callable[[float], None]) -> None:
    """Let the agent act until all rows are at their end; those that are there stand still."""
    worlds, steps = env.worlds, 0
    while True:
        left = np.flatnonzero(worlds.rows[:, stepping.AT] == layout.AT_DECISION)
        if steps % _TELL_EVERY == 0 or not len(left):
            tell(float(worlds.rows[:, stepping.NOW_NS].mean()) / until_ns)
        if not len(left):
            return
        actions = agent.act(*env.observe())
        worlds.step(actions, None if len(left) == env.num_envs else left)
        steps += 1


def _measured(worlds: Worlds, row: int, name: str, seed: int) -> Row:
    blueprint = worlds.blueprints[row]
    assert blueprint is not None
    worlds.settle(row)
    return row_of(metrics.read(blueprint, worlds.world(row), name, seed))
