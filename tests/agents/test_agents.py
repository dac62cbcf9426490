"""Agents: the kernel's policies through Gymnasium are bit for bit the compiled ones, heuristics on observations are the
compiled rules, evaluation is simulation, and trained agents stand beside policies."""

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import kvmgym_agents
import numpy as np
import pytest
from digests import booted, digest
from hypothesis import assume, given
from hypothesis import strategies as st
from kinds import BARE, COUNTED, install
from kvmgym_agents import KernelAgent
from kvmgym_agents.heuristics import HEURISTICS, Clairvoyant, LongestWaiting, NoYield, RandomAgent, RoundRobin
from strategies import many, policies, scenarios, seeds

from kvmgym import DirectedYieldEnv, DirectedYieldVectorEnv
from kvmgym.cli import main
from kvmgym.core.memory import POINTERS, view
from kvmgym.env.observation import PRIVILEGED, VCPU_FIELDS
from kvmgym.measure import agents
from kvmgym.measure.evaluate import evaluate
from kvmgym.measure.simulate import advance
from kvmgym.measure.store import Run, Store, run_all, summarise
from kvmgym.policies import BY_NAME as POLICY
from kvmgym.policies import POLICIES
from kvmgym.scenarios import BY_NAME as SCENARIO

MS = 1_000_000
SHORT_NS = 2 * MS


def compared(blueprint, row, show_all=False):
    """The digest of a world without what a policy was shown and noted for itself: which fields it is shown and its
    weights, and, where exits without a possible target are passed over, what it noted in the last one."""
    row = row.copy()
    world = view(row, blueprint.static)
    assert world.ask[0]["open"] == 0
    world.host["shows"] = 0
    world.ask["weights"] = 0
    if not show_all:
        world.vcpu["lag_ns"] = 0
        for name in ("start", "cursor", "scan_round", "mark", "waits_for"):
            world.ask[name] = 0
    return digest(blueprint, row)


def compiled(scenario, policy, seed, duration_ns):
    """Blueprint and row of the compiled policy's run."""
    blueprint, (row,) = booted(scenario, policy, seed)
    advance(blueprint, row, duration_ns, POLICY[policy])
    return blueprint, row


def play(agent, env, world_seeds):
    """An episode in each row of a vector environment; the rows as they end."""
    observation, info = env.reset(options={"world_seed": world_seeds})
    agent.bind(env)
    found = [None] * env.num_envs
    while any(row is None for row in found):
        observation, _, _, truncated, info = env.step(agent.act(observation, info))
        for place in np.flatnonzero(truncated):
            found[place] = env.worlds.states[place].copy()
        if truncated.any():
            again = {"reset_mask": truncated, "world_seed": world_seeds}
            observation, info = env.reset(options=again)
    return found


def batch_of(agent, scenario, rows, duration_ns=SHORT_NS, **options):
    return DirectedYieldVectorEnv(
        rows,
        agent.prepare(scenario),
        duration_ns=duration_ns,
        autoreset_mode="disabled",
        **{**agent.env_options, **options},
    )


def starts(env, world_seeds):
    """False when a world has no decision, so that there is no episode."""
    try:
        env.reset(options={"world_seed": world_seeds})
    except ValueError:
        return False
    return True


@many(60)
@given(scenarios(), policies, seeds, st.booleans(), st.booleans())
def test_a_kernel_agent_is_the_compiled_policy_bit_for_bit(scenario, policy, seed, show_all, alone):
    """In all VMs, or in the first one beside the compiled policy in the others."""
    agent, world_seeds = KernelAgent(policy), [seed, seed + 1, seed]
    controlled = {"controlled": (0,), "others": policy} if alone else {}
    env = batch_of(agent, scenario, 3, show_all=show_all, **controlled)
    assume(starts(env, world_seeds))
    for row, world_seed in zip(play(agent, env, world_seeds), world_seeds, strict=True):
        blueprint, expected = compiled(scenario, policy, world_seed, SHORT_NS)
        assert compared(blueprint, row, show_all) == compared(blueprint, expected, show_all)


