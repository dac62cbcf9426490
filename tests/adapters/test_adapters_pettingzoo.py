"""The adapter to PettingZoo: both forms play the single environment."""

import warnings
from typing import Any

import numpy as np
import pytest
from episodes import lowest
from gymnasium.utils.env_checker import data_equivalence

import kvmgym
from kvmgym.env.observation import VCPU_FIELDS
from kvmgym.scenarios import BY_NAME

DURATION_NS = 3_000_000


@pytest.fixture
def zoo() -> Any:
    pytest.importorskip("pettingzoo")
    from kvmgym.adapters import pettingzoo

    return pettingzoo


ZOO: tuple[dict[str, Any], ...] = (
    {},
    {"rewards": "own"},
    {"privileged": True},
    {"show_all": True},
    {"max_vcpus": 7},
    {"controlled": [1]},
    {"render_mode": "rgb_array"},
    {"scenario": "mixed-8p-4vm"},
    {"scenario": "dbench-12p-hog-3ms", "rewards": "own"},
)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("options", ZOO, ids=str)
def test_pettingzoos_own_tests_pass_without_warnings(zoo: Any, options: dict[str, Any]) -> None:
    from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, seed_test

    options = {"duration_ns": DURATION_NS, **options}
    api_test(zoo.env(**options), 200)
    api_test(zoo.raw_env(**options), 200)
    parallel_api_test(zoo.parallel_env(**options), 200)
    seed_test(lambda: zoo.env(**options), 100)
    parallel_seed_test(lambda: zoo.parallel_env(**options), 100)


def test_pettingzoos_api_test_of_the_dict_form_has_its_two_notes_only(zoo: Any) -> None:
    from pettingzoo.test import api_test, parallel_api_test, seed_test

    def make() -> Any:
        return zoo.env(duration_ns=DURATION_NS, dict_observation=True)

    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        api_test(make(), 200)
    # Both are given for every Dict observation outside a list of PettingZoo's own environments.
    expected = ("Observation is not a NumPy array", "Observation space for each agent probably should be")
    assert {str(note.message)[:32] for note in noted} == {text[:32] for text in expected}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(zoo.parallel_env(duration_ns=DURATION_NS, dict_observation=True, debug=True), 200)
        seed_test(make, 100)


@pytest.mark.parametrize("form", ["flat", "dict"])
def test_both_forms_play_the_single_environment(zoo: Any, form: str) -> None:
    options = {"duration_ns": 20_000_000, "observation": form}
    single = kvmgym.DirectedYieldEnv(**options)
    aec, parallel = zoo.env(**options, dict_observation=True), zoo.parallel_env(**options, dict_observation=True)
    seen, info = single.reset(seed=4)
    aec.reset(seed=4)
    all_seen, _ = parallel.reset(seed=4)
    total, actors, ended = 0.0, set(), False
    while not ended:
        actor = f"vm_{info['vm']}"
        actors.add(actor)
        assert aec.agent_selection == actor
        for agent in parallel.agents:
            mask = all_seen[agent]["action_mask"]
            expected = info["action_mask"] if agent == actor else np.eye(5, dtype=np.int8)[4]
            np.testing.assert_array_equal(mask, expected)
            assert data_equivalence(aec.observe(agent), all_seen[agent])
        assert data_equivalence(all_seen[actor]["observation"], seen)
        action = int(lowest(info["action_mask"]))
        aec.step(action)
        others = dict.fromkeys(parallel.agents, 0)
        all_seen, rewards, terminated, truncated, infos = parallel.step({**others, actor: action})
        seen, reward, _, ended, info = single.step(action)
        total += reward
        assert rewards == {"vm_0": reward, "vm_1": reward} == aec.rewards
        assert terminated == {"vm_0": False, "vm_1": False} and truncated == {"vm_0": ended, "vm_1": ended}
        assert [infos[agent]["acts"] for agent in ("vm_0", "vm_1")] == [info["vm"] == 0, info["vm"] == 1]
        assert infos["vm_0"]["elapsed_ns"] == info["elapsed_ns"]
    assert actors == {"vm_0", "vm_1"} and parallel.agents == []
    received = dict.fromkeys(aec.agents, 0.0)
    for agent in aec.agent_iter():
        _, reward, _, truncated, _ = aec.last()
        assert truncated
        received[agent] = reward
        aec.step(None)
    assert received["vm_0"] < 0 and received["vm_1"] < 0 and aec.agents == []
    # The agent that acts last has been paid at its turns: what is left is no more than all there was.
    assert total <= min(received.values())


def test_rewards_of_ones_own_sum_to_the_shared_reward(zoo: Any) -> None:
    def play(rewards: str, **options: Any) -> list[dict[str, float]]:
        env = zoo.parallel_env(duration_ns=DURATION_NS, rewards=rewards, **options)
        _, infos = env.reset(seed=6)
        steps = []
        while env.agents:
            actions = {agent: int(lowest(infos[agent]["action_mask"])) for agent in env.agents}
            _, gains, _, _, infos = env.step(actions)
            steps.append(gains)
        return steps

    shared, own = play("shared"), play("own")
    assert len(shared) == len(own) > 3
    for one, other in zip(shared, own, strict=True):
        assert sum(other.values()) == pytest.approx(one["vm_0"], abs=1e-9)
    assert any(gains["vm_0"] != gains["vm_1"] for gains in own)
    # With host tasks or a VM without an agent some of the loss is nobody's.
    partly = play("own", controlled=[1])
    assert set(partly[0]) == {"vm_1"} and sum(gains["vm_1"] for gains in partly) < 0


def test_before_its_first_decision_an_agent_sees_how_many_vcpus_it_has(zoo: Any) -> None:
    env = zoo.parallel_env("dedup-noisy-7vm", duration_ns=DURATION_NS, observation="dict")
    seen, infos = env.reset(seed=1)
    vcpus = [vm.vcpus for vm in BY_NAME["dedup-noisy-7vm"].vms]
    assert len(vcpus) == 7 and list(seen) == [f"vm_{g}" for g in range(7)]
    for g, agent in enumerate(seen):
        exists = seen[agent]["exists"]
        assert exists.sum() == vcpus[g] and exists[: vcpus[g]].all()
        assert env.observation_space(agent).contains(seen[agent])
        if not infos[agent]["acts"]:
            assert sum(seen[agent][field.name].sum() for field in VCPU_FIELDS) == vcpus[g]
            assert seen[agent]["globals"].sum() == pytest.approx(vcpus[g] / 128)
            seen[agent]["globals"][:] = 5
            assert env.hosts.observe(agent)["globals"].max() < 1  # what it was given is its own


def test_what_pettingzoo_cannot_have_is_refused(zoo: Any) -> None:
    with pytest.raises(ValueError, match="rewards"):
        zoo.raw_env(rewards="mine")
    with pytest.raises(ValueError, match="fixed scenario"):
        zoo.raw_env(lambda generator: BY_NAME["dedup-small"], max_vcpus=4)
    env = zoo.parallel_env(duration_ns=DURATION_NS, max_vcpus=16)
    with pytest.raises(ValueError, match="number of VMs = 7: must be 2"):
        env.reset(options={"scenario": BY_NAME["dedup-noisy-7vm"]})
    env.reset(seed=0)
    with pytest.raises(ValueError, match="which acts"):
        env.step({})
