"""The rows behind an environment: many worlds of any scenarios in one buffer, stepped by the compiled functions.

Knows no Gymnasium: kvmgym.env.vector and kvmgym.env.single put its spaces, auto-reset and infos on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from kvmgym.core import engine, layout
from kvmgym.core.memory import World, view
from kvmgym.env import reward as rewards
from kvmgym.env import snapshots, stepping
from kvmgym.env.buffers import Bytes, StaticRows, aligned_copy, widened, writable, zeros
from kvmgym.env.spaces import number_of_flat
from kvmgym.params import Scenario
from kvmgym.params.errors import MAX_NS, check, integer
from kvmgym.policies import Policy, PolicyFunction, as_policy
from kvmgym.scenarios import as_scenario
from kvmgym.threads import Stop, Stopped, Threads, never
from kvmgym.world.blueprint import Blueprint, check_room
from kvmgym.world.deadlock import DeadlockError, explain_deadlock

Sampler: TypeAlias = Callable[[np.random.Generator], Scenario]
One: TypeAlias = "str | Path | Scenario | Sampler"
Source: TypeAlias = "One | Sequence[One]"
EPISODE_NS = 20_000_000  # where neither the environment nor the scenario says how long an episode is
_KNOWN = 64  # blueprints of fixed scenarios that are kept


def one_source(source: object) -> Scenario | Sampler:
    """A scenario from a name or a TOML file, or the sampler that was given. Errors: ValueError for anything else."""
    if callable(source) and not isinstance(source, type):
        return source
    return as_scenario(source, ", or a sampler of them")


def all_sources(source: Source) -> tuple[Scenario | Sampler, ...]:
    """The scenarios that the rows take in turn."""
    if isinstance(source, (list, tuple)):
        check(len(source) > 0, "scenario", source, "at least one scenario")
        return tuple(one_source(item) for item in source)
    return (one_source(source),)


def _vm_numbers(controlled: object) -> tuple[int, ...] | None:
    """The numbers of the controlled VMs; None: all."""
    if controlled is None:
        return None
    right = isinstance(controlled, (list, tuple)) and len(controlled) > 0
    check(right, "controlled", controlled, "None or at least one VM number")
    return tuple(integer("controlled", number, 0, 61) for number in controlled)  # type: ignore[attr-defined]


class Worlds:
    """E worlds. Arrays are written in place by `step`:

    masks: bool [E, V + 1]. flat: float32 [E, numbers]. rows: int64 [E, columns of kvmgym.env.stepping]. rewards:
    float64 [E, 1 + K], the reward and its weighted terms. generators: one a row, which alone decides its scenario and
    world.
    """

    def __init__(
        self,
        number: int,
        source: Source,
        *,
        duration_ns: int | None = None,
        max_vcpus: int | None = None,
        reward: Mapping[str, float] | None = None,
        controlled: Sequence[int] | None = None,
        others: str | Policy | PolicyFunction = "legacy",
        privileged: bool = False,
        show_all: bool = False,
        kernel_agent: bool = False,
        threads: int = 1,
    ) -> None:
        self.sources = all_sources(source)
        self.number = integer("num_envs", number, 1, 10**6)
        self.duration_ns = None if duration_ns is None else integer("duration_ns", duration_ns, 1, MAX_NS)
        for name, value in (("privileged", privileged), ("show_all", show_all), ("kernel_agent", kernel_agent)):
            check(isinstance(value, (bool, np.bool_)), name, value, "True or False")
        threads = integer("threads", threads, 1, 1024)
        self.controlled = _vm_numbers(controlled)
        right = isinstance(others, (str, Policy)) or callable(others)
        check(right, "others", others, "a policy's name (kvmgym list policies), a Policy or a function")
        self.others = as_policy(others)
        self.weights = rewards.weights(reward)
        self.privileged = privileged
        self.known: dict[Scenario, Blueprint] = {}
        self.generators = [np.random.default_rng() for _ in range(number)]
        self.blueprints: list[Blueprint | None] = [None] * number
        self._asked: Policy | None = None  # whom `ask` has checked on these blueprints
        fixed = [source for source in self.sources if isinstance(source, Scenario)]
        widest = max((vm.vcpus for scenario in fixed for vm in scenario.vms), default=0)
        self.frame_pcpus = max((scenario.host.pcpus for scenario in fixed), default=0)  # of pictures; 0: not known yet
        for scenario in fixed:
            self._controls(scenario)
        for scenario in fixed[:1]:
            self.others.check_on(self.blueprint(scenario))
        self.address = stepping.address_of(self.others)
        check(max_vcpus is not None or len(fixed) == len(self.sources), "max_vcpus", max_vcpus,
              "the most vCPUs that a VM of the sampler's scenarios has")  # fmt: skip
        given = widest if max_vcpus is None else integer("max_vcpus", max_vcpus, 1, 1024)
        check(given >= widest, "max_vcpus", given, f"at least {widest}, the vCPUs of the widest VM")
        self.max_vcpus = given
        check_room("rows", number, 4 * number_of_flat(given, privileged))
        self.masks = np.zeros((number, given + 1), np.bool_)
        self.flat = np.zeros((number, number_of_flat(given, privileged)), np.float32)
        self.rewards = np.zeros((number, 1 + rewards.K))
        self.rows = np.zeros((number, stepping.COLUMNS + 2 * (rewards.SUMS + 1)), np.int64)
        self._options = np.array([int(show_all), int(kernel_agent), int(privileged)])
        self.states = zeros(number, 0)
        self.statics = StaticRows()
        self.everyone = np.arange(number)
        self.pool = Threads(min(threads, number)) if threads > 1 and number > 1 else None
        self.parts = np.array_split(self.everyone, self.pool.number) if self.pool else []

    def blueprint(self, scenario: Scenario) -> Blueprint:
        """The blueprint of a scenario, kept for the scenarios that come back."""
        if scenario not in self.known:
            if len(self.known) >= _KNOWN:
                self.known.pop(next(iter(self.known)))
            self.known[scenario] = Blueprint(scenario)
        return self.known[scenario]

    def episode_ns(self, scenario: Scenario) -> int:
        """How long an episode of a scenario is."""
        return self.duration_ns if self.duration_ns is not None else scenario.episode_ns or EPISODE_NS

    def seed(self, seeds: Sequence[int | None]) -> None:
        """Start the generator of each row anew; None leaves it."""
        for row, seed in enumerate(seeds):
            if seed is not None:
                self.generators[row] = np.random.default_rng(np.random.SeedSequence(seed))

    def _make_room(self, blueprint: Blueprint) -> None:
        """Widen the buffers to a blueprint's rows."""
        if self.states.shape[1] < blueprint.state.size:
            self.states = widened(self.states, self.number, blueprint.state.size)
        columns = stepping.COLUMNS + 2 * (rewards.SUMS + len(blueprint.vms))
        if self.rows.shape[1] < columns:
            rows = np.zeros((self.number, columns), np.int64)
            rows[:, : self.rows.shape[1]] = self.rows
            self.rows = rows

    def _controls(self, scenario: Scenario) -> int:
        """The controlled VMs as bits."""
        every = range(len(scenario.vms))
        chosen = every if self.controlled is None else self.controlled
        for g in chosen:
            check(g in every, "controlled", g, f"VM numbers from 0 to {len(scenario.vms) - 1} of {scenario.name}")
        return sum(1 << g for g in chosen)

    def _static(self, row: int) -> Bytes:
        static: Bytes = self.statics.bytes[self.rows[row, stepping.STATIC]]
        return static

    def reset(self, row: int, scenario: str | Scenario | Sampler | None = None, world_seed: int | None = None) -> None:
        """A new episode in row `row`: scenario and seed from the row's generator unless given. world_seed: the world
        that `simulate` has for this seed. Errors: ValueError, and the row stays as it was."""
        generator = self.generators[row]
        source = self.sources[row % len(self.sources)] if scenario is None else one_source(scenario)
        chosen = source if isinstance(source, Scenario) else source(generator)
        check(isinstance(chosen, Scenario), "scenario sampler", chosen, "a Scenario")
        widest = max(vm.vcpus for vm in chosen.vms)
        check(widest <= self.max_vcpus, "max_vcpus", self.max_vcpus, f"{widest} or more for scenario {chosen.name}")
        check(len(chosen.vms) <= 62, "scenario vms", len(chosen.vms), "at most 62 VMs")
        controlled, blueprint = self._controls(chosen), self.blueprint(chosen)
        drawn = int(generator.integers(2**62)) if world_seed is None else world_seed
        self.others.check_on(blueprint)
        state = blueprint.worlds([integer("world_seed", drawn, 0, 2**63 - 1)])[0]
        check_room("rows", self.number, blueprint.state.size)
        self._make_room(blueprint)  # from here on nothing is refused: the row's state and tables belong together
        numbers = self.rows[row]
        if self.blueprints[row] is not None:
            self.statics.give_back(int(numbers[stepping.STATIC]))
        numbers[:] = 0
        numbers[stepping.STATIC] = self.statics.take(blueprint)
        if self.blueprints[row] is not blueprint:
            self._asked = None
        self.blueprints[row] = blueprint
        self.states[row, : state.size] = state
        self.others.install(self.world(row))
        numbers[stepping.UNTIL_NS] = self.episode_ns(chosen)
        numbers[stepping.CONTROLLED] = controlled
        numbers[stepping.MIXED] = chosen.mixed
        numbers[stepping.SHOW_ALL : stepping.PRIVILEGED + 1] = self._options
        self.rewards[row] = 0
        self._run_to_first(row)

    def world(self, row: int) -> World:
        """The world of row `row`: writes to its state go through, its tables are shared and read-only."""
        static = self._static(row)
        static.setflags(write=False)
        return view(self.states[row], static)

    def settle(self, row: int, reset: bool = False) -> None:
        """Bring the counters of row `row` up to now; with `reset` the measured window begins now."""
        engine.settle_row(self.states[row], self._static(row), layout.YES if reset else layout.NO)

    def go_on(self, row: int, until_ns: int) -> None:
        """After the end of row `row`, go on in the same world until `until_ns` with its counters at zero: what came
        before was to warm up."""
        self.settle(row, reset=True)
        self.rows[row, stepping.UNTIL_NS] = until_ns
        self._run_to_first(row)

    def _run_to_first(self, row: int) -> None:
        numbers = self.rows[row]
        numbers[stepping.AT] = layout.AT_TIME
        while True:
            stepping.begin_row(
                self.states[row],
                self._static(row),
                numbers,
                self.address,
                self.masks[row],
                self.flat[row],
            )
            if numbers[stepping.AT] != layout.GOING_ON:
                break
        self.look_for_deadlock(row)

    def look_for_deadlock(self, row: int) -> None:
        """DeadlockError when the guests of a row can never go on."""
        if self.rows[row, stepping.AT] == layout.AT_DEADLOCK:
            blueprint = self.blueprints[row]
            assert blueprint is not None
            raise DeadlockError(explain_deadlock(blueprint, self.world(row)))

    def step(self, actions: npt.NDArray[np.int64], listed: npt.NDArray[np.int64] | None = None) -> int:
        """Answer the open exits of the rows (of those in `listed`) and run to the next; returns how many have ended."""
        if listed is None and self.pool is not None:
            ended = sum(self.pool.map(lambda part, stopped: self._step(actions, part, stopped), self.parts))
        else:
            ended = self._step(actions, self.everyone if listed is None else listed)
        if ended:
            for row in range(self.number):
                self.look_for_deadlock(row)
        return ended

    def _step(self, actions: npt.NDArray[np.int64], listed: npt.NDArray[np.int64], stopped: Stopped = never) -> int:
        ended, left = -1, listed
        while True:
            ended = stepping.step_rows(
                left,
                self.states,
                self.statics.bytes,
                actions,
                self.address,
                self.weights,
                self.masks,
                self.flat,
                self.rows,
                self.rewards,
            )
            if ended >= 0:
                break
            if stopped():
                raise Stop
            left = left[-1 - ended :]
        if left is not listed:
            ended = int(np.count_nonzero(self.rows[listed, stepping.AT] != layout.AT_DECISION))
        return ended

    def ask(self, policy: Policy, actions: npt.NDArray[np.int64]) -> None:
        """Write what a compiled policy answers in each row's open exit. ValueError for a policy that does what it may
        not (Policy.check_on)."""
        if self._asked is not policy:
            for blueprint in {id(each): each for each in self.blueprints if each is not None}.values():
                policy.check_on(blueprint)
            self._asked = policy
        shows = layout.SHOW_LAG * policy.needs_lag + layout.SHOW_GUEST * policy.privileged
        weights = np.zeros(layout.WEIGHTS)
        weights[: len(policy.weights)] = policy.weights
        stepping.ask_rows(
            self.everyone,
            self.states,
            self.statics.bytes,
            self.rows,
            stepping.address_of(policy),
            int(shows),
            weights,
            actions,
            self.max_vcpus,
        )

    def snapshot(self) -> dict[str, Any]:
        """All that decides what comes next, with the random state."""
        arrays = {
            "states": self.states.copy(),
            "statics": self.statics.copy(),
            "masks": self.masks.copy(),
            "flat": self.flat.copy(),
            "rows": self.rows.copy(),
            "rewards": self.rewards.copy(),
        }
        return {
            "layout": snapshots.LAYOUT,
            "digest": snapshots.digest_of(arrays),
            **arrays,
            "scenarios": [None if blueprint is None else blueprint.scenario for blueprint in self.blueprints],
            "generators": [generator.bit_generator.state for generator in self.generators],
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go back to a snapshot of these worlds, or of others of the same shape. Errors: ValueError for what is none or
        of another version; nothing is written then."""
        snapshots.check_worlds(saved, self)
        for name in ("masks", "flat", "rows", "rewards"):
            setattr(self, name, saved[name].copy())
        self.states, self.statics = aligned_copy(saved["states"]), saved["statics"].copy()
        self.blueprints = [None if scenario is None else self.blueprint(scenario) for scenario in saved["scenarios"]]
        for generator, state in zip(self.generators, saved["generators"], strict=True):
            generator.bit_generator.state = state

    def __getstate__(self) -> dict[str, Any]:
        """Threads and compiled functions are made anew where it is unpickled."""
        kept = dict(self.__dict__)
        kept["_asked"] = None
        kept["known"], kept["blueprints"] = {}, [None if b is None else b.scenario for b in self.blueprints]
        return kept

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__dict__.update(writable(kept))
        self.states, self.statics = aligned_copy(self.states), self.statics.copy()
        self.address = stepping.address_of(self.others)
        self.blueprints = [None if scenario is None else self.blueprint(scenario) for scenario in kept["blueprints"]]

    def close(self) -> None:
        """Stop the threads."""
        if self.pool is not None:
            self.pool.close()