@many(30)
@given(scenarios(), seeds)
def test_round_robin_on_observations_is_the_compiled_rule_bit_for_bit(scenario, seed):
    agent = RoundRobin()
    env = batch_of(agent, scenario, 2)
    assume(starts(env, [seed, seed + 7]))
    for row, world_seed in zip(play(agent, env, [seed, seed + 7]), (seed, seed + 7), strict=True):
        blueprint, expected = compiled(scenario, agent.name, world_seed, SHORT_NS)
        assert compared(blueprint, row) == compared(blueprint, expected)


def single(agent, scenario, world_seed, duration_ns=SHORT_NS):
    """The row that an agent leaves in the single environment, and the number of steps."""
    env = DirectedYieldEnv(agent.prepare(scenario), duration_ns=duration_ns, **agent.env_options)
    observation, info = env.reset(options={"world_seed": world_seed})
    agent.bind(env)
    steps, truncated = 0, False
    while not truncated:
        observation, _, _, truncated, info = env.step(agent.act_one(observation, info))
        steps += 1
    return env.worlds.states[0].copy(), steps


@pytest.mark.parametrize("policy", [policy.name for policy in POLICIES])
def test_a_kernel_agent_in_the_single_environment(policy):
    scenario = SCENARIO["dedup-small"]
    row, steps = single(KernelAgent(policy), scenario, 5, 8 * MS)
    blueprint, expected = compiled(scenario, policy, 5, 8 * MS)
    assert steps > 10
    assert compared(blueprint, row) == compared(blueprint, expected)


@pytest.mark.parametrize("make", [RoundRobin, LongestWaiting, Clairvoyant, NoYield])
@pytest.mark.parametrize("name", ["dedup-small", "dbench-small", "vips-2vm", "mixed-8p-4vm"])
def test_a_heuristic_on_observations_is_the_compiled_policy_of_its_name(make, name):
    agent, world_seeds = make(), [1, 2]
    rows = play(agent, batch_of(agent, SCENARIO[name], 2, 10 * MS), world_seeds)
    for row, world_seed in zip(rows, world_seeds, strict=True):
        blueprint, expected = compiled(SCENARIO[name], agent.name, world_seed, 10 * MS)
        assert view(row, blueprint.static).host[0]["decisions"] > 10
        assert compared(blueprint, row) == compared(blueprint, expected)


@pytest.mark.parametrize("make", HEURISTICS)
def test_a_heuristic_takes_allowed_actions_and_is_the_same_alone(make):
    """Debug mode refuses a masked action; the random agent's row does not depend on the rows beside it."""
    agent, world_seeds = make(), [3, 4, 5]
    rows = play(agent, batch_of(agent, SCENARIO["dedup-small"], 3, 25 * MS, debug=True), world_seeds)
    for row, world_seed in zip(rows, world_seeds, strict=True):
        alone, steps = single(agent, SCENARIO["dedup-small"], world_seed, 25 * MS)
        assert steps > 10
        assert np.array_equal(row[POINTERS:], alone[POINTERS:])


def random_choices(mask, seed, times):
    """How often each action is chosen at many times."""
    info = {
        "action_mask": np.tile(np.array(mask, np.int8), (times, 1)),
        "now_ns": np.arange(times) * 1000,
        **{key: np.zeros(times, np.int64) for key in ("vm", "me", "attempt")},
    }
    return np.bincount(RandomAgent(seed).act(None, info), minlength=len(mask))


