"""What an environment refuses before it does anything: actions, options, snapshots; and what it does with seeds."""

import copy
from contextlib import suppress

import numpy as np
import pytest
from episodes import MS, same

from kvmgym import DirectedYieldEnv, DirectedYieldVectorEnv
from kvmgym.core import layout
from kvmgym.env import stepping
from kvmgym.scenarios import BY_NAME, SCENARIOS


@pytest.fixture
def batch():
    env = DirectedYieldVectorEnv(3, "dedup-small")
    env.reset(seed=7)
    env.step(np.full(3, 4))
    return env


# --- actions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("actions", [[1.0, 1.0, 1.0], [True, False, True], [None, 1, 2], ["a", "b", "c"]])
def test_actions_that_are_no_whole_numbers_are_refused(batch, actions):
    before = batch.snapshot()
    with pytest.raises(TypeError, match="whole numbers"):
        batch.step(actions)
    assert same(before["states"], batch.worlds.states)


def test_masked_and_impossible_actions_are_counted_since_the_reset():
    env = DirectedYieldVectorEnv(2, "dedup-small")
    _, infos = env.reset(seed=0)
    assert infos["masked_actions"].tolist() == [0, 0]
    mask = env.action_masks()[0]
    refused = int(np.flatnonzero(~mask)[0])
    *_, infos = env.step([refused, 4])
    assert infos["masked_actions"].tolist() == [1, 0]
    *_, infos = env.step([-1, 10**12])
    assert infos["masked_actions"].tolist() == [2, 1] and infos["_masked_actions"].all()
    _, infos = env.reset(options={"reset_mask": np.array([True, False])})
    assert infos["masked_actions"].tolist() == [0, 1]


def test_a_masked_action_is_no_yield_in_the_single_environment_too():
    env, other = DirectedYieldEnv("dedup-small"), DirectedYieldEnv("dedup-small")
    _, info = env.reset(seed=0)
    other.reset(seed=0)
    refused = int(np.flatnonzero(info["action_mask"] == 0)[0])
    found, wanted = env.step(refused), other.step(4)
    assert (found[4].pop("masked_actions"), wanted[4].pop("masked_actions")) == (1, 0)
    assert same(found, wanted)


# --- seeds and options ----------------------------------------------------------------------------------------------


def test_a_seed_makes_sample_actions_reproducible():
    def sampled(seed):
        env = DirectedYieldVectorEnv(4, "dedup-small")
        env.reset(seed=seed)
        return [env.sample_actions().tolist() for _ in range(8)]

    assert sampled(3) == sampled(3) != sampled(4)


def test_rows_outside_the_mask_are_not_reseeded():
    seeded, other = DirectedYieldVectorEnv(2, "dedup-small"), DirectedYieldVectorEnv(2, "dedup-small")
    seeded.reset(seed=1)
    other.reset(seed=1)
    seeded.reset(seed=50, options={"reset_mask": np.array([True, False])})
    states = [env.worlds.generators[1].bit_generator.state for env in (seeded, other)]
    assert states[0] == states[1]
    assert seeded.worlds.generators[0].bit_generator.state != other.worlds.generators[0].bit_generator.state


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"scenarios": "dedup-small"}, 'options: unknown key "scenarios": did you mean "scenario"?'),
        ({1: 2}, "options key = 1"),
        ("scenario", "options = 'scenario': must be None or a dict"),
        ({"world_seed": 1.5}, "world_seed = 1.5"),
        ({"world_seed": -1}, "world_seed = -1"),
        ({"scenario": 5}, "scenario = 5: must be a name"),
        ({"scenario": "dedup"}, 'unknown scenario "dedup"'),
    ],
)
@pytest.mark.parametrize("make", [lambda: DirectedYieldEnv("dedup-small"), lambda: DirectedYieldVectorEnv(2)])
def test_options_of_a_reset_are_checked(make, options, expected):
    with pytest.raises(ValueError) as caught:
        make().reset(options=options)
    assert str(caught.value).startswith(expected)


# --- snapshots ------------------------------------------------------------------------------------------------------


def changed(key, change):
    def make(saved):
        saved[key] = change(saved[key])

    return make


def in_rows(column, value):
    def make(saved):
        saved["rows"][1, column] = value

    return make


