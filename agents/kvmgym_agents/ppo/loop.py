"""A training run: MaskablePPO on the native batch until its time, or its number of decisions, is over; evaluations and
checkpoints between."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat

from kvmgym.adapters.sb3 import NativeVecEnv
from kvmgym.measure.compare import Row, row_of
from kvmgym.measure.evaluate import evaluate
from kvmgym.measure.gains import Cell, cells
from kvmgym.measure.simulate import simulate_batch
from kvmgym.params import Scenario
from kvmgym_agents.ppo import evaluations
from kvmgym_agents.ppo.agent import PpoAgent
from kvmgym_agents.ppo.network import CandidateNetwork, NetworkSettings
from kvmgym_agents.ppo.policy import CandidatePolicy, TimedBuffer
from kvmgym_agents.ppo.storage import Settings, load_checkpoint, save_checkpoint, save_weights, write_settings
from kvmgym_agents.ppo.training import CHECKPOINT, EVALUATIONS, Training

SHOWN = ("random", "relaxed", "longest-waiting")  # policies that a run is shown beside
FIRST_EVALUATION_SEED = 1_000_000  # `kvmgym compare` takes 0, 1, ...
EVALUATED_NS, WARMUP_NS = 80_000_000, 20_000_000


class Run:
    """A training run in a folder. resume: goes on from the folder's checkpoint. Errors: ValueError, OSError."""

    def __init__(self, folder: Path, training: Training, console: Console, resume: bool = False) -> None:
        self.folder, self.training, self.console = folder, training, console
        self.scenarios = training.scenarios()
        self.seconds_before = 0.0
        self.began = time.monotonic()
        settings = NetworkSettings(hidden=training.hidden)
        self.vec = NativeVecEnv(
            training.envs,
            self.scenarios,  # type: ignore[arg-type]
            observation="matrix",
            duration_ns=int(training.episode_ms * 1e6),
        )
        self.model = MaskablePPO(
            CandidatePolicy,
            self.vec,
            learning_rate=self._learning_rate,
            n_steps=training.steps,
            batch_size=training.batch,
            n_epochs=training.epochs,
            gae_lambda=training.gae_lambda,
            ent_coef=training.entropy,
            policy_kwargs={"network": settings},
            rollout_buffer_class=TimedBuffer,
            rollout_buffer_kwargs={"elapsed_ns": lambda: self.vec.elapsed_ns, "tau_ns": training.tau_ms * 1e6},
            seed=training.seed,
            device="cpu",
        )
        self.network: CandidateNetwork = self.model.policy.network
        if resume:
            progress = load_checkpoint(folder, self.network, self.model.policy.optimizer)
            try:
                self.seconds_before = float(progress["seconds"])
                self.model.num_timesteps = int(progress["steps"])
                self.model.rollout_buffer.usual, self.model.rollout_buffer.rollouts = progress["usual"]
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{folder / CHECKPOINT}: does not say how far training had come ({error!r})") from None
        self.baseline: dict[str, list[Row]] = {}

    @property
    def seconds(self) -> float:
        """How long it has been trained, interruptions left out."""
        return self.seconds_before + time.monotonic() - self.began

    @property
    def done(self) -> float:
        """Which share of the decisions, or else of the time, has passed, 0 to 1."""
        if self.training.decisions:
            return min(int(self.model.num_timesteps) / self.training.decisions, 1.0)
        return min(self.seconds / (60 * self.training.minutes), 1.0)

    def _learning_rate(self, remaining: float) -> float:
        """Falls with what is left: by SB3's count of decisions, or by the clock."""
        left = remaining if self.training.decisions else 1 - self.done
        return self.training.learning_rate * max(0.05, left)

    def go(self) -> None:
        """Train to the end; a checkpoint and an evaluation at the end too. KeyboardInterrupt: what has been
        learned until then is kept."""
        with self.console.status("preparing the environment …"):
            self.vec.reset()
            self.vec.step(np.full(self.training.envs, self.vec.batch.worlds.max_vcpus))
            self.vec.seed(self.training.seed + self.model.num_timesteps)  # a run that goes on meets new worlds
        write_settings(self.folder, Settings(self.network.settings, asdict(self.training)))
        self.model.set_logger(_logger(self.folder))
        self.began = time.monotonic()
        self._show_policies()
        with Progress(
            TextColumn("training"), BarColumn(), TextColumn("{task.fields[about]}"), TimeRemainingColumn(),
            console=self.console, transient=True, disable=not self.console.is_terminal,
        ) as progress:  # fmt: skip
            task = progress.add_task("training", total=1.0, about="")
            watcher = _Watcher(self, lambda about: progress.update(task, completed=self.done, about=about))
            try:
                left = max((self.training.decisions or 2**62) - self.model.num_timesteps, 0)
                self.model.learn(left, callback=watcher, log_interval=5, reset_num_timesteps=False)
            finally:
                self.save()
        self.show("end")

    def save(self) -> None:
        """Write the checkpoint, then the weights that act: a folder that has any weights can be gone on with."""
        buffer = self.model.rollout_buffer
        progress = {"seconds": self.seconds, "steps": self.model.num_timesteps}
        usual = {"usual": [buffer.usual, buffer.rollouts]}
        save_checkpoint(self.folder, self.network, self.model.policy.optimizer, {**progress, **usual})
        save_weights(self.folder, self.network, progress)

    def show(self, when: str) -> None:
        """Evaluate, print a line, and keep it in evaluations.jsonl and TensorBoard."""
        agent = PpoAgent(self.network)
        found = {}
        for scenario in self.scenarios:
            cell = self._cell(evaluate(agent, scenario, self._seeds(), EVALUATED_NS, WARMUP_NS), scenario)
            found[scenario.name] = cell
            if cell.gain:
                self.model.logger.record(f"gain/{scenario.name}", cell.gain.mean)
        self._print(when, found)
        plain = {name: {**cell.host.to_dict(), "fairness": cell.fairness} for name, cell in found.items()}
        line = {"seconds": round(self.seconds, 1), "steps": self.model.num_timesteps, "gain_over_legacy": plain}
        evaluations.append(self.folder / EVALUATIONS, line)

    def _show_policies(self) -> None:
        """What the policies of the kernel's table get on the evaluation's worlds."""
        self.console.print(
            f"gain over legacy in % on {self.training.evaluation_seeds} evaluation seeds of "
            f"{EVALUATED_NS / 1e9:g} s, 95 % intervals"
        )
        for scenario in self.scenarios:
            self.baseline[scenario.name] = self._rows("legacy", scenario)
        for name in SHOWN:
            self._print(name, {found.name: self._cell(self._rows(name, found), found) for found in self.scenarios})

    def _rows(self, policy: str, scenario: Scenario) -> list[Row]:
        times: dict[str, Any] = {"duration_ns": EVALUATED_NS, "warmup_ns": WARMUP_NS}
        return [row_of(found) for found in simulate_batch(scenario, policy, seeds=self._seeds(), **times)]

    def _seeds(self) -> Sequence[int]:
        return range(FIRST_EVALUATION_SEED, FIRST_EVALUATION_SEED + self.training.evaluation_seeds)

    def _cell(self, rows: list[Row], scenario: Scenario) -> Cell:
        """What the rows of one policy or agent gain over legacy."""
        return cells([*self.baseline[scenario.name], *rows], "legacy")[-1]

    def _print(self, who: str, found: dict[str, Cell]) -> None:
        """A line: for each scenario the gain, and the worst VM's where the VMs run different programs."""
        texts = [
            f"{name} {cell.text}" + f" (worst {cell.host.worst_text})" * cell.mixed for name, cell in found.items()
        ]
        self.console.print(f"{who:>16}  {'   '.join(texts)}", soft_wrap=True, highlight=False)


