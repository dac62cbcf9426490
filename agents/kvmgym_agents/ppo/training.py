"""The settings of a training run and the names of its files. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from kvmgym.env.observation import GLOBALS, VCPU_FIELDS
from kvmgym.env.rows import one_source
from kvmgym.measure import agents
from kvmgym.params import Scenario
from kvmgym.params.errors import check, integers, numbers, texts

KIND = "maskable-ppo"
SETTINGS, WEIGHTS, CHECKPOINT = agents.SETTINGS, "weights.safetensors", "checkpoint.safetensors"
EVALUATIONS = "evaluations.jsonl"
MOST_BYTES = 8 * 2**30  # of a rollout's observations


@dataclass(frozen=True)
class Training:
    """How a run is trained; docs/training.md says what the settings mean."""

    scenario: str = "dedup-small,dbench-small,vips-small"
    minutes: float = 5.0
    decisions: int = 0
    seed: int = 0
    envs: int = 128
    steps: int = 64
    batch: int = 2048
    epochs: int = 4
    learning_rate: float = 2e-3
    entropy: float = 1e-3
    tau_ms: float = 10.0
    gae_lambda: float = 0.95
    episode_ms: float = 100.0
    hidden: int = 64
    evaluation_seeds: int = 24
    every_s: float = 60.0

    def __post_init__(self) -> None:
        texts(self, "scenario")
        integers(self, 0, 2**31 - 1, "seed", "decisions")
        integers(self, 2, 10**5, "envs", "steps", "batch")
        integers(self, 1, 1000, "epochs", "hidden")
        integers(self, 2, 1000, "evaluation_seeds")
        numbers(self, 0.0, 1.0, "learning_rate", "entropy", "gae_lambda")
        numbers(self, 1e-3, 1e6, "minutes", "tau_ms", "episode_ms", "every_s")
        check(self.batch <= self.envs * self.steps, "Training.batch", self.batch, "at most envs * steps")

    @property
    def names(self) -> list[str]:
        """The names and files that `scenario` lists."""
        return [name.strip() for name in self.scenario.split(",")]

    def scenarios(self) -> list[Scenario]:
        """The scenarios that the rows take in turn. Errors: ValueError for an unknown one, a file that cannot be read,
        two of one name, or a rollout that is larger than MOST_BYTES."""
        found: list[Scenario] = []
        for name in self.names:
            try:
                scenario = one_source(name)
            except OSError as error:
                raise ValueError(f"--scenario {name}: {error.strerror or error}") from None
            assert isinstance(scenario, Scenario)
            alone = all(other == scenario for other in found if other.name == scenario.name)
            check(alone, "--scenario", name, f"the only one that is called {scenario.name}")
            found.append(scenario)
        widest = max(vm.vcpus for scenario in found for vm in scenario.vms)
        size = self.envs * self.steps * widest * 4 * (len(GLOBALS) + len(VCPU_FIELDS))
        check(size <= MOST_BYTES, "--envs", self.envs,
              f"less, or --steps {self.steps}: a rollout takes {size / 2**30:,.0f} GiB, more than "
              f"{MOST_BYTES // 2**30}")  # fmt: skip
        return found
