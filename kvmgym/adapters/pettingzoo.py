"""PettingZoo: one agent a VM, as an AEC and as a parallel environment.

At each decision one VM's vCPU spins, and that VM's agent acts: `vm_0` is the first VM of the scenario. An agent
observes the last decision of its VM (before the first: how many vCPUs it has, else 0); while another acts, its mask
allows "no yield" only.
Rewards come to all agents at every decision:

    "shared": the reward of DirectedYieldEnv, the same for all.
    "own": minus the pCPU time that the VM itself lost to spinning and host work, and its equal share of the host's
        idleness, in units of 100 µs of the whole host. On a host without tasks of its own and with all VMs controlled
        they sum to the shared default reward.

Left out: scenarios whose number of VMs changes between episodes; VMs that are not controlled have no agent.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils import wrappers

from kvmgym.env import stepping
from kvmgym.env.observation import GLOBALS, VCPU_FIELDS, G
from kvmgym.env.reward import SUM, UNIT_NS
from kvmgym.env.rows import Source
from kvmgym.env.single import RESET_OPTIONS, DirectedYieldEnv
from kvmgym.env.spaces import shaped
from kvmgym.params import Scenario
from kvmgym.params.errors import check

_PLACE_OF_VCPUS = [field.name for field in GLOBALS].index("vcpus")
_PLACE_OF_EXISTS = [field.name for field in VCPU_FIELDS].index("exists")
REWARDS = ("shared", "own")
METADATA: dict[str, Any] = {
    "name": "directed_yield_v0",
    "render_modes": DirectedYieldEnv.metadata["render_modes"],
    "render_fps": DirectedYieldEnv.metadata["render_fps"],
    "is_parallelizable": False,  # one agent acts at a time: use parallel_env, not aec_to_parallel
}


class _Hosts:
    """What both forms share: the single environment, seen by one agent a VM."""

    def __init__(self, scenario: Source, rewards: str, dict_observation: bool, options: dict[str, Any]) -> None:
        check(rewards in REWARDS, "rewards", rewards, f"one of {', '.join(REWARDS)}")
        self.env = DirectedYieldEnv(scenario, **options)
        first = self.env.worlds.sources[0]
        check(isinstance(first, Scenario), "scenario", scenario, "a fixed scenario: each of its VMs is an agent")
        assert isinstance(first, Scenario)
        controlled = self.env.worlds.controlled
        self.vms = len(first.vms)
        self.agents = {g: f"vm_{g}" for g in (range(self.vms) if controlled is None else sorted(set(controlled)))}
        self.own, self.dict_observation = rewards == "own", dict_observation
        self.number = self.env.worlds.max_vcpus + 1
        self.none = np.zeros(self.number, np.int8)
        self.none[-1] = 1
        self.action_spaces = {name: gym.spaces.Discrete(self.number) for name in self.agents.values()}
        self.observation_spaces = {name: self._space() for name in self.agents.values()}
        self.seen: dict[str, Any] = {}
        self.lost: npt.NDArray[np.float64] = np.zeros(0)
        self.info: dict[str, Any] = {}

    def _space(self) -> gym.Space[Any]:
        inner = copy.deepcopy(self.env.observation_space)  # an agent's own: spaces hold the random state of samples
        if not self.dict_observation:
            return inner
        mask = gym.spaces.Box(0, 1, (self.number,), np.int8)
        return gym.spaces.Dict({"observation": inner, "action_mask": mask})

    @property
    def actor(self) -> str | None:
        """The agent that acts now; None at the end."""
        return self.agents.get(self.info["vm"])

    def reset(self, seed: int | None, options: dict[str, Any] | None) -> None:
        """Begin an episode. Options that DirectedYieldEnv does not know are left out: PettingZoo's contract wants any
        to be taken."""
        known = {key: value for key, value in (options or {}).items() if key in RESET_OPTIONS}
        observation, self.info = self.env.reset(seed=seed, options=known)
        blueprint = self.env.worlds.blueprints[0]
        assert blueprint is not None
        vms = len(blueprint.scenario.vms)
        check(vms == self.vms, "number of VMs", vms, f"{self.vms}, one an agent")
        self.seen = {name: self._unseen(blueprint.vms[g].vcpus) for g, name in self.agents.items()}
        self._look(observation)
        self.lost = self._losses()

    def step(self, action: Any) -> tuple[dict[str, float], bool]:
        """One attempt of the actor: the rewards, and whether the episode has ended."""
        observation, reward, _, ended, self.info = self.env.step(action)
        if not ended:
            self._look(observation)
        if not self.own:
            return dict.fromkeys(self.agents.values(), reward), ended
        before, self.lost = self.lost, self._losses()
        return {name: float(before[g] - self.lost[g]) for g, name in self.agents.items()}, ended

    def _unseen(self, vcpus: int) -> Any:
        """What the agent of a VM of so many vCPUs sees before its first decision."""
        worlds, form = self.env.worlds, self.env.batch.form
        flat = np.zeros_like(worlds.flat[0])
        flat[_PLACE_OF_VCPUS] = min(vcpus / 128, 1.0)
        exists = flat[G:].reshape(worlds.max_vcpus, -1)
        exists[:vcpus, _PLACE_OF_EXISTS] = 1
        return shaped(form, flat, worlds.max_vcpus)

    def _look(self, observation: Any) -> None:
        """The actor sees the decision."""
        actor = self.actor
        assert actor is not None
        self.seen[actor] = observation

    def _losses(self) -> npt.NDArray[np.float64]:
        """What each VM has lost since the start, [VMs], in the reward's unit."""
        worlds = self.env.worlds
        blueprint = worlds.blueprints[0]
        assert blueprint is not None
        if not self.own:
            return self.lost
        vcpu = worlds.world(0).vcpu
        each = vcpu["spin_ns"] + vcpu["overhead_ns"]
        lost = np.array([each[a:b].sum() for a, b in pairwise(blueprint.firsts[: self.vms + 1])])
        idle = worlds.rows[0, stepping.COLUMNS + SUM.idle_ns]
        found: npt.NDArray[np.float64] = (lost + idle / self.vms) / (blueprint.pcpus * UNIT_NS)
        return found

    def mask(self, agent: str) -> npt.NDArray[np.int8]:
        """What an agent may choose now, int8 [V + 1]."""
        allowed = self.info["action_mask"] if agent == self.actor else self.none
        mask: npt.NDArray[np.int8] = allowed.copy()
        return mask

    def observe(self, agent: str) -> Any:
        """The last decision of the agent's VM, with the mask by option."""
        seen = _copied(self.seen[agent])
        return {"observation": seen, "action_mask": self.mask(agent)} if self.dict_observation else seen

    def infos(self) -> dict[str, dict[str, Any]]:
        """An info an agent: what DirectedYieldEnv tells, the agent's own mask, and whether it acts."""
        actor = self.actor
        return {
            name: {**self.info, "action_mask": self.mask(name), "acts": name == actor} for name in self.agents.values()
        }