class _Watcher(BaseCallback):  # type: ignore[misc]
    """Ends the training in time; checkpoints, evaluates and tells how far it is."""

    def __init__(self, run: Run, tell: Any) -> None:
        super().__init__()
        self.run, self.tell = run, tell
        self.next_s = run.seconds + run.training.every_s
        self.first = run.model.num_timesteps

    def _on_step(self) -> bool:
        return self.run.done < 1 or self.run.training.decisions > 0  # SB3 counts the decisions itself

    def _on_rollout_start(self) -> None:
        run = self.run
        rate = (run.model.num_timesteps - self.first) / max(time.monotonic() - run.began, 1e-9)
        lost = -run.model.rollout_buffer.usual
        self.tell(f"{run.model.num_timesteps:,} decisions, {rate:,.0f}/s, {100 * lost:.1f} % of the CPU time lost")
        if run.seconds >= self.next_s and run.done < 1:
            run.save()
            run.show(f"after {run.seconds:.0f} s")
            self.next_s = run.seconds + run.training.every_s


def _logger(folder: Path) -> Logger:
    """Logs for TensorBoard where it is installed, else none."""
    try:
        return Logger(str(folder), [TensorBoardOutputFormat(str(folder / "tensorboard"))])
    except (ImportError, AssertionError):  # SB3 asserts that it is there
        return Logger(None, [])


def prepare_torch(threads: int, seed: int) -> None:
    """Threads and seeds of torch and NumPy, which SB3 draws from."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    np.random.seed(seed)
