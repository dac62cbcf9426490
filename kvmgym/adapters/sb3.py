"""Stable-Baselines3: its VecEnv on the native batch, with action masks and episode statistics.

SB3 does not take Gymnasium's vector environments, and wrapping E single environments gives the speed of the batch away.
Left out: per-row attributes and methods that the batch does not have.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from kvmgym.env.rows import Source
from kvmgym.env.vector import DirectedYieldVectorEnv
from kvmgym.params.errors import check

# What env_method calls: methods of the batch that return one item a row.
METHODS = ("action_masks", "ask", "render", "sample_actions")
Indices = None | int | Iterable[int]


class NativeVecEnv(VecEnv):
    """E hosts as SB3 wants them: a finished row begins anew in the same step.

    Arguments:
        num_envs: E.
        scenario, and all further ones by keyword: as for DirectedYieldVectorEnv, whose autoreset mode is fixed here.
        full_infos: every row's info has all that DirectedYieldEnv tells. By default it is empty, which is fast, but
            for finished rows: `terminal_observation`, `TimeLimit.truncated` and `episode`, {"r": return, "l": steps,
            "t": seconds since the start}, as a Monitor would give them. No VecMonitor is needed.

    Observations are new arrays [E, ...], rewards float32 [E], dones bool [E]. `env_method("action_masks")` gives the
    masks, bool [V + 1] each, as sb3-contrib's MaskablePPO asks for them; `masks()` gives them as one array. elapsed_ns,
    int64 [E]: the simulated time that the last step took, also where it ended the episode.
    Errors: ValueError as DirectedYieldVectorEnv; AttributeError for what the batch does not have.
    """

    def __init__(
        self, num_envs: int, scenario: Source = "dedup-small", *, full_infos: bool = False, **options: Any
    ) -> None:
        # copy: SB3 keeps the last observations while it steps.
        self.batch = DirectedYieldVectorEnv(num_envs, scenario, autoreset_mode="same_step", copy=True, **options)
        self.full_infos = full_infos
        self.elapsed_ns = np.zeros(num_envs, np.int64)
        self._began = time.time()
        self._actions = np.zeros(num_envs, np.int64)
        self._returns = np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, np.int64)
        super().__init__(num_envs, self.batch.single_observation_space, self.batch.single_action_space)

    # --- SB3 --------------------------------------------------------------------------------------------------------

    def reset(self) -> Any:
        """Begin new episodes in all rows, with the seeds and options given to `seed` and `set_options` (used once).
        options of a row: "scenario" and "world_seed", as for DirectedYieldEnv."""
        rows: dict[Any, list[int]] = {}
        for row, options in enumerate(self._options):
            rows.setdefault(options.get("scenario"), []).append(row)
        world_seeds = [options.get("world_seed") for options in self._options]
        seeds: list[int | None] | None = None if None in self._seeds else self._seeds
        infos: dict[str, Any] = {}
        observations: Any = None
        for scenario, alike in rows.items():
            mask = np.isin(np.arange(self.num_envs), alike)
            options = {"reset_mask": mask, "scenario": scenario, "world_seed": world_seeds}
            observations, infos = self.batch.reset(seed=seeds, options=options)
        self._returns[:] = 0
        self._lengths[:] = 0
        self.elapsed_ns = np.zeros(self.num_envs, np.int64)
        self.reset_infos = self._rows_of(infos)
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Take the actions of the next step, int [E]."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, npt.NDArray[np.float32], npt.NDArray[np.bool_], list[dict[str, Any]]]:
        """One attempt in every row."""
        observations, rewards, _, dones, found = self.batch.step(self._actions)
        self._returns += rewards
        self._lengths += 1
        self.elapsed_ns = found["elapsed_ns"].copy()
        infos = self._rows_of(found)
        for row in np.flatnonzero(dones):
            self.elapsed_ns[row] = found["final_info"]["elapsed_ns"][row]
            infos[row] = self._last_info(int(row), found)
        return observations, rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        """Stop what the batch holds."""
        self.batch.close()

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """An attribute of the batch, once a row; the spaces are those of a row."""
        name = f"single_{attr_name}" if attr_name in ("action_space", "observation_space") else attr_name
        return [getattr(self.batch, name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Set an attribute of the batch. Errors: ValueError for some rows only, which share it."""
        chosen = sorted(self._get_indices(indices))
        check(chosen == list(range(self.num_envs)), "indices", chosen, "all rows, which share their attributes")
        setattr(self.batch, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call one of METHODS; an item a row. Errors: AttributeError for any other."""
        if method_name not in METHODS:
            raise AttributeError(f"a row of the native batch has {', '.join(METHODS)}, not {method_name}")
        found = getattr(self.batch, method_name)(*method_args, **method_kwargs)
        return [None if found is None else found[row] for row in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Indices = None) -> list[bool]:
        """True for Monitor, whose work is done here; nothing else wraps a row."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]

    def get_images(self) -> list[Any]:
        """A picture of each row, uint8 [height, width, 3], with render_mode "rgb_array"."""
        return self.env_method("render") if self.render_mode == "rgb_array" else [None] * self.num_envs

    # --- beyond SB3 ---------------------------------------------------------------------------------------------------

    def masks(self) -> npt.NDArray[np.bool_]:
        """What may be chosen now, bool [E, V + 1]."""
        return self.batch.action_masks()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _rows_of(self, infos: dict[str, Any]) -> list[dict[str, Any]]:
        """An info a row: empty ones (some 30 ns each), or all of the batch's."""
        if not self.full_infos:
            return [{} for _ in range(self.num_envs)]
        return [row_info(infos, row) for row in range(self.num_envs)]

    def _last_info(self, row: int, infos: dict[str, Any]) -> dict[str, Any]:
        """The info of a row that has ended; its sums begin anew."""
        last = infos["final_obs"][row]
        result: dict[str, Any] = row_info(infos["final_info"], row) if self.full_infos else {}
        result["terminal_observation"] = last
        result["TimeLimit.truncated"] = True
        result["episode"] = {
            "r": float(self._returns[row]),
            "l": int(self._lengths[row]),
            "t": round(time.time() - self._began, 6),
        }
        self.reset_infos[row] = row_info(infos, row) if self.full_infos else {}
        self._returns[row], self._lengths[row] = 0, 0
        return result


ROW_KEYS: Sequence[str] = ("elapsed_ns", "now_ns", "vm", "me", "attempt", "result", "ops", "masked_actions")


def row_info(infos: dict[str, Any], row: int) -> dict[str, Any]:
    """Row `row` of a batch's infos, as the single environment gives it."""
    terms = {name: float(values[row]) for name, values in infos["reward_terms"].items() if name[0] != "_"}
    numbers = {key: int(infos[key][row]) for key in ROW_KEYS}
    return {"action_mask": infos["action_mask"][row], **numbers, "reward_terms": terms}
