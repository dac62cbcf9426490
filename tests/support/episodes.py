"""What the tests of the environment share: hand-made scenarios with known decisions, runs of whole episodes, and
comparing what they gave."""

from dataclasses import replace

import numpy as np
from stories import FAR, hog, hold, one_lock, plain_host, us, user, vm

from kvmgym.params import Block, Costs, Scenario

US, MS = 1_000, 1_000_000


def woken(sleepers, woken_us=29, wake_ns=2_000):
    """a1 (pCPU 1) spins for a0 from 0 to 50 µs with exits at 2, 6, 14, 30 µs; a2 and the other sleepers, each alone on
    its pCPU, wake up at `woken_us` and run 2 µs later. Until 29 µs nobody can be yielded to; at 30 µs every sleeper
    can, and is refused (-ESRCH): each pCPU has one task."""
    sleeping = [(user(5), Block(us(woken_us - 5)), FAR)] * sleepers
    guest = vm("a", (*hold("l", 50), FAR), (*hold("l", 10), FAR), *sleeping, pin=tuple(range(2 + sleepers)),
               locks=one_lock())  # fmt: skip
    host = plain_host(2 + sleepers, group_scheduling=False, costs=replace(Costs.zero(), wake_ns=wake_ns))
    return Scenario("woken", host, (guest,))


def holder_preempted():
    """b0 and a0 share pCPU 0: b0 0-2, a0 2-4 ms with the lock from 2 ms, b0 from 4 ms. a1 comes for the lock at 4.1 ms
    and finds a0 preempted: exits at 4102 µs and on, if nobody lets a0 run."""
    guest = vm("a", (*hold("l", 2_100), FAR), (user(4_100), *hold("l", 10), FAR), pin=(0, 1), locks=one_lock())
    return Scenario("preempted", plain_host(2, group_scheduling=False), (hog("b", 0), guest))


def world(env, row=0):
    """A view of the world behind a row of an environment."""
    return env.worlds.world(row)


def lowest(masks):
    """The first action that is allowed, of one mask or of each of a batch: deterministic, so that runs compare."""
    return np.argmax(masks, axis=-1)


def first_allowed(mask):
    """The first possible target, or "no yield"."""
    return int(np.flatnonzero(mask)[0])


def any_allowed(seed):
    """A function of the mask that takes any allowed action."""
    generator = np.random.default_rng(seed)
    return lambda mask: int(generator.choice(np.flatnonzero(mask)))


def episode(env, seed, pick=first_allowed, most=10**9, options=None):
    """Steps (observation, reward, ended, info) of one episode, the reset's first."""
    observation, info = env.reset(seed=seed, options=options)
    steps = [(observation, 0.0, False, info)]
    while not steps[-1][2] and len(steps) <= most:
        observation, reward, terminated, truncated, info = env.step(pick(info["action_mask"]))
        assert not terminated
        steps.append((observation, reward, truncated, info))
    return steps


def same(left, right):
    """Bit for bit equality of nested dicts, lists, arrays and numbers."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, np.ndarray):
        if left.dtype == object:
            return same(list(left), list(right))
        return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    return type(left) is type(right) and left == right


def at_row(value, row):
    """What nested dicts of arrays say about one row; masks `_key` are left out."""
    if isinstance(value, dict):
        return {key: at_row(part, row) for key, part in value.items() if not key.startswith("_")}
    part = value[row]
    return part if isinstance(part, np.ndarray) else part.item() if isinstance(part, np.generic) else part


class Singles:
    """What a batch must give, made of single environments: row i with seed + i under an auto-reset mode."""

    def __init__(self, number, make, mode):
        self.envs, self.mode = [make(row) for row in range(number)], mode
        self.ended = [False] * number
        self.finals = {}

    def reset(self, seed):
        """(observation, info) of each row."""
        return [env.reset(seed=seed + row) for row, env in enumerate(self.envs)]

    def step(self, actions):
        """(observation, reward, truncated, info) of each row; what rows ended with in SAME_STEP is in `finals`."""
        self.finals = {}
        return [self._step(row, env, int(actions[row])) for row, env in enumerate(self.envs)]

    def _step(self, row, env, action):
        if self.ended[row]:  # NEXT_STEP
            self.ended[row] = False
            observation, info = env.reset()
            return observation, 0.0, False, info
        observation, reward, _, truncated, info = env.step(action)
        self.ended[row] = truncated and self.mode == "next_step"
        if truncated and self.mode == "same_step":
            self.finals[row] = observation, info
            observation, info = env.reset()
        return observation, reward, truncated, info


def assert_batch_is_singles(batch, singles, seed, steps, pick):
    """Steps of both with the same actions give the same bits. Returns how many episodes ended."""
    number, ended = batch.num_envs, 0
    observations, infos = batch.reset(seed=seed)
    for row, found in enumerate(singles.reset(seed)):
        assert same(found, (at_row(observations, row), at_row(infos, row))), row
    for _ in range(steps):
        actions = np.array([pick(mask) for mask in batch.action_masks()])
        observations, rewards, terminated, truncated, infos = batch.step(actions)
        assert not terminated.any()
        for row, found in enumerate(singles.step(actions)):
            here = (
                at_row(observations, row),
                float(rewards[row]),
                bool(truncated[row]),
                at_row(without_finals(infos), row),
            )
            assert same(found, here), (row, found, here)
        ended += int(truncated.sum())
        if singles.mode == "same_step":
            _assert_finals(infos, singles.finals, number)
        if singles.mode == "disabled" and truncated.any():
            observations, infos = batch.reset(options={"reset_mask": truncated})
            for row in np.flatnonzero(truncated):
                assert same(singles.envs[row].reset(), (at_row(observations, row), at_row(infos, row)))
    return ended


def without_finals(infos):
    """Infos without what SAME_STEP adds about ended episodes."""
    return {key: value for key, value in infos.items() if not key.lstrip("_").startswith(("final_", "episode_"))}


def _assert_finals(infos, finals, number):
    assert ("final_obs" in infos) == bool(finals)
    if finals:
        assert infos["_final_obs"].tolist() == [row in finals for row in range(number)]
        for row, (observation, info) in finals.items():
            assert same(observation, infos["final_obs"][row])
            assert same(info, at_row(infos["final_info"], row))
