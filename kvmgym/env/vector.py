"""The native vector environment: E worlds stepped by compiled code, observations written in place."""

from __future__ import annotations

import copy as copying
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from kvmgym.core import layout
from kvmgym.env import snapshots, spaces, stepping
from kvmgym.env.buffers import writable
from kvmgym.env.render import frame, picture
from kvmgym.env.reward import TERMS
from kvmgym.env.rows import EPISODE_NS, Source, Worlds
from kvmgym.params.errors import MAX_NS, check, integer, lookup
from kvmgym.policies import Policy, PolicyFunction, as_policy

DURATION_NS = EPISODE_NS
OPTIONS = ("reset_mask", "scenario", "world_seed")
_VIEWS = ("_rewards", "_live_infos", "_seen")
Arrays = dict[str, Any]
Bools = npt.NDArray[np.bool_]
Stepped = tuple[Any, npt.NDArray[np.float64], Bools, Bools, Arrays]  # what a step returns


class DirectedYieldVectorEnv(gym.vector.VectorEnv[Any, npt.NDArray[np.int64], npt.NDArray[Any]]):
    """E hosts side by side; see DirectedYieldEnv for what a step is, the spaces and the arguments.

    Arguments of its own:
        num_envs: E. A sequence of scenarios is dealt to the rows in turn; different scenarios share one padded shape.
        autoreset_mode: "next_step" (Gymnasium's default: the step after an end ignores the action and returns the
            reset's observation with reward 0), "same_step" (the end's observation in infos["final_obs"]) or
            "disabled" (`reset(options={"reset_mask": bool [E]})`).
        threads: rows are dealt to this many threads; results do not depend on it.
        copy: False hands out the arrays that the next step overwrites.

    Row i with seed s is bit for bit the single environment with seed s + i. Infos have constant keys, arrays of E with
    `_key` masks; action_mask is int8 [E, V + 1], reward_terms a table of arrays.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["ansi", "rgb_array"],
        "render_fps": 4,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        scenario: Source = "dedup-small",
        *,
        duration_ns: int | None = None,
        observation: str = "flat",
        reward: Mapping[str, float] | None = None,
        max_vcpus: int | None = None,
        controlled: Sequence[int] | None = None,
        others: str | Policy | PolicyFunction = "legacy",
        privileged: bool = False,
        show_all: bool = False,
        kernel_agent: bool = False,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        threads: int = 1,
        copy: bool = True,
        debug: bool = False,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
    ) -> None:
        super().__init__()
        check(observation in spaces.FORMS, "observation", observation, f"one of {', '.join(spaces.FORMS)}")
        check(render_mode in (None, "ansi", "rgb_array"), "render_mode", render_mode, "None, 'ansi' or 'rgb_array'")
        self.num_envs = integer("num_envs", num_envs, 1, 10**6)
        self.worlds = Worlds(
            self.num_envs,
            scenario,
            duration_ns=duration_ns,
            max_vcpus=max_vcpus,
            reward=reward,
            controlled=controlled,
            others=others,
            privileged=privileged,
            show_all=show_all,
            kernel_agent=kernel_agent,
            threads=threads,
        )
        for name, value in (("copy", copy), ("debug", debug)):
            check(isinstance(value, (bool, np.bool_)), name, value, "True or False")
        if max_episode_steps is not None:
            max_episode_steps = integer("max_episode_steps", max_episode_steps, 1, MAX_NS)
        self.form, self.copy, self.debug, self.render_mode = observation, copy, debug, render_mode
        self.kernel_agent = kernel_agent
        self.max_episode_steps = max_episode_steps
        self.autoreset_mode = _mode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        vcpus = self.worlds.max_vcpus
        self.single_observation_space = spaces.observation_space(observation, vcpus, privileged)
        self.single_action_space = gym.spaces.Discrete(vcpus + 1)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._ended = np.zeros(self.num_envs, np.bool_)
        self._begun = np.zeros(self.num_envs, np.bool_)
        self._steps = np.zeros(self.num_envs, np.int64)
        self._never = np.zeros(self.num_envs, np.bool_)
        self._every = np.ones(self.num_envs, np.bool_)
        self._actions = np.zeros(self.num_envs, np.int64)
        self._look_at_buffers()

    # --- Gymnasium ----------------------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, Arrays]:
        """Begin new episodes. seed: row i gets seed + i, or seed[i]. options: "reset_mask", bool [E], which rows;
        "scenario", one for all of them; "world_seed": row i gets the world that `simulate` has for this seed + i, or
        for the i-th of a sequence. Errors: ValueError for a mask or a sequence of another length."""
        options = checked_options(options, OPTIONS)
        mask = self._every if "reset_mask" not in options else np.asarray(options["reset_mask"])
        right = mask.shape == (self.num_envs,) and mask.dtype == np.bool_ and bool(mask.any())
        check(right, 'options["reset_mask"]', mask, f"bool [{self.num_envs}] with at least one True")
        worlds = _a_seed_each("world_seed", options.get("world_seed"), self.num_envs)
        if seed is not None:
            seeds = _a_seed_each("seed", seed, self.num_envs)
            self.worlds.seed([one if chosen else None for one, chosen in zip(seeds, mask.tolist(), strict=True)])
            first = next((one for one in seeds if one is not None), None)
            if first is not None:
                self._np_random, self._np_random_seed = np_random(first)
        for row in np.flatnonzero(mask):
            self._begin(int(row), options.get("scenario"), worlds[row])
        self._look_at_buffers()
        return self.observe()

    def step(self, actions: npt.ArrayLike) -> Stepped:
        """One attempt in every row; actions: [E], 0 to V - 1 a target, V "no yield"."""
        chosen = _whole(actions)
        if chosen.shape != (self.num_envs,):
            check(False, "actions", chosen.shape, f"of shape ({self.num_envs},)")
        if self.debug:
            self._check_actions(chosen)
        if not self._all_go_on:
            if not self._begun.all():
                raise gym.error.ResetNeeded("call reset before step")
            if self.autoreset_mode == AutoresetMode.DISABLED:
                raise gym.error.ResetNeeded(f"rows {np.flatnonzero(self._ended).tolist()} have ended: reset them first")
            stepped: Stepped = self._step_and_reset(chosen)
            return stepped
        try:
            ended = self.worlds.step(chosen)
        except BaseException:
            self._break_off()
            raise
        if not ended and self.max_episode_steps is None:
            if self.copy:
                never = self._never
                return self._observations(), self._rewards.copy(), never.copy(), never.copy(), self._infos()
            seen = self._observations() if self.form == "matrix" else self._seen
            return seen, self._rewards, self._never, self._never, self._live_infos
        return self._after_an_end()

    def _after_an_end(self) -> Stepped:
        """What a step returns when some rows may have ended."""
        self._steps += 1
        truncated, rewards, infos = self._find_ended(), self._rewards.copy(), self._infos()
        if self.autoreset_mode == AutoresetMode.SAME_STEP and truncated.any():
            infos = self._reset_in_same_step(truncated, infos)
        else:
            self._ended = truncated
            self._all_go_on = not truncated.any()
        return self._observations(), rewards, self._never.copy(), truncated.copy(), infos

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the threads."""
        if hasattr(self, "worlds"):
            self.worlds.close()

    def render(self) -> tuple[Any, ...] | None:
        """A picture of each row's decision: text with render_mode "ansi", pixels with "rgb_array"."""
        if self.render_mode is None:
            return None
        draw = picture if self.render_mode == "ansi" else frame
        return tuple(draw(self.worlds, row) for row in range(self.num_envs))

    # --- beyond Gymnasium -----------------------------------------------------------------------------------------

    def observe(self) -> tuple[Any, Arrays]:
        """Observations and infos of the rows as they stand."""
        return self._observations(), self._infos()

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """What may be chosen now, bool [E, V + 1]: "no yield" always, a target when a yield to it can be attempted."""
        return self.worlds.masks.copy()

    def sample_actions(self, generator: np.random.Generator | None = None) -> npt.NDArray[np.int64]:
        """An action for each row, all allowed ones alike, int64 [E]."""
        chance = (generator or self.np_random).random(self.worlds.masks.shape)
        chosen: npt.NDArray[np.int64] = np.argmax(chance * self.worlds.masks, axis=1)
        return chosen

    def ask(self, policy: str | Policy) -> npt.NDArray[np.int64]:
        """What a policy of the kernel answers in each row's open exit, int64 [E], with its side effects on KVM's state
        (needs `kernel_agent=True`, without which exits may be passed over that the policy would see)."""
        check(self.kernel_agent, "kernel_agent", False, "True for an environment that a kernel policy acts in")
        self.worlds.ask(as_policy(policy), self._actions)
        return self._actions.copy()

    def snapshot(self) -> dict[str, Any]:
        """Everything that decides what comes next, random state included."""
        own: dict[str, Any] = {"ended": self._ended.copy(), "begun": self._begun.copy(), "steps": self._steps.copy()}
        return {**self.worlds.snapshot(), **own, "sampling": self.np_random.bit_generator.state}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go back to a snapshot of this environment, or of one with the same arguments. Errors: ValueError for what is
        none; nothing is changed then."""
        snapshots.check_rows(saved, {"ended": self._ended, "begun": self._begun, "steps": self._steps})
        snapshots.check_generator(saved, "sampling", self.np_random)
        self.worlds.restore(saved)
        self._ended, self._begun, self._steps = (saved[name].copy() for name in ("ended", "begun", "steps"))
        self.np_random.bit_generator.state = saved["sampling"]
        self._look_at_buffers()

    def fork(self) -> DirectedYieldVectorEnv:
        """An independent copy that goes on from here: the same actions give the same bits."""
        return copying.deepcopy(self)

    def __getstate__(self) -> dict[str, Any]:
        """Views of buffers are made anew where it is unpickled."""
        return {name: value for name, value in self.__dict__.items() if name not in _VIEWS}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__dict__.update(writable(kept))
        self._look_at_buffers()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _look_at_buffers(self) -> None:
        """Views of the buffers that steps hand out or copy, made anew when the buffers may have moved."""
        self._all_go_on = bool(self._begun.all()) and not self._ended.any()
        self._rewards: npt.NDArray[np.float64] = self.worlds.rewards[:, 0]
        self._live_infos = self._infos_of(self.worlds.rows, self.worlds.rewards, self.worlds.masks.view(np.int8))
        self._seen = spaces.shaped(self.form, self.worlds.flat, self.worlds.max_vcpus)

    def _break_off(self) -> None:
        """A step was interrupted: some rows have made it and some not, so all have to begin anew (or be restored)."""
        self._begun[:] = False
        self._all_go_on = False

    def _begin(self, row: int, scenario: Any = None, world_seed: int | None = None) -> None:
        """A new episode; one without a single decision is begun anew, because an episode needs a first step."""
        for _ in range(100 if world_seed is None else 1):
            try:
                self.worlds.reset(row, scenario, world_seed)
            except BaseException:
                if self.worlds.rows[row, stepping.AT] == layout.GOING_ON:  # interrupted, not refused
                    self._begun[row] = self._all_go_on = False
                raise
            if self.worlds.rows[row, stepping.AT] == layout.AT_DECISION:
                break
        else:
            name = self.worlds.blueprints[row]
            text = "?" if name is None else name.scenario.name
            check(False, "scenario", text, "one in which a vCPU of a controlled VM spins within duration_ns")
        self._begun[row], self._ended[row], self._steps[row] = True, False, 0

    def _find_ended(self) -> npt.NDArray[np.bool_]:
        ended: npt.NDArray[np.bool_] = self.worlds.rows[:, stepping.AT] != layout.AT_DECISION
        if self.max_episode_steps is not None:
            ended |= self._steps >= self.max_episode_steps
        return ended

    def _step_and_reset(self, chosen: npt.NDArray[np.int64]) -> Any:
        """NEXT_STEP: rows that ended before begin anew, the others step."""
        fresh = self._ended.copy()
        others = np.flatnonzero(~fresh)
        if len(others):
            try:
                self.worlds.step(chosen, others)
            except BaseException:
                self._break_off()
                raise
        self._steps[others] += 1
        truncated = self._find_ended() & ~fresh
        for row in np.flatnonzero(fresh):
            self._begin(int(row))
        self._ended = truncated
        self._look_at_buffers()
        rewards = np.where(fresh, 0.0, self.worlds.rewards[:, 0])
        return self._observations(), rewards, self._never.copy(), truncated.copy(), self._infos()

    def _reset_in_same_step(self, ended: npt.NDArray[np.bool_], infos: Arrays) -> Arrays:
        """SAME_STEP: the last observation and infos of ended rows are kept, then the rows begin anew."""
        last = self._observations(copy=True)
        final = np.full(self.num_envs, None, dtype=object)
        for row in np.flatnonzero(ended):
            final[row] = _row(last, int(row))
        before = {key: value for key, value in infos.items() if not key.startswith("_")}
        for row in np.flatnonzero(ended):
            self._begin(int(row))
        self._look_at_buffers()
        return {
            **self._infos(),
            "final_obs": final,
            "_final_obs": ended.copy(),
            "final_info": {**before, **{f"_{key}": ended.copy() for key in before}},
            "_final_info": ended.copy(),
        }

    def _observations(self, copy: bool | None = None) -> Any:
        flat = self.worlds.flat
        wanted = self.copy if copy is None else copy
        return spaces.shaped(
            self.form, flat.copy() if wanted and self.form != "matrix" else flat, self.worlds.max_vcpus
        )

    def _infos(self) -> Arrays:
        """Infos of their own, which no later step changes."""
        masks = self.worlds.masks.astype(np.int8)
        return self._infos_of(self.worlds.rows.copy(), self.worlds.rewards.copy(), masks)

    def _infos_of(self, rows: Any, rewards: Any, masks: Any) -> Arrays:
        """Infos as views of these arrays."""
        found: Arrays = {
            "action_mask": masks,
            "elapsed_ns": rows[:, stepping.ELAPSED_NS],
            "now_ns": rows[:, stepping.NOW_NS],
            "vm": rows[:, stepping.VM],
            "me": rows[:, stepping.ME],
            "attempt": rows[:, stepping.ATTEMPT],
            "result": rows[:, stepping.RESULT],
            "ops": rows[:, stepping.OPS],
            "masked_actions": rows[:, stepping.MASKED],
        }
        terms = {term.name: rewards[:, 1 + place] for place, term in enumerate(TERMS)}
        found["reward_terms"] = {**terms, **{f"_{name}": self._every for name in terms}}
        return {**found, **{f"_{key}": self._every for key in found}}

    def _check_actions(self, chosen: npt.NDArray[np.int64]) -> None:
        """In debug mode a masked action is an error."""
        for row in np.flatnonzero(~self._ended):
            action = int(chosen[row])
            right = 0 <= action <= self.worlds.max_vcpus and bool(self.worlds.masks[row, action])
            allowed = np.flatnonzero(self.worlds.masks[row]).tolist()
            check(right or self.kernel_agent, f"actions[{row}]", action, f"one of {allowed} (the action mask)")


def _mode(mode: str | AutoresetMode) -> AutoresetMode:
    names = {found.name.lower(): found for found in AutoresetMode}
    if isinstance(mode, AutoresetMode):
        return mode
    check(mode in names, "autoreset_mode", mode, f"one of {', '.join(names)}")
    return names[mode]


def checked_options(options: object, allowed: Sequence[str]) -> dict[str, Any]:
    """The options of a reset. Errors: ValueError for what is no dict, or for a key that is none of the allowed."""
    if options is None:
        return {}
    check(isinstance(options, dict), "options", options, f"None or a dict of {', '.join(allowed)}")
    assert isinstance(options, dict)
    for key in options:
        check(isinstance(key, str), "options key", key, f"one of {', '.join(allowed)}")
        lookup("options", "key", key, allowed)
    return options


def _whole(actions: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Actions as int64. Errors: TypeError for floats, bools or objects, as operator.index has for the single one."""
    given = np.asarray(actions)
    if given.dtype.kind not in "iu":
        raise TypeError(f"actions are of dtype {given.dtype}: they must be whole numbers")
    return given.astype(np.int64, copy=False)


def _a_seed_each(name: str, seed: Any, rows: int) -> list[int | None]:
    """A seed for each row from a number (seed + i), a sequence or None."""
    if seed is None or isinstance(seed, (int, np.integer)):
        first = None if seed is None else integer(name, seed, 0, 2**62)
        return [None if first is None else first + i for i in range(rows)]
    right = isinstance(seed, (list, tuple, range)) or (isinstance(seed, np.ndarray) and seed.ndim == 1)
    check(right, name, seed, f"a whole number, or {rows} of them or None")
    seeds = [None if one is None else integer(name, one, 0, 2**63 - 1) for one in seed]
    check(len(seeds) == rows, name, seed, f"a number or {rows} of them")
    return seeds


def _row(observations: Any, row: int) -> Any:
    if isinstance(observations, dict):
        return {key: value[row] for key, value in observations.items()}
    return observations[row]
