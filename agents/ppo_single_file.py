"""Masked PPO in one file, in CleanRL's style: no SB3, nothing of this repository but the environment. Copy and edit it.

    python agents/ppo_single_file.py --scenario dedup-small --total-steps 500000

The network scores each candidate with the same weights, so it does not depend on the number of vCPUs. Rewards are
discounted by simulated time, because decisions last unequal times. Left out: saving, evaluation, logs (agents/ppo has
them). Every line that changes results is in this file.
"""

from __future__ import annotations

import argparse
import random
import time
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.distributions import Categorical

from kvmgym.env.observation import GLOBALS  # "exists" is the first number after these

EXISTS = len(GLOBALS)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="masked PPO in one file", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--scenario", default="dedup-small", help="a name from `kvmgym list scenarios`")
    add("--seed", type=int, default=0)
    add("--total-steps", type=int, default=500_000, help="decisions in all environments together")
    add("--num-envs", type=int, default=64)
    add("--num-steps", type=int, default=128, help="decisions of each environment in a rollout")
    add("--episode-ms", type=float, default=100.0, help="simulated time of an episode")
    add("--learning-rate", type=float, default=2e-3)
    add("--tau-ms", type=float, default=10.0, help="a reward this much simulated time later counts 1/e")
    add("--gae-lambda", type=float, default=0.95)
    add("--minibatches", type=int, default=4)
    add("--epochs", type=int, default=4)
    add("--clip", type=float, default=0.2)
    add("--entropy", type=float, default=1e-3)
    add("--value", type=float, default=0.5, help="weight of the value loss")
    add("--max-grad-norm", type=float, default=0.5)
    add("--threads", type=int, default=1, help="of torch")
    arguments = parser.parse_args()
    for name in ("total_steps", "num_envs", "num_steps", "minibatches", "epochs", "threads"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be 1 or more")
    if arguments.num_envs * arguments.num_steps < 2 * arguments.minibatches:
        parser.error("--minibatches must be at most half of num-envs * num-steps")
    return arguments


def layer(inputs: int, outputs: int, gain: float = 2**0.5) -> nn.Linear:
    made = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(made.weight, gain)
    nn.init.zeros_(made.bias)
    return made


class Network(nn.Module):
    """Scores [B, V + 1] (the last is "no yield") and values [B] from observations [B, V, G + F]."""

    def __init__(self, inputs: int, wide: int = 64) -> None:
        super().__init__()
        self.embed = nn.Sequential(layer(inputs, wide), nn.Tanh(), layer(wide, wide), nn.Tanh())
        self.context = nn.Sequential(layer(2 * wide, wide), nn.Tanh())
        self.score = nn.Sequential(layer(2 * wide, wide), nn.Tanh(), layer(wide, 1, 0.01))
        self.no_yield = layer(wide, 1, 0.01)
        self.value = nn.Sequential(layer(wide, wide), nn.Tanh(), layer(wide, 1, 1.0))

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        exists = rows[..., EXISTS : EXISTS + 1]
        embedded = self.embed(rows) * exists
        mean = embedded.sum(1) / exists.sum(1).clamp(min=1)
        context = self.context(torch.cat([mean, (embedded - 2 * (1 - exists)).amax(1)], -1))
        everyones = context.unsqueeze(1).expand(-1, rows.shape[1], -1)
        scores = self.score(torch.cat([embedded, everyones], -1)).squeeze(-1)
        return torch.cat([scores, self.no_yield(context)], 1), self.value(context).squeeze(-1)


def masked(scores: torch.Tensor, masks: torch.Tensor) -> Categorical:
    return Categorical(logits=scores.masked_fill(~masks, -1e8))


def elapsed_ns_of(info: dict[str, Any]) -> npt.NDArray[np.int64]:
    """The simulated time that the step took in each row, [E]: that of a row which ended and began anew is in
    final_info."""
    if "final_info" not in info:
        return np.asarray(info["elapsed_ns"])
    return np.where(info["_final_info"], info["final_info"]["elapsed_ns"], info["elapsed_ns"])


def main() -> None:
    args = parse_arguments()
    random.seed(args.seed)
    np.random.seed(args.seed)
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)

    # same_step: a finished row begins anew in the same step, and the observation returned is already the new episode's.
    envs = gym.make_vec(
        "kvmgym:kvmgym/DirectedYield-v0", num_envs=args.num_envs, scenario=args.scenario, observation="matrix",
        duration_ns=int(args.episode_ms * 1e6), autoreset_mode="same_step",
    )  # fmt: skip
    shape = envs.single_observation_space.shape
    assert shape is not None and isinstance(envs.single_action_space, gym.spaces.Discrete)
    network = Network(shape[1])
    optimizer = torch.optim.Adam(network.parameters(), lr=args.learning_rate, eps=1e-5)

    # Storage: [T, E, ...]
    steps, rows = min(args.num_steps, max(args.total_steps // args.num_envs, 2)), args.num_envs
    observations = torch.zeros(steps, rows, *shape)
    masks = torch.zeros(steps, rows, int(envs.single_action_space.n), dtype=torch.bool)
    actions = torch.zeros(steps, rows, dtype=torch.int64)
    log_probs, rewards, values = (torch.zeros(steps, rows) for _ in range(3))
    elapsed_ns, dones = torch.zeros(steps, rows), torch.zeros(steps, rows)

    observation, info = envs.reset(seed=args.seed)
    usual = 0.0  # reward a 100 µs, running mean: rewards are compared with it
    returns, finished = np.zeros(rows), []
    updates = max(args.total_steps // (steps * rows), 1)
    began = time.perf_counter()
    for update in range(1, updates + 1):
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * (1 - (update - 1) / updates)

        for t in range(steps):
            observations[t] = torch.as_tensor(observation)
            masks[t] = torch.as_tensor(info["action_mask"]).bool()
            with torch.no_grad():
                scores, values[t] = network(observations[t])
                choice = masked(scores, masks[t])
                actions[t] = choice.sample()
                log_probs[t] = choice.log_prob(actions[t])
            observation, reward, terminated, truncated, info = envs.step(actions[t].numpy())
            ended = terminated | truncated
            rewards[t] = torch.as_tensor(reward)
            dones[t] = torch.as_tensor(ended)
            elapsed_ns[t] = torch.as_tensor(elapsed_ns_of(info))
            returns += reward
            finished += returns[ended].tolist()
            returns[ended] = 0

        # Advantages: a reward dt later counts exp(-dt / tau); the end of an episode is worth what is usual, 0.
        time_100us = elapsed_ns / 1e5
        usual += max(0.02, 1 / update) * (float(rewards.sum() / time_100us.sum().clamp(min=1e-9)) - usual)
        centred = rewards - usual * time_100us
        discounts = torch.exp(-elapsed_ns / (args.tau_ms * 1e6)) * (1 - dones)
        with torch.no_grad():
            after = torch.cat([values[1:], network(torch.as_tensor(observation))[1].unsqueeze(0)])
        deltas = centred + discounts * after - values
        advantages = torch.zeros_like(rewards)
        running = torch.zeros(rows)
        for t in reversed(range(steps)):
            running = deltas[t] + discounts[t] * args.gae_lambda * running
            advantages[t] = running
        targets = advantages + values

        batch = [found.flatten(0, 1) for found in (observations, masks, actions, log_probs, advantages, targets)]
        for _ in range(args.epochs):
            for chosen in torch.randperm(steps * rows).chunk(args.minibatches):
                obs, mask, action, old, advantage, target = (found[chosen] for found in batch)
                scores, value = network(obs)
                choice = masked(scores, mask)
                ratio = (choice.log_prob(action) - old).exp()
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                clipped = ratio.clamp(1 - args.clip, 1 + args.clip)
                policy_loss = -torch.min(advantage * ratio, advantage * clipped).mean()
                value_loss = (value - target).square().mean()
                entropy = choice.entropy().mean()
                optimizer.zero_grad()
                (policy_loss + args.value * value_loss - args.entropy * entropy).backward()
                nn.utils.clip_grad_norm_(network.parameters(), args.max_grad_norm)
                optimizer.step()

        done = update * steps * rows
        rate = done / (time.perf_counter() - began)
        recent = f"{np.mean(finished[-rows:]):.1f}" if finished else "none yet"
        lost = 100 * float(-rewards.sum() / time_100us.sum().clamp(min=1e-9))
        print(
            f"steps {done}  SPS {rate:.0f}  lost {lost:.1f} %  return {recent}  entropy {entropy.item():.3f}  "
            f"value loss {value_loss.item():.3f}",
            flush=True,
        )
    envs.close()


if __name__ == "__main__":
    main()