def test_the_random_agent_takes_all_allowed_targets_alike():
    counts = random_choices([0, 1, 1, 0, 1, 1], 0, 30_000)
    assert counts[[0, 3, 5]].tolist() == [0, 0, 0]
    assert np.abs(counts[[1, 2, 4]] - 10_000).max() < 5 * np.sqrt(30_000 * 2 / 9)
    assert random_choices([0, 0, 0, 1], 0, 10).tolist() == [0, 0, 0, 10]
    assert random_choices([1, 1, 1], 1, 100).tolist() != random_choices([1, 1, 1], 2, 100).tolist()
    with pytest.raises(ValueError, match="seed = -1"):
        RandomAgent(-1)


def decision(mask, columns):
    """A batch of one: an observation with these columns, and its info."""
    names = [field.name for field in (*VCPU_FIELDS, *PRIVILEGED)]
    seen = {name: np.zeros((1, len(mask) - 1), np.float32) for name in names}
    for name, values in {"exists": 1, **columns}.items():
        seen[name][0] = values
    return seen, {"action_mask": np.array([mask], np.int8)}


@pytest.mark.parametrize(
    "agent, mask, columns, expected",
    [
        (NoYield(), [1, 1, 1, 1], {}, 3),
        (RoundRobin(), [1, 1, 1, 1], {"last_boosted": [0, 1, 0]}, 2),
        (RoundRobin(), [1, 1, 0, 1], {"last_boosted": [0, 1, 0]}, 0),
        (RoundRobin(), [0, 1, 0, 1], {"last_boosted": [0, 1, 0]}, 1),
        (RoundRobin(), [1, 1, 0, 0, 1], {"exists": [1, 1, 1, 0], "last_boosted": [0, 0, 1, 0]}, 0),
        (RoundRobin(), [0, 0, 0, 1], {}, 3),
        (LongestWaiting(), [1, 1, 1, 1], {"waiting": [0.2, 0.5, 0.5]}, 1),
        (LongestWaiting(), [1, 0, 1, 1], {"waiting": [0.2, 0.5, 0.3]}, 2),
        (Clairvoyant(), [1, 1, 1, 1], {"awaited": [0, 1, 0]}, 1),
        (Clairvoyant(), [1, 0, 1, 1], {"awaited": [0, 1, 0]}, 3),
        (Clairvoyant(), [1, 1, 1, 1], {}, 3),
    ],
)
def test_what_a_heuristic_chooses(agent, mask, columns, expected):
    observation, info = decision(mask, columns)
    chosen = agent.act(observation, info)
    assert chosen.tolist() == [expected] and chosen.dtype == np.int64
    alone = {key: value[0] for key, value in observation.items()}
    assert agent.act_one(alone, {"action_mask": info["action_mask"][0]}) == expected


def test_a_kernel_agent_wants_its_environment():
    agent = KernelAgent("legacy")
    with pytest.raises(RuntimeError, match="bind"):
        agent.act(None, {})
    agent.bind(DirectedYieldEnv())
    with pytest.raises(ValueError, match="kernel_agent"):
        agent.act(None, {})
    with pytest.raises(ValueError, match='unknown policy "legcy": did you mean "legacy"'):
        KernelAgent("legcy")


def test_a_kernel_agent_acts_through_wrappers():
    agent = KernelAgent("relaxed")
    options = {"scenario": "dedup-small", "duration_ns": 3 * MS, **agent.env_options}
    env = gym.make("kvmgym:kvmgym/DirectedYield-v0", **options)
    observation, info = env.reset(options={"world_seed": 2})
    agent.bind(env)
    truncated = False
    while not truncated:
        observation, _, _, truncated, info = env.step(agent.act_one(observation, info))
    blueprint, expected = compiled(SCENARIO["dedup-small"], "relaxed", 2, 3 * MS)
    assert compared(blueprint, env.unwrapped.worlds.states[0]) == compared(blueprint, expected)


