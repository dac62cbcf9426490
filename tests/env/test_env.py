"""The single environment: Gymnasium's contract, what a step is, who decides, and clear errors."""

import json
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from episodes import MS, US, any_allowed, episode, first_allowed, holder_preempted, same, woken, world
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

import kvmgym
from kvmgym import DirectedYieldEnv, DirectedYieldVectorEnv
from kvmgym.env.observation import VCPU_FIELDS, F, G
from kvmgym.env.reward import TERMS
from kvmgym.env.single import ID
from kvmgym.measure.simulate import advance
from kvmgym.policies import BY_NAME as POLICIES
from kvmgym.policies import custom
from kvmgym.scenarios import BY_NAME as SCENARIOS
from kvmgym.world.blueprint import Blueprint

TIGHT = {"duration_ns": 3 * MS}
SMALL = ("dedup-small", "dbench-small", "vips-small", "hotlock-small")


def small_sampler(generator):
    """One of the small scenarios."""
    return SCENARIOS[SMALL[generator.integers(len(SMALL))]]


OPTIONS = {
    "plain": {},
    "dict": {"observation": "dict"},
    "matrix": {"observation": "matrix"},
    "privileged": {"privileged": True},
    "privileged dict": {"privileged": True, "observation": "dict"},
    "privileged matrix": {"privileged": True, "observation": "matrix"},
    "show_all": {"show_all": True},
    "kernel_agent": {"kernel_agent": True},
    "reward": {"reward": {"progress": 1.0, "spin": 0.5, "overhead": 0.25, "fairness": 2.0}},
    "controlled": {"controlled": [0], "others": "relaxed"},
    "padded": {"max_vcpus": 9},
    "several": {"scenario": ["dbench-small", "dedup-2vm"], "observation": "matrix"},
    "hotlock": {"scenario": "hotlock-small"},
    "shootdowns": {"scenario": "shootdowns-small"},
    "sampler": {"scenario": small_sampler, "max_vcpus": 6},
    "ansi": {"render_mode": "ansi"},
    "rgb_array": {"render_mode": "rgb_array"},
    "debug": {"others": "longest-waiting"},
}


# --- Gymnasium's contract -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_checker_of_gymnasium_has_nothing_to_say(options):
    env = gym.make(ID, **{**TIGHT, **options})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped, skip_render_check=options.get("render_mode") is None)


@pytest.mark.parametrize("options", [OPTIONS["plain"], OPTIONS["several"], OPTIONS["controlled"], OPTIONS["reward"]])
def test_a_specification_survives_json(options):
    env = gym.make(ID, **TIGHT, **options)
    again = gym.make(EnvSpec.from_json(json.dumps(json.loads(env.spec.to_json()))))
    assert again.spec.kwargs == {**TIGHT, **options}
    assert same(episode(env, 5), episode(again, 5))


