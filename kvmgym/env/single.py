"""The single environment: one row of the native vector environment, with Gymnasium's single-environment interface."""

from __future__ import annotations

import copy as copying
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from kvmgym.env import snapshots, spaces, stepping
from kvmgym.env.buffers import writable
from kvmgym.env.reward import TERMS
from kvmgym.env.rows import Source
from kvmgym.env.vector import DirectedYieldVectorEnv, checked_options
from kvmgym.params.errors import check, integer, shown
from kvmgym.policies import Policy, PolicyFunction

ID = "kvmgym/DirectedYield-v0"
RESET_OPTIONS = ("scenario", "world_seed")


class DirectedYieldEnv(gym.Env[Any, Any]):
    """Choose the vCPU that a spinning vCPU yields to.

    ## Description
    A Linux host runs more vCPUs than it has pCPUs. A vCPU that spins, on a lock or for acknowledgements of an IPI,
    makes a pause-loop exit, and KVM may run another vCPU of the VM instead. One step is one such attempt: the action
    names the target, yield_to answers, and the world runs on to the next attempt. One that fails (result 0 or -1) asks
    again at the same simulated time with that target masked, for as long as the kernel would try. Exits without a
    possible target are passed over.

    ## Action Space
    `Discrete(V + 1)`: 0 to V - 1 a vCPU of the spinner's VM, V "no yield" (the spinner goes on spinning). What is
    allowed stands in info["action_mask"] and `action_masks()`. A masked or impossible action counts as "no yield", and
    info["masked_actions"] counts those since the reset; with `debug` it is an error. What is no whole number is a
    TypeError.

    ## Observation Space
    What the host can see, about 1 in size: kvmgym.env.observation has every field with unit, range and kernel source.
    `observation="flat"`: Box [G + V*F]; `"dict"`: "globals" [G] and each vCPU field by its name, [V]; `"matrix"`: Box
    [V, G + F].

    ## Rewards
    Minus the pCPU time that the host lost since the last step, in units of 100 µs of the whole host
    (kvmgym.env.reward).
    info["reward_terms"] has the weighted terms, which sum to the reward.

    ## Starting State
    A world of the scenario at time 0, ticks and first slices at random points, run to its first decision.

    ## Episode End
    Never terminates; truncated at duration_ns of simulated time (the last observation is 0).

    ## Arguments
    scenario: a name, a .toml file, a Scenario, a function of a numpy Generator that returns one (drawn at each reset),
    or a sequence of these. duration_ns: of an episode; None for the scenario's own (Scenario.episode_ns) or 20 ms.
    observation: the form. reward: weights by term, None for the default.
    max_vcpus: pads V. controlled: the VMs whose exits are decisions (default all); others: the policy of the rest.
    privileged: adds fields that see the guest. show_all: exits without a possible target are steps too. kernel_agent:
    for agents that are policies of the kernel (`ask`). debug: masked actions are errors. render_mode: "ansi" or
    "rgb_array".

    ## Vectorized environment
    `gym.make_vec("kvmgym:kvmgym/DirectedYield-v0", num_envs=E)` is native (kvmgym.env.vector): a batch is one compiled
    call.

    ## Version History
    v0: first version.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
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
        debug: bool = False,
        render_mode: str | None = None,
    ) -> None:
        self.batch = DirectedYieldVectorEnv(
            1,
            scenario,
            duration_ns=duration_ns,
            observation=observation,
            reward=reward,
            max_vcpus=max_vcpus,
            controlled=controlled,
            others=others,
            privileged=privileged,
            show_all=show_all,
            kernel_agent=kernel_agent,
            debug=debug,
            render_mode=render_mode,
            autoreset_mode=AutoresetMode.DISABLED,
        )
        self.render_mode = render_mode
        self.observation_space = self.batch.single_observation_space
        self.action_space = self.batch.single_action_space
        self.worlds = self.batch.worlds
        self._action = np.zeros(1, np.int64)
        self._ended = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode. seed: decides everything that follows. options: "scenario", a Scenario for this episode;
        "world_seed", for the world that `simulate` has for this seed."""
        options = checked_options(options, RESET_OPTIONS)
        if seed is not None:
            seed = integer("seed", seed, 0, 2**63 - 1)
            self.worlds.seed([seed])
        super().reset(seed=seed)
        try:
            self.batch._begin(0, options.get("scenario"), options.get("world_seed"))
        except BaseException:
            self._ended = self._ended or not self.batch._begun[0]
            raise
        self._ended = False
        return self._observation(), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One attempt: 0 to V - 1 a target, V "no yield"."""
        if self._ended:
            raise gym.error.ResetNeeded("call reset before step")
        try:
            self._action[0] = operator.index(action)
            right = not isinstance(action, bool)
        except (TypeError, OverflowError):
            right = False
        if not right:
            raise TypeError(f"action = {shown(action)}: must be a whole number from 0 to {self.worlds.max_vcpus}")
        if self.batch.debug:
            self.batch._check_actions(self._action)
        self._ended = True  # if the step is interrupted
        self._ended = self.worlds.step(self._action) > 0
        return self._observation(), float(self.worlds.rewards[0, 0]), False, self._ended, self._info()

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """What may be chosen now, bool [V + 1] (the form that sb3-contrib looks for)."""
        mask: npt.NDArray[np.bool_] = self.worlds.masks[0].copy()
        return mask

    def ask(self, policy: str | Policy) -> int:
        """What a policy of the kernel answers in the open exit (needs `kernel_agent=True`)."""
        return int(self.batch.ask(policy)[0])

    def render(self) -> Any:
        """A picture of the decision: text with render_mode "ansi", pixels with "rgb_array"."""
        pictures = self.batch.render()
        return pictures[0] if pictures else None

    def snapshot(self) -> dict[str, Any]:
        """Everything that decides what comes next, random state included."""
        return {**self.batch.snapshot(), "ended_single": self._ended, "np_random": self.np_random.bit_generator.state}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go back to a snapshot of this environment, or of one with the same arguments."""
        snapshots.check_rows(saved, {})
        snapshots.check_generator(saved, "np_random", self.np_random)
        ended = saved.get("ended_single")
        check(isinstance(ended, bool), "snapshot ended_single", ended, "True or False")
        self.batch.restore(saved)
        self._ended = saved["ended_single"]
        self.np_random.bit_generator.state = saved["np_random"]

    def fork(self) -> DirectedYieldEnv:
        """An independent copy that goes on from here: the same actions give the same bits."""
        return copying.deepcopy(self)

    def close(self) -> None:
        """Stop what the environment holds."""
        self.worlds.close()

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__dict__.update(writable(kept))

    def _observation(self) -> Any:
        flat = self.worlds.flat[0]
        return spaces.shaped(self.batch.form, flat.copy(), self.worlds.max_vcpus)

    def _info(self) -> dict[str, Any]:
        numbers, rewards = self.worlds.rows[0].tolist(), self.worlds.rewards[0].tolist()
        return {
            "action_mask": self.worlds.masks[0].astype(np.int8),
            "elapsed_ns": numbers[stepping.ELAPSED_NS],
            "now_ns": numbers[stepping.NOW_NS],
            "vm": numbers[stepping.VM],
            "me": numbers[stepping.ME],
            "attempt": numbers[stepping.ATTEMPT],
            "result": numbers[stepping.RESULT],
            "ops": numbers[stepping.OPS],
            "masked_actions": numbers[stepping.MASKED],
            "reward_terms": {term.name: rewards[1 + place] for place, term in enumerate(TERMS)},
        }


def register() -> None:
    """Register the environment with Gymnasium; doing it again changes nothing."""
    if ID not in gym.registry:
        gym.register(
            ID,
            entry_point="kvmgym.env.single:DirectedYieldEnv",
            vector_entry_point="kvmgym.env.vector:DirectedYieldVectorEnv",
        )