# --- evaluation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy", ["none", "legacy", "relaxed", "series-v2", "series-v3", "linear", "clairvoyant-working"]
)
@pytest.mark.parametrize("times", [(6 * MS, 2 * MS), (5 * MS, 0)])
def test_evaluation_is_simulation_for_kernel_agents(policy, times):
    scenario = SCENARIO["dedup-small"]
    rows = evaluate(KernelAgent(policy), scenario, [4, 0, 9], *times)
    assert rows == [summarise(Run(scenario, POLICY[policy], seed, *times)) for seed in (4, 0, 9)]
    assert all(row["decisions"] > 0 and row["ops_per_s"] > 0 for row in rows)


def test_evaluation_of_a_heuristic_is_simulation_of_its_policy():
    times = 20 * MS, 5 * MS
    rows = evaluate(LongestWaiting(), SCENARIO["dbench-small"], [0, 1], *times)
    assert rows == [summarise(Run(SCENARIO["dbench-small"], POLICY["longest-waiting"], s, *times)) for s in (0, 1)]


def test_a_world_without_decisions_is_measured_too():
    times = 3 * MS, MS
    rows = evaluate(KernelAgent("legacy"), SCENARIO["compute-2vm"], [0, 1], *times)
    assert rows == [summarise(Run(SCENARIO["compute-2vm"], POLICY["legacy"], seed, *times)) for seed in (0, 1)]
    assert [row["decisions"] for row in rows] == [0, 0] and rows[0]["ops_per_s"] > 0


def test_evaluation_tells_how_far_it_is_and_names_impossible_times():
    told = []
    one = evaluate(NoYield(), SCENARIO["dedup-small"], [0, 1], 5 * MS, MS, tell=told.append)
    assert told == sorted(told) and told[-1] == 1.0 and len(told) >= 3
    assert evaluate(NoYield(), SCENARIO["dedup-small"], [0, 1], 5 * MS, MS, threads=2) == one
    with pytest.raises(ValueError, match="duration_ns = 0"):
        evaluate(NoYield(), SCENARIO["dedup-small"], [0], 0)
    with pytest.raises(ValueError, match="seeds"):
        evaluate(NoYield(), SCENARIO["dedup-small"], [])


# --- trained agents beside policies ---------------------------------------------------------------------------------