def test_the_module_prefix_works_in_a_fresh_process_and_pulls_nothing_heavy():
    code = """
import sys, gymnasium as gym
env = gym.make("kvmgym:kvmgym/DirectedYield-v0", duration_ns=3_000_000)
obs, info = env.reset(seed=5)
heavy = {"torch", "stable_baselines3", "sb3_contrib", "matplotlib", "pettingzoo", "ray", "minari"} & set(sys.modules)
print(sorted(heavy), obs.shape, info["now_ns"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    _, info = gym.make(ID, **TIGHT).reset(seed=5)
    assert done.stdout == f"[] ({G + 4 * F},) {info['now_ns']}\n"


def test_registering_twice_changes_nothing():
    before = dict(gym.registry)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kvmgym.register()
    assert gym.registry == before and ID in before


def test_observations_and_infos_are_nobody_elses():
    """A step gives new objects, which later steps leave alone."""
    env = DirectedYieldEnv(observation="dict", **TIGHT)
    env.reset(seed=0)
    first = env.step(4)
    kept = {key: value.copy() for key, value in first[0].items()}, first[4]["action_mask"].copy()
    second = env.step(4)
    assert second[0] is not first[0] and second[4] is not first[4]
    assert same(kept, (first[0], first[4]["action_mask"])) and not same(first[0], second[0])


def test_a_seed_decides_everything_and_other_seeds_differ():
    env = DirectedYieldEnv(**TIGHT)
    one = episode(env, 7, any_allowed(0))
    next_one = episode(env, None, any_allowed(0))
    assert same(episode(env, 7, any_allowed(0)), one) and same(episode(env, None, any_allowed(0)), next_one)
    assert not same(episode(env, 8, any_allowed(0)), one) and not same(next_one, one)


def test_a_step_needs_a_reset():
    env = DirectedYieldEnv(**TIGHT)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)
    assert episode(env, 0)[-1][2]
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)


# --- what a step is -------------------------------------------------------------------------------------------------


def told(steps):
    """(time in µs, me, attempt, result of the action before, mask as text) of each step."""
    return [
        (i["now_ns"] / US, i["me"], i["attempt"], i["result"], "".join(map(str, i["action_mask"])))
        for _, _, _, i in steps
    ]


def test_exits_without_a_possible_target_are_passed_over():
    """The exits at 2, 6 and 14 µs are; the one at 30 µs has one target, which fails and leaves none. The next would
    come at 62 µs, but the lock is free at 50."""
    steps = episode(DirectedYieldEnv(woken(1), duration_ns=100 * US), 0)
    assert told(steps) == [(30.0, 1, 0, -2, "0011"), (100.0, -1, 0, -1, "0001")]


def test_show_all_shows_them():
    """Also the attempt that follows a failure, at the same time."""
    steps = episode(DirectedYieldEnv(woken(1), duration_ns=100 * US, show_all=True), 0)
    none = "0001"
    assert told(steps) == [(2.0, 1, 0, -2, none), (6.0, 1, 0, -2, none), (14.0, 1, 0, -2, none),
                           (30.0, 1, 0, -2, "0011"), (30.0, 1, 1, -1, none), (100.0, -1, 0, -2, none)]  # fmt: skip


def test_an_attempt_that_fails_asks_again_at_the_same_time_three_times():
    """Four sleepers could be tried; three -ESRCH end the exit, as in the kernel. Each is masked once it has failed."""
    steps = episode(DirectedYieldEnv(woken(4), duration_ns=100 * US), 0, lambda mask: int(np.flatnonzero(mask)[-2]))
    assert told(steps) == [(30.0, 1, 0, -2, "0011111"), (30.0, 1, 1, -1, "0011101"), (30.0, 1, 2, -1, "0011001"),
                           (100.0, -1, 0, -1, "0000001")]  # fmt: skip
    assert [info["elapsed_ns"] for *_, info in steps] == [30 * US, 0, 0, 70 * US]


def test_no_yield_ends_the_exit():
    steps = episode(DirectedYieldEnv(woken(4), duration_ns=100 * US), 0, lambda mask: len(mask) - 1)
    assert told(steps) == [(30.0, 1, 0, -2, "0011111"), (100.0, -1, 0, -2, "0000001")]


@pytest.mark.parametrize("masked", [0, 1, 7, -3])
def test_a_masked_action_counts_as_no_yield(masked):
    env = DirectedYieldEnv(woken(4), duration_ns=100 * US)
    quiet = episode(env, 0, lambda mask: len(mask) - 1)
    found = episode(env, 0, lambda mask: masked)
    assert [step[3].pop("masked_actions") for step in found] == list(range(len(found)))
    assert [step[3].pop("masked_actions") for step in quiet] == [0] * len(quiet)
    assert same(found, quiet)
    assert int(world(env).vm[0]["yields_attempted"]) == 0


@pytest.mark.parametrize("masked", [0, 1, 7, -3])
def test_a_masked_action_is_an_error_in_debug_mode(masked):
    env = DirectedYieldEnv(woken(4), debug=True)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=rf"actions\[0\] = {masked}: must be one of \[2, 3, 4, 5, 6\]"):
        env.step(masked)
    assert env.step(2)[4]["result"] == -1


def test_a_yield_to_a_preempted_holder_succeeds_and_moves_the_counters():
    """At 4102 µs b0 (v = 2.1, of two tasks' V = 2.05) leaves pCPU 0 to a0, which holds the lock for 100 µs more."""
    env = DirectedYieldEnv(holder_preempted(), duration_ns=5 * MS)
    (_, _, _, info), (_, _, ended, after) = episode(env, 0)
    assert (info["now_ns"], info["vm"], info["me"], info["action_mask"].tolist()) == (4_102 * US, 1, 1, [1, 0, 1])
    assert ended and after["result"] == 1 and world(env).vm["yields_ok"].tolist() == [0, 1]
    assert int(world(env).vm[1]["last_boosted_vcpu"]) == 0


def test_an_episode_ends_at_its_duration():
    for duration in (3 * MS, 3 * MS + 1, 4_567_891):
        steps = episode(DirectedYieldEnv(duration_ns=duration), 3, any_allowed(1))
        assert sum(info["elapsed_ns"] for *_, info in steps) == duration == steps[-1][3]["now_ns"]
        assert [ended for _, _, ended, _ in steps].index(True) == len(steps) - 1 > 5
        assert not steps[-1][0].any()


def test_padding_is_zero_and_the_rest_as_without():
    plain = episode(DirectedYieldEnv("dedup-small", **TIGHT), 1)
    padded = episode(DirectedYieldEnv("dedup-small", max_vcpus=7, **TIGHT), 1)
    assert len(plain) == len(padded)
    for (small, *_, here), (large, *_, there) in zip(plain, padded, strict=True):
        assert same(small, large[: G + 4 * F]) and not large[G + 4 * F :].any()
        assert same(here["action_mask"][:4], there["action_mask"][:4])
        assert there["action_mask"][4:].tolist() == [0, 0, 0, 1]


def test_infos_have_the_same_keys_and_kinds_throughout():
    kinds = {str({key: type(value) for key, value in info.items()}) for *_, info in episode(DirectedYieldEnv(), 0)}
    assert len(kinds) == 1
    *_, info = episode(DirectedYieldEnv(), 0)[0]
    assert list(info["reward_terms"]) == [term.name for term in TERMS]


def test_a_scenario_for_one_episode():
    env = DirectedYieldEnv("dedup-small", max_vcpus=16, **TIGHT)
    other = episode(DirectedYieldEnv("vips-small", max_vcpus=16, **TIGHT), 2)
    assert same(episode(env, 2, options={"scenario": SCENARIOS["vips-small"]}), other)
    assert same(episode(env, 2, options={"scenario": "vips-small"}), other)
    assert not same(episode(env, 2), other)


# --- who decides ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["legacy", "relaxed", "strict", "linear", "clairvoyant", "random"])
def test_a_kernel_agent_makes_the_compiled_policys_run(name):
    policy = POLICIES[name]
    env = DirectedYieldEnv("dedup-small", kernel_agent=True, **TIGHT)
    episode(env, 4, lambda mask: env.ask(policy))
    blueprint = Blueprint(SCENARIOS["dedup-small"])
    seed = int(np.random.default_rng(np.random.SeedSequence(4)).integers(2**62))
    (row,) = blueprint.worlds([seed])
    compare_worlds(env, blueprint, row, policy, TIGHT["duration_ns"])


@pytest.mark.parametrize("others", ["legacy", "none", "relaxed", "linear", "least-lag", "clairvoyant"])
def test_vms_that_are_not_controlled_follow_the_named_policy(others):
    """With an agent that never yields the run is that of a policy which knows the two VMs apart."""
    env = DirectedYieldEnv("dedup-small", controlled=[1], others=others)
    steps = episode(env, 6, lambda mask: len(mask) - 1)
    assert {info["vm"] for *_, info in steps[:-1]} == {1}
    here, there = world(env).vm[0], world(env).vm[1]
    assert int(there["yields_attempted"] + there["relaxed_attempted"]) == 0
    assert (int(here["yields_attempted"] + here["relaxed_attempted"]) > 0) == (others not in ("none",))
    twin = DirectedYieldEnv("dedup-small", kernel_agent=True)
    episode(twin, 6, lambda mask: twin.ask(others) if world(twin).ask[0]["vm"] == 0 else 4)
    assert counters(env) == counters(twin)


def counters(env):
    """Counters of the host and of both VMs, which any other course would change."""
    names = (
        "ops",
        "ple_exits",
        "yields_ok",
        "yields_attempted",
        "relaxed_ok",
        "run_ns",
        "preemptions",
        "lock_acquires",
    )
    vms = [[int(vm[name]) for name in names] for vm in world(env).vm]
    return vms, [int(world(env).host[0][name]) for name in ("events", "decisions", "spin_ns", "overhead_ns", "now_ns")]


def compare_worlds(env, blueprint, row, policy, until_ns):
    """The world behind the environment and a compiled run of the row under the policy have the same counters."""
    from kvmgym.core.memory import view

    policy.install(view(row, blueprint.static))
    advance(blueprint, row, until_ns, policy)
    compiled = view(row, blueprint.static)
    for part in ("host", "vm", "vcpu", "se", "rq", "pcpu"):
        array = getattr(compiled, part)
        for name in array.dtype.names:
            if (part, name) not in {("host", "shows"), ("vcpu", "lag_ns")}:
                assert getattr(world(env), part)[name].tolist() == array[name].tolist(), (part, name)


def test_a_picture_of_a_decision():
    """1 ms apart from the rest of the line nothing here can vary: a1 spins, a0 holds the lock and waits."""
    env = DirectedYieldEnv(holder_preempted(), duration_ns=5 * MS, render_mode="ansi")
    env.reset(seed=0)
    assert env.render().split("\n") == [
        "preempted at 4.102 ms",
        "p0   b.0        | a.0!",
        "p1   a.1*       | ",
        "a: vCPU 1 spins; it may yield to 0",
    ]
    assert DirectedYieldEnv(holder_preempted()).render() is None


# --- errors ---------------------------------------------------------------------------------------------------------

WRONG = [
    ({"scenario": "dedup-smal"}, r'unknown scenario "dedup-smal": did you mean "dedup-small"\?'),
    ({"scenario": 5}, r"scenario = 5: must be a name .*, a \.toml file, a Scenario"),
    ({"scenario": []}, r"scenario = \[\]: must be at least one scenario"),
    ({"scenario": ["dedup-small", 3]}, r"scenario = 3: must be a name"),
    ({"scenario": small_sampler}, r"max_vcpus = None: must be the most vCPUs that a VM of the sampler's scenarios has"),
    ({"duration_ns": 0}, r"duration_ns = 0: must be 1 to"),
    ({"duration_ns": 1e9}, r"duration_ns = 1000000000\.0: must be"),
    ({"observation": "flt"}, r"observation = 'flt': must be one of flat, dict, matrix"),
    ({"reward": {"spn": 1}}, r'unknown reward term "spn": did you mean "spin"\? allowed: progress, spin'),
    ({"reward": {"spin": "much"}}, r"reward\[spin\] = 'much': must be -1e\+09 to 1e\+09"),
    ({"reward": {"spin": float("nan")}}, r"reward\[spin\] = nan: must be"),
    ({"reward": 5}, r"reward = 5: must be None or a table of weights by term"),
    ({"max_vcpus": 2}, r"max_vcpus = 2: must be at least 4"),
    ({"max_vcpus": 4.5}, r"max_vcpus = 4\.5: must be"),
    ({"max_vcpus": "x"}, r"max_vcpus = 'x': must be"),
    ({"max_vcpus": 10**9}, r"max_vcpus = 1000000000: must be"),
    ({"controlled": [7]}, r"controlled.* = 7: must be .*0 to 1"),
    ({"controlled": []}, r"controlled = .*: must be"),
    ({"controlled": 5}, r"controlled = 5: must be"),
    ({"controlled": ["a"]}, r"controlled.* = 'a': must be"),
    ({"others": "legcy"}, r'unknown policy "legcy": did you mean "legacy"\?'),
    ({"others": 5}, r"(policy|others) = 5: must be"),
    ({"privileged": "yes"}, r"privileged = 'yes': must be True or False"),
    ({"show_all": 3}, r"show_all = 3: must be True or False"),
    ({"kernel_agent": None}, r"kernel_agent = None: must be True or False"),
    ({"debug": "x"}, r"debug = 'x': must be True or False"),
    ({"render_mode": "human"}, r"render_mode = 'human': must be None, 'ansi' or 'rgb_array'"),
]


@pytest.mark.parametrize("given, message", WRONG, ids=[str(given).split(" at 0x")[0] for given, _ in WRONG])
@pytest.mark.parametrize("kind", [DirectedYieldEnv, DirectedYieldVectorEnv])
def test_a_wrong_argument_is_one_clear_error(kind, given, message):
    with pytest.raises(ValueError, match=message):
        kind(**given)


def test_a_misspelt_argument_is_a_type_error():
    with pytest.raises(TypeError, match="durations_ns"):
        DirectedYieldEnv(durations_ns=5)


RESETS = [
    ({"scenario": lambda generator: 3, "max_vcpus": 4}, {}, r"scenario sampler = 3: must be a Scenario"),
    ({"scenario": lambda generator: SCENARIOS["dedup-2vm"], "max_vcpus": 4}, {}, r"max_vcpus = 4: must be 16 or more"),
    ({"duration_ns": 1}, {}, r"scenario = 'dedup-small': must be one in which a vCPU of a controlled VM spins"),
    ({}, {"scenario": 3}, r"scenario.* = 3: must be"),
]


@pytest.mark.parametrize("given, options, message", RESETS)
def test_what_only_a_reset_can_find_wrong(given, options, message):
    env = DirectedYieldEnv(**given)
    with pytest.raises(ValueError, match=message):
        env.reset(seed=0, options=options)


def test_only_an_environment_for_kernel_agents_can_be_asked():
    env = DirectedYieldEnv()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="kernel_agent = False: must be True"):
        env.ask(POLICIES["legacy"])


def test_a_policy_of_ones_own_for_the_other_vms():
    def nobody(vm, vcpus, me, ask):
        return -1

    here = DirectedYieldEnv(controlled=[1], others=custom(nobody), **TIGHT)
    there = DirectedYieldEnv(controlled=[1], others="none", **TIGHT)
    assert same(episode(here, 1, first_allowed), episode(there, 1, first_allowed)) and len(VCPU_FIELDS) == F