class _Seats:
    """What both forms have alike: arguments, the agents and their spaces."""

    def __init__(
        self,
        scenario: Source = "dedup-small",
        *,
        rewards: str = "shared",
        dict_observation: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.hosts = hosts = _Hosts(scenario, rewards, dict_observation, options)
        self.possible_agents = list(hosts.agents.values())
        self.agents: list[str] = []
        self.observation_spaces, self.action_spaces = hosts.observation_spaces, hosts.action_spaces
        self.render_mode = hosts.env.render_mode

    def observation_space(self, agent: str) -> gym.Space[Any]:
        """The agent's observation space: always the same object."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gym.Space[Any]:
        """Discrete(V + 1): always the same object."""
        return self.action_spaces[agent]


class DirectedYieldAEC(_Seats, AECEnv[str, Any, int]):
    """The AEC form: agent_selection is the VM whose vCPU spins. See the module for observations and rewards.

    Arguments: scenario, a fixed one; rewards, "shared" or "own"; dict_observation: {"observation", "action_mask"}
    instead of the observation alone (the mask is always in infos, too); further ones as for DirectedYieldEnv.
    """

    metadata = METADATA

    def observe(self, agent: str) -> Any:
        """What the agent sees."""
        return self.hosts.observe(agent)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Begin an episode; seed and options as for DirectedYieldEnv."""
        self.hosts.reset(seed, options)
        self.agents = list(self.possible_agents)
        self.rewards: dict[str, float] = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards: dict[str, float] = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = self.hosts.infos()
        self._skip_agent_selection: str | None = None
        self.agent_selection = str(self.hosts.actor)

    def step(self, action: Any) -> None:
        """The action of agent_selection; None for one whose episode has ended."""
        agent = self.agent_selection
        if self.truncations[agent]:
            self._was_dead_step(action)
            return
        self._cumulative_rewards[agent] = 0.0
        self.rewards, ended = self.hosts.step(action)
        self.infos = self.hosts.infos()
        if ended:
            self.truncations = dict.fromkeys(self.agents, True)
        else:
            self.agent_selection = str(self.hosts.actor)
        self._accumulate_rewards()
        self._deads_step_first()

    def render(self) -> Any:
        """A picture of the decision, as DirectedYieldEnv draws it."""
        return self.hosts.env.render()

    def close(self) -> None:
        """Stop what the environment holds."""
        self.hosts.env.close()


class DirectedYieldParallel(_Seats, ParallelEnv[str, Any, int]):
    """The parallel form: every agent gets everything at each decision; only the actor's action counts.

    Arguments as for DirectedYieldAEC. infos[agent]["acts"] tells who acts.
    """

    metadata = METADATA

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], Any]:
        """Begin an episode; seed and options as for DirectedYieldEnv."""
        self.hosts.reset(seed, options)
        self.agents = list(self.possible_agents)
        return {agent: self.hosts.observe(agent) for agent in self.agents}, self.hosts.infos()

    def step(self, actions: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, float], Any, Any, Any]:
        """One attempt of the agent that acts. Errors: ValueError when its action is missing."""
        actor = str(self.hosts.actor)
        check(actor in actions, "actions", sorted(actions), f"a table with {actor}, which acts")
        rewards, ended = self.hosts.step(actions[actor])
        agents = self.agents
        if ended:
            self.agents = []
        return (
            {agent: self.hosts.observe(agent) for agent in agents},
            rewards,
            dict.fromkeys(agents, False),
            dict.fromkeys(agents, ended),
            self.hosts.infos(),
        )

    def render(self) -> Any:
        """A picture of the decision, as DirectedYieldEnv draws it."""
        return self.hosts.env.render()

    def close(self) -> None:
        """Stop what the environment holds."""
        self.hosts.env.close()


raw_env = DirectedYieldAEC
parallel_env = DirectedYieldParallel


def env(**arguments: Any) -> AECEnv[str, Any, int]:
    """The AEC form with PettingZoo's checks of actions and of the order of calls."""
    return wrappers.OrderEnforcingWrapper(wrappers.AssertOutOfBoundsWrapper(raw_env(**arguments)))


def _copied(observation: Any) -> Any:
    return {k: v.copy() for k, v in observation.items()} if isinstance(observation, dict) else observation.copy()