QUICK = ["--scenarios", "dedup-small", "--seeds", "2", "--duration", "0.006", "--warmup", "0.002"]


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A folder of a trained agent, runs/my-ppo, which acts as longest-waiting; the evaluations of it are counted."""
    modules = {"counted_agents": COUNTED, "bare_agents": BARE}
    install(tmp_path / "site", monkeypatch, modules, {"fake": "counted_agents", "bare": "bare_agents"})
    folder = tmp_path / "runs" / "my-ppo"
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text('{"kind": "fake"}')
    (folder / "weights.safetensors").write_bytes(b"1")
    yield folder, importlib.import_module("counted_agents").calls
    for name in modules:
        sys.modules.pop(name, None)


def test_compare_puts_a_trained_agent_beside_the_policies(fake, tmp_path, capsys):
    folder, calls = fake
    arguments = ["compare", *QUICK, "--policies", "longest-waiting", "--out", str(tmp_path / "out")]
    assert main.main([*arguments, "--agent", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "my-ppo" in text and "learned" in text
    data = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert data["policies"][-1] == {"policy": "my-ppo", "year": "-", "group": "learned", "source": "trained agent"}
    cells = {cell.pop("policy"): cell for cell in data["cells"]}
    assert cells["my-ppo"] == cells["longest-waiting"] != cells["legacy"]
    assert calls == [2]


def test_an_agents_finished_runs_are_kept_by_its_weights(fake, tmp_path):
    folder, calls = fake
    arguments = ["compare", *QUICK, "--policies", "none", "--out", str(tmp_path / "out"), "--agent", str(folder)]
    assert main.main(arguments) == main.main(arguments) == 0
    assert calls == [2]
    arguments[arguments.index("--seeds") + 1] = "3"
    assert main.main(arguments) == 0
    assert calls == [2, 1]
    (folder / "checkpoint.safetensors").write_text("changes nothing")
    assert main.main(arguments) == 0 and len(calls) == 2
    (folder / "weights.safetensors").write_bytes(b"2")
    assert main.main(arguments) == 0
    assert calls == [2, 1, 3]


def test_many_policies_have_their_agents_in_a_group_of_their_own(fake, tmp_path, capsys):
    folder, _ = fake
    other = folder.with_name("other")
    shutil.copytree(folder, other)
    chosen = ["--policies", "none,random,legacy,relaxed,strict", "--agent", str(folder), "--agent", f"{other}/"]
    assert main.main(["compare", *QUICK, *chosen, "--out", str(tmp_path / "out")]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    heading = lines.index(["learned"])
    assert [line[:2] for line in lines[heading + 1 : heading + 3]] == [["my-ppo", "-"], ["other", "-"]]
    assert (tmp_path / "out" / "gain.png").is_file()


def test_runs_of_agents_and_policies_come_back_in_their_order(fake, tmp_path):
    folder, _ = fake
    small, told = SCENARIO["dedup-small"], []
    found = [POLICY["none"], kvmgym_agents.learned(folder), POLICY["longest-waiting"]]
    runs = [Run(small, policy, seed, 4 * MS, MS) for seed in (0, 1) for policy in found]
    store = Store(tmp_path)
    store.open()
    rows = run_all(runs, store, 2, told.append)
    assert [row["policy"] for row in rows] == ["none", "my-ppo", "longest-waiting"] * 2
    assert {**rows[1], "key": 0, "policy": 0} == {**rows[2], "key": 0, "policy": 0}
    assert told == sorted(told) and told[-1] == 6


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "no trained agent there (no settings.json)"),
        ("{", "settings.json: damaged"),
        ("[" * 100_000, "settings.json: damaged"),
        ("[]", 'must be an object with a "kind"'),
        ('{"kind": 3}', 'must be an object with a "kind"'),
        ('{"kind": "os.system"}', 'unknown kind of agent "os.system": allowed: bare, fake'),
        ('{"kind": "bare"}', "needs no_such_torch, which is not installed: pip install 'kvmgym[train]'"),
    ],
    ids=["none", "torn", "deep", "list", "number", "unknown", "bare"],
)
def test_a_folder_that_holds_no_agent_is_one_clear_error(fake, tmp_path, capsys, content, message):
    folder, _ = fake
    (folder / "settings.json").unlink()
    if content is not None:
        (folder / "settings.json").write_text(content)
    assert main.main(["compare", *QUICK, "--agent", str(folder), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_settings_of_an_impossible_size_are_not_read(fake, capsys):
    folder, _ = fake
    with open(folder / "settings.json", "r+b") as file:
        file.truncate(10**12)  # a hole: nothing on the disk, more than memory
    assert main.main(["compare", *QUICK, "--agent", str(folder)]) == 2
    assert "settings.json: larger than 16777216 bytes" in capsys.readouterr().err


def test_an_agent_may_not_have_the_name_of_a_policy(fake, tmp_path, capsys):
    folder, _ = fake
    taken = folder.rename(folder.with_name("legacy"))
    assert main.main(["compare", *QUICK, "--agent", str(taken)]) == 2
    assert "--agent = 'legacy': must be a folder whose name no policy and no other agent has" in capsys.readouterr().err


def test_without_a_package_of_agents_the_option_says_so(fake, monkeypatch, capsys):
    monkeypatch.setattr(agents, "entry_points", lambda group: ())
    assert main.main(["compare", *QUICK, "--agent", str(fake[0])]) == 2
    assert 'unknown kind of agent "fake": there are none' in capsys.readouterr().err


def test_the_command_line_imports_no_agent_unless_asked():
    code = (
        "import sys, kvmgym.cli.main; sys.exit(any(n.split('.')[0] in ('kvmgym_agents', 'torch') for n in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
