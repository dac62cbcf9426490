"""The native vector environment: its rows are the single environments, in every auto-reset mode and form."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from episodes import MS, US, Singles, any_allowed, assert_batch_is_singles, same, woken
from gymnasium.vector import AutoresetMode

from kvmgym import DirectedYieldEnv, DirectedYieldVectorEnv
from kvmgym.env.observation import F, G
from kvmgym.env.single import ID
from kvmgym.scenarios import BY_NAME as SCENARIOS

MODES = ("next_step", "same_step", "disabled")
MIXED = ["dedup-small", woken(4), "hotlock-small"]
OPTIONS = {
    "plain": {},
    "dict": {"observation": "dict", "privileged": True},
    "matrix": {"observation": "matrix", "show_all": True},
    "controlled": {"controlled": [0], "others": "relaxed", "reward": {"spin": 1.0, "fairness": 0.5}},
    "padded": {"max_vcpus": 8},
    "sampler": {"scenario": lambda generator: SCENARIOS[("dedup-small", "vips-small")[generator.integers(2)]],
                "max_vcpus": 5},
    "mixed": {"scenario": MIXED},
}  # fmt: skip


# --- rows are single environments -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_batch_is_its_singles_bit_for_bit(options, mode):
    """Episodes of 3 ms end again and again; the new ones continue each row's random stream."""
    given = {"duration_ns": 3 * MS, **options}
    dealt = given.get("scenario", "dedup-small")
    dealt = dealt if isinstance(dealt, list) else [dealt]
    batch = DirectedYieldVectorEnv(4, autoreset_mode=mode, **given)
    widest = batch.worlds.max_vcpus

    def one(row):
        return DirectedYieldEnv(**{**given, "scenario": dealt[row % len(dealt)], "max_vcpus": widest})

    ended = assert_batch_is_singles(batch, Singles(4, one, mode), 11, 200, any_allowed(2))
    assert ended > 8


@pytest.mark.parametrize("mode", MODES)
def test_results_do_not_depend_on_threads_or_the_size_of_the_batch(mode):
    sizes = [(5, 1), (5, 2), (5, 3), (5, 8), (3, 2), (1, 1)]
    batches = [DirectedYieldVectorEnv(n, duration_ns=3 * MS, autoreset_mode=mode, threads=t) for n, t in sizes]
    starts = [batch.reset(seed=20)[0] for batch in batches]
    assert all(same(start, starts[0][: len(start)]) for start in starts)
    pick = any_allowed(3)
    for _ in range(150):
        actions = np.array([pick(mask) for mask in batches[0].action_masks()])
        steps = [batch.step(actions[: batch.num_envs]) for batch in batches]
        for n, batch, step in zip((n for n, _ in sizes), batches, steps, strict=True):
            assert all(same(a, b[:n]) for a, b in zip(step[:4], steps[0][:4], strict=True))
            assert same(batch.action_masks(), batches[0].action_masks()[:n])
        for batch, step in zip(batches, steps, strict=True):
            if mode == "disabled" and step[3].any():
                batch.reset(options={"reset_mask": step[3]})
    for batch in batches:
        batch.close()


def test_rows_take_the_scenarios_in_turn_in_one_padded_shape():
    batch = DirectedYieldVectorEnv(5, MIXED, duration_ns=100 * US * 30)
    observations, infos = batch.reset(seed=0)
    assert batch.single_action_space.n == 7 and observations.shape == (5, G + 6 * F)
    exists = observations[:, G:].reshape(5, 6, F)[:, :, 0]
    assert exists.sum(axis=1).tolist() == [4, 6, 4, 4, 6]
    assert infos["action_mask"][1].tolist() == [0, 0, 1, 1, 1, 1, 1] and infos["now_ns"][1] == 30 * US
    assert not infos["action_mask"][[0, 2, 3]][:, 4:6].any()


# --- Gymnasium's make_vec and the auto-reset modes --------------------------------------------------------------------


