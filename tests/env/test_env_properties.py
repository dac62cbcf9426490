"""Properties of the environment on random scenarios: batches are singles, copies go on alike, masks are exact, and an
agent that is a kernel's policy makes that policy's run."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from episodes import US, Singles, any_allowed, assert_batch_is_singles, episode, first_allowed, same, world
from hypothesis import event, given
from hypothesis import strategies as st
from strategies import many, policies, scenarios, seeds

from kvmgym import DirectedYieldEnv, DirectedYieldVectorEnv
from kvmgym.core import layout
from kvmgym.core.memory import view
from kvmgym.measure.simulate import advance
from kvmgym.policies import BY_NAME as POLICIES
from kvmgym.world.blueprint import Blueprint

SHORT = 1_500 * US


def exiting(scenario):
    """The scenario on a host where spins exit soon, and not only those in ring 0."""
    ple = replace(scenario.host.ple, enabled=True, window_ns=1 * US, max_ns=8 * US, user_exits=True)
    return replace(scenario, host=replace(scenario.host, ple=ple))


small = scenarios(most_pcpus=3, most_vms=3).map(exiting)


def widest(*scenarios):
    return max(vm.vcpus for scenario in scenarios for vm in scenario.vms)


def begun(env, seed):
    """The environment at its first decision, or None where no vCPU spins: many random guests never do."""
    try:
        env.reset(seed=seed)
    except ValueError as error:
        if "spins within duration_ns" not in str(error):
            raise
        event("no decision")
        return None
    event("decisions")
    return env


@many(20)
@given(st.lists(small, min_size=1, max_size=2), seeds, st.sampled_from(("next_step", "same_step", "disabled")),
       st.integers(1, 3), st.integers(1, 3), st.booleans())  # fmt: skip
def test_a_batch_is_its_singles(chosen, seed, mode, rows, threads, show_all):
    given = {"duration_ns": SHORT, "max_vcpus": widest(*chosen), "show_all": show_all}
    singles = Singles(rows, lambda row: DirectedYieldEnv(chosen[row % len(chosen)], **given), mode)
    if any(begun(env, seed) is None for env in singles.envs):
        return
    batch = DirectedYieldVectorEnv(rows, chosen, autoreset_mode=mode, threads=threads, **given)
    try:
        assert_batch_is_singles(batch, singles, seed, 60, any_allowed(seed))
    except ValueError as error:  # a later world of the row's stream has no decision
        if "spins within duration_ns" not in str(error):
            raise
    batch.close()


@many(15)
@given(st.lists(small, min_size=2, max_size=3), seeds, st.integers(0, 40))
def test_copies_go_on_alike(chosen, seed, before):
    """With a sampler that draws among the scenarios at each reset."""
    env = DirectedYieldEnv(
        lambda generator: chosen[generator.integers(len(chosen))], max_vcpus=widest(*chosen), duration_ns=SHORT
    )
    if begun(env, seed) is None:
        return

    def go_on(env, number, seed):
        pick, found = any_allowed(seed), []
        for _ in range(number):
            found.append(env.step(pick(env.action_masks())))
            if found[-1][3]:
                try:
                    found.append(env.reset())
                except ValueError:  # this scenario has no decision
                    return found
        return found

    go_on(env, before, 1)
    if env._ended:
        return
    saved, fork = env.snapshot(), env.fork()
    wanted = go_on(env, 60, 2)
    assert same(go_on(fork, 60, 2), wanted)
    fork.restore(saved)
    assert same(go_on(fork, 60, 2), wanted)
    env.restore(saved)
    assert same(go_on(env, 60, 2), wanted)


@many(15)
@given(small, seeds)
def test_a_pickle_goes_on_alike(scenario, seed):
    env = begun(DirectedYieldEnv(scenario, duration_ns=SHORT), seed)
    if env is not None:
        copied = pickle.loads(pickle.dumps(env))
        assert same(copied.snapshot()["generators"], env.snapshot()["generators"])
        pick, also = any_allowed(1), any_allowed(1)
        for _ in range(50):
            step = env.step(pick(env.action_masks()))
            assert same(copied.step(also(copied.action_masks())), step)
            if step[3]:
                break


def possible(env):
    """The targets of the open spin exit by the kernel's rules, worked out from the records: who waits for a pCPU, is
    not the spinner and has not failed in this exit, as long as -ESRCH came fewer than three times."""
    w = world(env)
    ask = w.ask[0]
    vm = w.vm[ask["vm"]]
    found = set()
    for i in range(int(vm["vcpus"])):
        vcpu = w.vcpu[int(vm["first"]) + i]
        asleep = vcpu["blocking"] and not vcpu["dy_runnable"] and not vcpu["pending_interrupt"]
        failed = vcpu["tried_serial"] == ask["serial"]
        if i != ask["me"] and vcpu["ready"] and not asleep and not failed and ask["tries"] >= 1:
            found.add(i)
    return found


def attempts(env):
    """Attempts, successes and -ESRCH of all VMs so far."""
    vms = world(env).vm
    return [int(vms[name].sum()) for name in ("yields_attempted", "yields_ok", "yields_esrch")]


@many(25)
@given(small, seeds, st.booleans())
def test_a_mask_is_what_the_kernel_could_try_and_all_of_it_is_accepted(scenario, seed, show_all):
    env = begun(DirectedYieldEnv(scenario, duration_ns=SHORT, show_all=show_all), seed)
    pick, steps = any_allowed(seed), 0
    while env is not None and not env._ended and steps < 25:
        steps += 1
        mask, none = env.action_masks(), env.action_space.n - 1
        assert set(np.flatnonzero(mask)) == possible(env) | {none}
        assert show_all or len(possible(env)) > 0
        saved, before = env.snapshot(), attempts(env)
        outcomes = {}
        for action in range(-2, none + 3):
            env.restore(saved)
            outcomes[action] = env.step(action)
            result, moved = outcomes[action][4]["result"], np.subtract(attempts(env), before).tolist()
            masked = action != none and action not in possible_targets(mask)
            assert outcomes[action][4].pop("masked_actions") == masked  # none before: the actions taken are allowed
            if action in possible_targets(mask):
                assert moved == [1, int(result == 1), int(result == -1)] and result in (1, 0, -1), (action, result)
            else:
                assert moved == [0, 0, 0] and result == -2
                assert same(outcomes[action], outcomes[-2])
        env.restore(saved)
        env.step(pick(mask))


def possible_targets(mask):
    return set(np.flatnonzero(mask[:-1]).tolist())


@many(15)
@given(small, seeds, st.integers(-3, 50))
def test_debug_refuses_exactly_what_is_masked(scenario, seed, action):
    env = begun(DirectedYieldEnv(scenario, duration_ns=SHORT, debug=True), seed)
    if env is None:
        return
    mask = env.action_masks()
    if 0 <= action < len(mask) and mask[action]:
        env.step(action)
    else:
        with pytest.raises(ValueError, match=rf"actions\[0\] = {action}: must be one of"):
            env.step(action)


@many(20)
@given(small, seeds)
def test_an_exit_asks_as_often_as_the_kernel_would(scenario, seed):
    """Attempts of one exit: at one time, by one spinner, never the same target twice, over after a success or the third
    -ESRCH; the passed-over exits of show_all are those without a target."""
    env = begun(DirectedYieldEnv(scenario, duration_ns=SHORT), seed)
    if env is None:
        return
    steps = episode(env, seed)
    picked = [first_allowed(info["action_mask"]) for *_, info in steps]
    refused = 0
    for k, (_, _, _, info) in enumerate(steps[:-1]):
        before = steps[k - 1][3] if k else None
        if info["attempt"] == 0:
            refused = 0
            continue
        assert before["attempt"] == info["attempt"] - 1 and info["result"] in (0, -1) and info["elapsed_ns"] == 0
        assert (before["vm"], before["me"], before["now_ns"]) == (info["vm"], info["me"], info["now_ns"])
        refused += info["result"] == -1
        assert refused < 3
        was, now = before["action_mask"].tolist(), info["action_mask"].tolist()
        assert was[picked[k - 1]] == 1 and now == [0 if i == picked[k - 1] else x for i, x in enumerate(was)]


@many(20)
@given(small, seeds)
def test_what_is_passed_over_is_exactly_what_has_no_target(scenario, seed):
    """In the same world, show_all has the same decisions and between them those with nobody to yield to."""
    plain, every = (DirectedYieldEnv(scenario, duration_ns=SHORT, show_all=show_all) for show_all in (False, True))
    try:
        steps = episode(plain, None, options={"world_seed": seed})
    except ValueError:
        return
    more = episode(every, None, options={"world_seed": seed})
    names = ("now_ns", "vm", "me", "attempt", "ops")
    shown = [tuple(info[name] for name in names) for *_, info in more[:-1] if info["action_mask"].sum() > 1]
    assert shown == [tuple(info[name] for name in names) for *_, info in steps[:-1]]
    assert world(plain).host[0]["spin_ns"] == world(every).host[0]["spin_ns"]


@many(20)
@given(small, seeds)
def test_an_episode_lasts_its_duration(scenario, seed):
    env = begun(DirectedYieldEnv(scenario, duration_ns=SHORT), seed)
    if env is None:
        return
    steps = episode(env, seed, any_allowed(seed))
    times = [info["now_ns"] for *_, info in steps]
    assert times == sorted(times) and times[-1] == SHORT == sum(info["elapsed_ns"] for *_, info in steps)
    assert world(env).host[0]["now_ns"] == SHORT
    assert [ended for _, _, ended, _ in steps] == [False] * (len(steps) - 1) + [True]


@many(25)
@given(small, policies, seeds)
def test_a_kernel_agent_makes_the_compiled_policys_run(scenario, name, seed):
    """What belongs to a policy is switched on in the scenario; every record agrees but what only policies are shown."""
    policy = POLICIES[name]
    ready = policy.prepare(scenario)
    env = DirectedYieldEnv(ready, duration_ns=SHORT, kernel_agent=True)
    try:
        env.reset(options={"world_seed": seed})
    except ValueError:
        return
    while not env._ended:
        env.step(env.ask(name))
    blueprint = Blueprint(ready)
    (row,) = blueprint.worlds([seed])
    policy.install(view(row, blueprint.static))
    advance(blueprint, row, SHORT, policy)
    here, there = world(env), view(row, blueprint.static)
    for part, kind in layout.STATE_PARTS:
        for column in kind.names or ("",):
            if part != "ask" and (part, column) not in {("host", "shows"), ("vcpu", "lag_ns")}:
                left, right = getattr(here, part), getattr(there, part)
                assert same(*(np.array(side[column] if column else side) for side in (left, right))), (part, column)
