"""The kernel's policies as agents: bit for bit the compiled policy's run, but each decision goes through Gymnasium.

The environment answers for them (`env.ask`), because a policy of the kernel keeps its place in the records of KVM and
writes to them (the scan, dy_eligible), which no observation holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from kvmgym.params import Scenario
from kvmgym.policies import Policy, PolicyFunction, as_policy
from kvmgym_agents.base import Actions, Agent


class KernelAgent(Agent):
    """A compiled policy that is asked through the environment.

    policy: a name of kvmgym.policies.POLICIES, a Policy, or a function of your own. Errors: ValueError for an unknown
    name.
    """

    env_options: ClassVar[Mapping[str, Any]] = MappingProxyType({"kernel_agent": True})

    def __init__(self, policy: str | Policy | PolicyFunction) -> None:
        self.policy = as_policy(policy)
        self.name = self.policy.name
        self._ask: Callable[[Policy], Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the environment: `bind` it again where it is unpickled."""
        return {**self.__dict__, "_ask": None}

    def prepare(self, scenario: Scenario) -> Scenario:
        """The scenario with the policy's scheduler half and IPI tracking."""
        return self.policy.prepare(scenario)

    def bind(self, env: Any) -> None:
        """Keep the environment to ask it; one made without `kernel_agent=True` refuses."""
        self._ask = env.unwrapped.ask

    def act(self, observation: Any, info: Mapping[str, Any]) -> Actions:
        """What the policy answers in each row's open exit. Once a step: asking moves the policy's scan on."""
        if self._ask is None:
            raise RuntimeError(f"agent {self.name}: call bind(env) before act")
        return np.atleast_1d(np.asarray(self._ask(self.policy), dtype=np.int64))