@pytest.mark.parametrize("mode", [None, *MODES, AutoresetMode.SAME_STEP])
def test_make_vec_makes_the_native_environment_without_a_warning(mode):
    chosen = {} if mode is None else {"autoreset_mode": mode}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = gym.make_vec(ID, num_envs=3, duration_ns=3 * MS, **chosen)
        observations, _ = batch.reset(seed=1)
    assert isinstance(batch.unwrapped, DirectedYieldVectorEnv)
    wanted = {None: AutoresetMode.NEXT_STEP, "next_step": AutoresetMode.NEXT_STEP, "disabled": AutoresetMode.DISABLED}
    assert batch.metadata["autoreset_mode"] == wanted.get(mode, AutoresetMode.SAME_STEP)
    assert batch.observation_space.contains(observations) and batch.num_envs == 3


def test_make_vec_passes_the_step_limit_on():
    batch = gym.make_vec(ID, num_envs=2, max_episode_steps=3, autoreset_mode="same_step")
    batch.reset(seed=0)
    ends = [batch.step(np.array([4, 4]))[3].tolist() for _ in range(7)]
    assert ends == [[step % 3 == 2] * 2 for step in range(7)]


def test_next_step_ignores_the_action_after_an_end():
    """Row 0 ends at its second step; the third begins anew whatever is asked, with reward 0 and time 30 µs."""
    batch = DirectedYieldVectorEnv(1, woken(1), duration_ns=100 * US)
    first, _ = batch.reset(seed=0)
    ended = batch.step([2])
    assert ended[3].tolist() == [True] and not ended[0].any() and ended[1][0] < 0
    for action in (0, 2, 3):
        observations, rewards, _, truncated, infos = batch.step([action])
        assert same(observations, first) and rewards.tolist() == [0.0] and not truncated.any()
        assert infos["now_ns"].tolist() == [30 * US]
        assert batch.step([2])[3].tolist() == [True]


def test_disabled_waits_for_a_reset_of_what_ended():
    batch = DirectedYieldVectorEnv(2, [woken(1), "dedup-small"], duration_ns=3 * MS, autoreset_mode="disabled")
    batch.reset(seed=0)
    while not (ended := batch.step(batch.sample_actions())[3]).any():
        pass
    assert ended.tolist() == [True, False]
    with pytest.raises(gym.error.ResetNeeded, match=r"rows \[0\] have ended"):
        batch.step([5, 5])
    before = batch.worlds.flat[1].copy()
    _, infos = batch.reset(options={"reset_mask": ended})
    assert infos["now_ns"][0] == 30 * US and same(batch.worlds.flat[1], before)
    batch.step([5, 5])


def test_a_row_that_was_never_reset_cannot_step():
    batch = DirectedYieldVectorEnv(2, autoreset_mode="disabled")
    with pytest.raises(gym.error.ResetNeeded):
        batch.step([4, 4])
    batch.reset(seed=0, options={"reset_mask": np.array([True, False])})
    with pytest.raises(gym.error.ResetNeeded):
        batch.step([4, 4])


# --- seeds, infos, buffers, masks -------------------------------------------------------------------------------------


def test_seeds_count_up_and_may_be_given_one_by_one():
    batch = DirectedYieldVectorEnv(3)
    counted, _ = batch.reset(seed=5)
    listed, _ = batch.reset(seed=[7, 6, 5])
    assert same(listed, np.ascontiguousarray(counted[::-1])) and len({row.tobytes() for row in counted}) == 3


def test_infos_are_arrays_with_masks_and_constant_keys():
    batch = DirectedYieldVectorEnv(3, duration_ns=3 * MS)
    _, infos = batch.reset(seed=0)
    kinds = {key: getattr(value, "dtype", None) for key, value in infos.items()}
    for _ in range(100):
        infos = batch.step(batch.sample_actions())[4]
        assert {key: getattr(value, "dtype", None) for key, value in infos.items()} == kinds
    plain = [key for key in infos if not key.startswith("_")]
    assert all(infos[f"_{key}"].tolist() == [True] * 3 for key in plain) and "reward_terms" in plain
    assert infos["action_mask"].shape == (3, 5) and infos["action_mask"].dtype == np.int8