BAD = {
    "states shape": changed("states", lambda array: array[:, :64].copy()),
    "states rows": changed("states", lambda array: array[:2]),
    "states dtype": changed("states", lambda array: array.astype(np.int64)),
    "states bytes": changed("states", np.zeros_like),
    "masks dtype": changed("masks", lambda array: array.astype(np.int8)),
    "flat shape": changed("flat", lambda array: array[:, 1:]),
    "rewards": changed("rewards", lambda array: array.tolist()),
    "rows columns": changed("rows", lambda array: array[:, :8].copy()),
    "rows dtype": changed("rows", lambda array: array.astype(float)),
    "static": in_rows(stepping.STATIC, 10**6),
    "static below": in_rows(stepping.STATIC, -1),
    "at": in_rows(stepping.AT, 77),
    "vm": in_rows(stepping.VM, 9),
    "me": in_rows(stepping.ME, 1000),
    "statics": changed("statics", lambda rows: None),
    "scenario count": changed("scenarios", lambda found: found[:2]),
    "other scenario": changed("scenarios", lambda found: [BY_NAME["dedup-2vm"], *found[1:]]),
    "scenario kind": changed("scenarios", lambda found: [1, *found[1:]]),
    "generators": changed("generators", lambda states: states[:1]),
    "a generator": changed("generators", lambda states: [{}, *states[1:]]),
    "ended": changed("ended", lambda array: array[:1]),
    "steps": changed("steps", lambda array: array.astype(np.int8)),
    "sampling": changed("sampling", lambda state: "x"),
    "layout": changed("layout", lambda digest: "0" * 16),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bad_snapshot_is_refused_and_nothing_is_written(batch, bad):
    saved = batch.snapshot()
    batch.step(np.full(3, 4))
    before = batch.snapshot()
    broken = copy.deepcopy(saved)
    bad(broken)
    with pytest.raises(ValueError, match="snapshot"):
        batch.restore(broken)
    after = batch.snapshot()
    before["statics"], after["statics"] = before["statics"].bytes, after["statics"].bytes
    assert same(before, after)
    batch.restore(saved)
    assert same(batch.worlds.states, saved["states"])


@pytest.mark.parametrize("bad", [None, [], {}, {"rows": 1}])
def test_what_is_no_snapshot_is_refused(batch, bad):
    env = DirectedYieldEnv("dedup-small")
    env.reset(seed=0)
    for one in (batch, env):
        with pytest.raises(ValueError, match="snapshot"):
            one.restore(bad)


# --- episodes and frames --------------------------------------------------------------------------------------------


def test_frames_of_a_recording_keep_their_size():
    env = DirectedYieldVectorEnv(1, ["dedup-small"], render_mode="rgb_array", max_vcpus=16)
    env.reset(seed=0)
    sizes = {env.render()[0].shape}
    env.reset(options={"scenario": "dedup-2vm"})
    sizes.add(env.render()[0].shape)
    assert sizes == {(4 * 12, 12 * 12, 3)}


def test_scenarios_that_are_dealt_share_the_size_of_the_largest():
    env = DirectedYieldVectorEnv(2, ["dedup-small", "dedup-2vm"], render_mode="rgb_array")
    assert {picture.shape for picture in env.render()} == {(16 * 12, 12 * 12, 3)}
    env.reset(seed=0)
    assert {picture.shape for picture in env.render()} == {(16 * 12, 12 * 12, 3)}


def decisions_of(scenario, most):
    """How many decisions the default episode of seed 0 has, counted to `most`; 0 where there is no episode."""
    env = DirectedYieldEnv(scenario)
    with suppress(ValueError):
        env.reset(seed=0)
        for count in range(1, most):
            if env.step(env.action_space.n - 1)[3]:
                return count
        return most
    return 0


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_scenario_makes_episodes_or_says_that_it_does_not(scenario):
    assert (decisions_of(scenario, 20) == 20) is (scenario.episode_ns != 0)
    assert scenario.tag == "test" or scenario.episode_ns != 0


@pytest.mark.parametrize("name", ["compute-2vm", "pingpong-small"])
def test_guests_that_never_spin_make_no_episode(name):
    with pytest.raises(ValueError, match="spins within duration_ns"):
        DirectedYieldEnv(name, duration_ns=MS).reset(seed=0)


def test_an_environment_takes_its_time_from_the_scenario():
    env = DirectedYieldEnv("vips-12p-hog-30ms")
    env.reset(seed=0)
    assert env.worlds.rows[0, stepping.UNTIL_NS] == 100 * MS
    env = DirectedYieldEnv("vips-12p-hog-30ms", duration_ns=50 * MS)
    env.reset(seed=0)
    assert env.worlds.rows[0, stepping.UNTIL_NS] == 50 * MS
    assert env.worlds.rows[0, stepping.AT] == layout.AT_DECISION