def test_copy_false_hands_out_the_buffers():
    copies, buffers = (DirectedYieldVectorEnv(2, copy=copy) for copy in (True, False))
    first, kept = buffers.reset(seed=3)[0], copies.reset(seed=3)[0]
    assert same(first, kept)
    for _ in range(20):
        left, right = copies.step([4, 4]), buffers.step([4, 4])
        assert all(same(np.array(a), np.array(b)) for a, b in zip(left[:4], right[:4], strict=True))
        assert np.shares_memory(right[0], first) and not np.shares_memory(left[0], kept)


def test_sampled_actions_are_allowed_and_all_alike():
    batch = DirectedYieldVectorEnv(2, woken(4), duration_ns=100 * US)
    batch.reset(seed=0)
    drawn = np.array([batch.sample_actions(np.random.default_rng(place)) for place in range(3_000)])
    counts = np.bincount(drawn.ravel(), minlength=7)
    assert counts[:2].tolist() == [0, 0] and counts.sum() == 6_000
    assert np.abs(counts[2:] - 1_200).max() < 5 * np.sqrt(6_000 * 0.2 * 0.8)


def test_pictures_of_all_rows():
    batch = DirectedYieldVectorEnv(2, woken(1), render_mode="ansi")
    batch.reset(seed=0)
    pictures = batch.render()
    assert len(pictures) == 2 and all(picture.startswith("woken at 0.030 ms") for picture in pictures)
    assert DirectedYieldVectorEnv(1).render() is None


# --- errors -----------------------------------------------------------------------------------------------------------

WRONG = [
    ({"num_envs": 0}, r"num_envs = 0: must be 1 to"),
    ({"num_envs": "3"}, r"num_envs = '3': must be"),
    ({"threads": 0}, r"threads = 0: must be 1 to"),
    ({"threads": 1.5}, r"threads = 1\.5: must be"),
    ({"autoreset_mode": "never"}, r"autoreset_mode = 'never': must be one of next_step, same_step, disabled"),
    ({"autoreset_mode": 3}, r"autoreset_mode = 3: must be one of"),
    ({"copy": "x"}, r"copy = 'x': must be True or False"),
    ({"max_episode_steps": 0}, r"max_episode_steps = 0: must be 1 to"),
    ({"max_episode_steps": "a"}, r"max_episode_steps = 'a': must be"),
]


@pytest.mark.parametrize("given, message", WRONG, ids=[str(given) for given, _ in WRONG])
def test_a_wrong_argument_is_one_clear_error(given, message):
    with pytest.raises(ValueError, match=message):
        DirectedYieldVectorEnv(**given)


RESETS = [
    ({"seed": -1}, r"seed = -1: must be 0 to"),
    ({"seed": "a"}, r"seed.* = 'a': must be"),
    ({"seed": [1, 2]}, r"seed = \[1, 2\]: must be a number or 3 of them"),
    (
        {"options": {"reset_mask": np.array([True])}},
        r'options\["reset_mask"\].*must be bool \[3\] with at least one True',
    ),
    ({"options": {"reset_mask": np.zeros(3, bool)}}, r'options\["reset_mask"\].*at least one True'),
    ({"options": {"reset_mask": np.ones(3)}}, r'options\["reset_mask"\].*must be bool \[3\]'),
]


@pytest.mark.parametrize("given, message", RESETS, ids=[str(given) for given, _ in RESETS])
def test_a_wrong_reset_is_one_clear_error(given, message):
    with pytest.raises(ValueError, match=message):
        DirectedYieldVectorEnv(3).reset(**given)


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("actions", [[1], [1, 2, 3, 4], [[1, 2, 3]], 4])
def test_actions_of_another_shape_are_an_error(actions, debug):
    batch = DirectedYieldVectorEnv(3, debug=debug)
    batch.reset(seed=0)
    with pytest.raises(ValueError, match=r"actions = .*: must be of shape \(3,\)"):
        batch.step(actions)


def test_debug_names_the_row_of_a_masked_action():
    batch = DirectedYieldVectorEnv(3, woken(2), debug=True)
    batch.reset(seed=0)
    with pytest.raises(ValueError, match=r"actions\[1\] = 0: must be one of \[2, 3, 4\]"):
        batch.step([2, 0, 4])
