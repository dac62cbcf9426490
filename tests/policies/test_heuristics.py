"""The heuristics that nobody ships yet and the bounds: hand-made states, and naive references over random states."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numba
import pytest

from kvmgym.measure.replay import Flags, replay
from kvmgym.params import Host, Scenario, Vm
from kvmgym.policies import BY_NAME, POLICIES, heuristics, linear
from kvmgym.policies.heuristics import DEFAULT_WEIGHTS, FEATURES, NAMES, load_weights, save_weights
from kvmgym.workloads import BY_NAME as WORKLOADS

MS = 1_000_000
NOW = 100 * MS
WINDOW = 50 * MS
STATES = 1_000 if numba.config.DISABLE_JIT else 2_000  # of each policy
FREE, ESRCH, OK = 0, -1, 1

RUNNING = Flags()
WOKEN = Flags(ready=True)
USER = Flags(ready=True, preempted=True)
KERNEL = Flags(ready=True, preempted=True, preempted_in_kernel=True)
HINT = Flags(ready=True, pending_interrupt=True)
SENDER = Flags(ipi_pending=True, ipi_time_ns=NOW)

HEURISTICS = ("round-robin", "longest-waiting", "receiver-first", "least-lag", "linear")
BOUNDS = ("clairvoyant", "clairvoyant-waiting", "clairvoyant-working")


def ask(policy, flags, **given):
    """A replay at NOW whose candidates all answer `results` (default: all 0); me is vCPU 0."""
    results = given.pop("results", FREE)
    results = [results] * len(flags) if isinstance(results, int) else results
    return replay(policy, flags, **{"me": 0, "results": results, "now_ns": NOW, "ipi_window_ns": WINDOW, **given})


# --- what all of them keep to ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", HEURISTICS)
def test_everybody_who_waits_is_asked_once(policy):
    """Each failed target is masked, so an exit ends; running, blocking and the spinner itself are never asked."""
    me = replace(KERNEL, pending_interrupt=True, lag_ns=MS)
    asleep = replace(WOKEN, blocking=True)
    flags = [me, KERNEL, USER, WOKEN, HINT, RUNNING, asleep, replace(asleep, dy_runnable=True)]
    flags.append(replace(asleep, pending_interrupt=True))
    got = ask(policy, flags)
    assert sorted(got.attempts) == ([1, 2, 3, 4, 7, 8])
    assert (got.target, set(got.rounds)) == (None, {1})


@pytest.mark.parametrize("policy", HEURISTICS)
def test_three_esrch_end_the_exit_and_a_result_of_0_does_not(policy):
    flags = [RUNNING] + [KERNEL] * 6
    assert len(ask(policy, flags, results=ESRCH).attempts) == 3
    assert len(ask(policy, flags, results=FREE).attempts) == 6


@pytest.mark.parametrize("policy", HEURISTICS)
def test_a_success_ends_the_exit_and_moves_the_turn(policy):
    got = ask(policy, [RUNNING, RUNNING, KERNEL], results=OK)
    assert (got.attempts, got.target, got.last_boosted_vcpu) == ((2,), 2, 2)


@pytest.mark.parametrize("policy", [*HEURISTICS, *BOUNDS])
def test_no_eligibility_check_so_no_side_effect(policy):
    spinner = replace(KERNEL, in_spin_loop=True, lag_ns=MS)
    for dy_eligible in (False, True):
        candidate = replace(spinner, dy_eligible=dy_eligible)
        got = ask(policy, [RUNNING, candidate], waits_for=1)
        assert (got.attempts, got.flags[1]) == ((1,), candidate)


# --- one by one -----------------------------------------------------------------------------------------------------


def test_round_robin_goes_by_turn_alone():
    flags = [RUNNING, USER, HINT, KERNEL, WOKEN]
    assert ask("round-robin", flags).attempts == (1, 2, 3, 4)
    assert ask("round-robin", flags, last_boosted_vcpu=2).attempts == (3, 4, 1, 2)


def test_longest_waiting_goes_by_the_time_ready():
    flags = [RUNNING, *(replace(USER, ready_since_ns=since) for since in (30, 10, 20, 10))]
    assert ask("longest-waiting", flags).attempts == (2, 4, 3, 1)  # a tie goes to the lowest index
    assert ask("longest-waiting", flags, last_boosted_vcpu=2).attempts == (2, 4, 3, 1)


def test_least_lag_goes_by_eligibility():
    flags = [RUNNING, *(replace(USER, lag_ns=lag) for lag in (-MS, 0, MS, MS, -2 * MS))]
    assert ask("least-lag", flags).attempts == (3, 4, 2, 1, 5)


def test_receiver_first_goes_by_tier():
    sender = replace(SENDER, ipi_receiver=5)
    flags = [sender, USER, WOKEN, KERNEL, HINT, USER]
    assert ask("receiver-first", flags).attempts == (5, 4, 3, 2, 1)
    assert ask("receiver-first", flags, yield_to_kernel_mode=False).attempts == (5, 4, 3, 2, 1)
    # an IPI that is too old, or tracking that is off: vCPU 5 is a vCPU as any other
    assert ask("receiver-first", flags, now_ns=NOW + WINDOW + 1).attempts == (4, 3, 2, 1, 5)
    assert ask("receiver-first", flags, ipi_tracking=False).attempts == (4, 3, 2, 1, 5)


def test_receiver_first_goes_by_turn_within_a_tier():
    flags = [RUNNING, KERNEL, WOKEN, KERNEL, WOKEN]
    assert ask("receiver-first", flags).attempts == (1, 3, 2, 4)
    assert ask("receiver-first", flags, last_boosted_vcpu=2).attempts == (3, 1, 4, 2)


def test_clairvoyant_asks_for_nobody_else():
    flags = [RUNNING, KERNEL, USER, RUNNING]
    assert ask("clairvoyant", flags, waits_for=2).attempts == (2,)  # once, although it failed
    assert ask("clairvoyant", flags, waits_for=2, results=OK).target == 2
    for waits_for in (3, 0, None):  # it runs; the spinner itself; nobody knows
        assert ask("clairvoyant", flags, waits_for=waits_for).attempts == ()


def test_the_bounds_go_on_with_the_longest_waiting_and_with_that_which_does_not_spin():
    since = [replace(flag, ready_since_ns=ns) for flag, ns in ((USER, 30), (KERNEL, 10), (USER, 20))]
    spinner = replace(KERNEL, in_spin_loop=True, ready_since_ns=5)
    flags = [RUNNING, *since, spinner, RUNNING]
    assert ask("clairvoyant-waiting", flags, waits_for=1, now_ns=10**6).attempts == (1, 4, 2, 3)
    assert ask("clairvoyant-waiting", flags, waits_for=5, now_ns=10**6).attempts == (4, 2, 3, 1)
    assert ask("clairvoyant-working", flags, waits_for=1, now_ns=10**6).attempts == (1, 2, 3)
    assert ask("clairvoyant-working", flags, waits_for=5, now_ns=10**6).attempts == (2, 3, 1)
    for name in ("clairvoyant-waiting", "clairvoyant-working"):
        assert ask(name, flags, waits_for=4, results=OK, now_ns=10**6).target == 4  # awaited, although it spins


# --- the linear score -----------------------------------------------------------------------------------------------

# one state in which each feature is larger for vCPU 2 than for vCPU 1 by the given amount
LARGER = {
    "preempted": (WOKEN, USER, 1),
    "in_kernel": (USER, KERNEL, 1),
    "pending_interrupt": (WOKEN, HINT, 1),
    "awaits_ack": (WOKEN, replace(WOKEN, ipi_pending=True, ipi_receiver=0, ipi_time_ns=NOW - WINDOW), 1),
    "in_spin_loop": (USER, replace(USER, in_spin_loop=True), 1),
    "eligible": (replace(USER, lag_ns=-1), USER, 1),
    "same_pcpu": (replace(USER, pcpu=1), USER, 1),
    "lag_ms": (replace(USER, lag_ns=-MS), replace(USER, lag_ns=2 * MS), 3),
    "ready_ms": (replace(USER, ready_since_ns=NOW), replace(USER, ready_since_ns=NOW - 5 * MS), 5),
    "away_ms": (replace(USER, last_ran_ns=NOW), replace(USER, last_ran_ns=NOW - 5 * MS), 5),
    "boosted_ms": (replace(USER, boosted_ns=NOW), USER, 20),
    "turn": (USER, USER, 1 / 3),
}


@pytest.mark.parametrize("name", [name for name, _ in FEATURES])
def test_each_feature_is_what_it_is_called(name):
    """Its weight alone decides: 1 takes vCPU 2, -1 vCPU 1; and the threshold shows how large it is."""
    if name == "receiver":
        flags, amount = [replace(SENDER, ipi_receiver=2), WOKEN, WOKEN], 1
    else:
        *flags, amount = RUNNING, *LARGER[name]
    assert ask(linear({name: 1, "threshold": -99}), flags, results=OK).target == 2
    assert ask(linear({name: -1, "threshold": -99}), flags, results=OK).target == 1
    others = {other: 0.0 for other, _ in FEATURES if other != name}
    assert ask(linear({**others, "threshold": -99}), flags, results=OK).target == 1  # a tie: the lowest index
    low = {"lag_ms": -1, "turn": 0}.get(name, 0)  # what vCPU 1 has
    assert ask(linear({name: 1, "threshold": low + amount - 0.001}), flags).attempts == (2,)
    assert ask(linear({name: 1, "threshold": low + amount + 0.001}), flags).attempts == ()


@pytest.mark.parametrize(
    "name, candidate, value",
    [
        ("in_kernel", replace(WOKEN, preempted_in_kernel=True), 0),  # latched at an earlier preemption
        ("awaits_ack", replace(WOKEN, ipi_pending=True, ipi_time_ns=NOW - WINDOW - 1), 0),
        ("lag_ms", replace(WOKEN, lag_ns=-50 * MS), -20),
        ("lag_ms", replace(WOKEN, lag_ns=50 * MS), 20),
        ("ready_ms", replace(WOKEN, ready_since_ns=0), 20),
        ("away_ms", replace(WOKEN, last_ran_ns=0), 20),
        ("boosted_ms", WOKEN, 20),  # never
        ("boosted_ms", replace(WOKEN, boosted_ns=NOW - MS), 1),
    ],
)
def test_features_have_bounds(name, candidate, value):
    assert ask(linear({name: 1, "threshold": value - 0.001}), [RUNNING, candidate]).attempts == (1,)
    assert ask(linear({name: 1, "threshold": value + 0.001}), [RUNNING, candidate]).attempts == ()


def test_a_score_at_the_threshold_is_enough():
    assert ask(linear({"preempted": 2, "threshold": 2}), [RUNNING, WOKEN, USER]).attempts == (2,)
    assert ask(linear({}), [RUNNING, WOKEN, USER]).attempts == (1, 2)  # all 0


def test_the_default_weights_prefer_as_the_tiers_do():
    policy = BY_NAME["linear"]
    sender = replace(SENDER, ipi_receiver=4)
    fresh = {"ready_since_ns": NOW, "lag_ns": 0}
    flags = [sender, *(replace(flag, **fresh) for flag in (USER, KERNEL, HINT, WOKEN))]
    assert ask(policy, flags).attempts == (4, 3, 2, 1)
    spinner = replace(KERNEL, in_spin_loop=True)
    assert ask(policy, [RUNNING, spinner, USER]).attempts == (2, 1)
    assert ask(policy, [RUNNING, replace(USER, lag_ns=-1), USER]).attempts == (2, 1)


def test_weights_are_checked_by_name_and_value():
    with pytest.raises(ValueError, match='weights: unknown feature "reciever": did you mean "receiver"'):
        linear({"reciever": 1.0})
    for bad in (float("nan"), float("inf"), "1", None, True):
        with pytest.raises(ValueError, match=r"weights\['turn'\] = "):
            linear({"turn": bad})
    assert linear({"turn": 2}, name="mine").weights == (0.0,) * 12 + (2.0, 0.0)
    assert linear({"turn": 2}, name="mine").name == "mine"


def test_weights_survive_a_file(tmp_path):
    path = tmp_path / "weights.json"
    save_weights(path, DEFAULT_WEIGHTS)
    assert list(json.loads(path.read_text())) == list(NAMES)
    assert linear(load_weights(path)).weights == BY_NAME["linear"].weights
    path.write_text('{"receiver": 1, "typo": 2}')
    with pytest.raises(ValueError, match='unknown feature "typo"'):
        load_weights(path)
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match="an object of names and numbers"):
        load_weights(path)


# --- naive references over random states ----------------------------------------------------------------------------


def waiting(state, failed):
    """Indices that may be asked."""
    flags, me = state["flags"], state["me"]
    return [
        i
        for i, flag in enumerate(flags)
        if i != me
        and i not in failed
        and flag.ready
        and (not flag.blocking or flag.dy_runnable or flag.pending_interrupt)
    ]


def turn(state, i):
    n = len(state["flags"])
    order = [(state["last_boosted_vcpu"] + 1 + step) % n for step in range(n)]
    return order.index(i)


def recent(state, sender):
    flag = state["flags"][sender]
    return state["ipi_tracking"] and flag.ipi_pending and state["now_ns"] - flag.ipi_time_ns <= WINDOW


def receives(state, i):
    me = state["me"]
    return recent(state, me) and state["flags"][me].ipi_receiver == i


def tier_of(state, i):
    flag = state["flags"][i]
    tiers = [receives(state, i), flag.pending_interrupt, flag.preempted and flag.preempted_in_kernel]
    return [*tiers, not flag.preempted, True].index(True)


def features(state, i):
    flag, me, now = state["flags"][i], state["flags"][state["me"]], state["now_ns"]
    return {
        "preempted": flag.preempted,
        "in_kernel": flag.preempted and flag.preempted_in_kernel,
        "pending_interrupt": flag.pending_interrupt,
        "receiver": receives(state, i),
        "awaits_ack": recent(state, i),
        "in_spin_loop": flag.in_spin_loop,
        "eligible": flag.lag_ns >= 0,
        "same_pcpu": flag.pcpu == me.pcpu,
        "lag_ms": sorted((-20, flag.lag_ns / 1e6, 20))[1],
        "ready_ms": min(20, (now - flag.ready_since_ns) / 1e6),
        "away_ms": min(20, (now - flag.last_ran_ns) / 1e6),
        "boosted_ms": min(20, (now - flag.boosted_ns) / 1e6),
        "turn": turn(state, i) / len(state["flags"]),
    }


def order_of(policy, state):
    """All indices that may be asked, the best first; sort keys are ascending, ties by index."""
    keys = {
        "round-robin": lambda i: turn(state, i),
        "longest-waiting": lambda i: state["flags"][i].ready_since_ns,
        "least-lag": lambda i: -state["flags"][i].lag_ns,
        "receiver-first": lambda i: (tier_of(state, i), turn(state, i)),
    }
    if policy in keys:
        return sorted(waiting(state, ()), key=keys[policy])
    weights = state["weights"]
    found = {}
    for i in waiting(state, ()):
        found[i] = sum(weights.get(name, 0) * value for name, value in features(state, i).items())
    return [i for i in sorted(found, key=lambda i: -found[i]) if found[i] >= weights["threshold"]]


def naive(policy, state):
    """Attempts in order: down the list until a success or the third -ESRCH."""
    attempts = []
    for i in order_of(policy, state):
        attempts.append(i)
        so_far = [state["results"][j] for j in attempts]
        if so_far[-1] == OK or so_far.count(ESRCH) == 3:
            break
    return tuple(attempts)


def random_state(lots):
    n = lots.choice([2, 3, 5, 8, 16])
    eighths = range(-4, 5)  # weights and times whose sums are exact, so that ties are ties

    def age():
        return NOW - lots.choice([0, MS, 4 * MS, 32 * MS])

    flags = [
        Flags(
            ready=lots.random() < 0.8,
            preempted=lots.random() < 0.6,
            preempted_in_kernel=lots.random() < 0.5,
            blocking=lots.random() < 0.2,
            dy_runnable=lots.random() < 0.3,
            pending_interrupt=lots.random() < 0.15,
            in_spin_loop=lots.random() < 0.4,
            ipi_pending=lots.random() < 0.7,
            ipi_receiver=lots.randrange(-1, n),
            ipi_time_ns=NOW - lots.choice([0, WINDOW, WINDOW + 1]),
            ready_since_ns=age(),
            last_ran_ns=age(),
            boosted_ns=age(),
            lag_ns=lots.choice([-32, -2, 0, 1, 3, 32]) * MS,
            pcpu=lots.randrange(2),
        )
        for _ in range(n)
    ]
    # the turn is a fraction that is exact only for a power of two
    names = [name for name in NAMES if name != "turn" or n in (2, 8, 16)]
    return {
        "flags": flags,
        "me": lots.randrange(n),
        "last_boosted_vcpu": lots.randrange(n),
        "results": lots.choices([OK, FREE, ESRCH], lots.choice([(1, 2, 4), (0, 1, 1), (1, 1, 1)]), k=n),
        "now_ns": NOW,
        "ipi_tracking": lots.random() < 0.7,
        "weights": {"threshold": 0.0, **{name: lots.choice(eighths) / 8 for name in names}},
    }


@pytest.mark.parametrize("policy", HEURISTICS)
def test_heuristics_do_what_the_reference_does(policy):
    lots = random.Random(f"reference {policy}")
    lengths, targets = set(), set()
    for _ in range(STATES):
        state = random_state(lots)
        chosen = linear(state["weights"]) if policy == "linear" else policy
        given = {name: value for name, value in state.items() if name not in ("flags", "weights")}
        got = replay(chosen, state["flags"], ipi_window_ns=WINDOW, **given)
        assert got.attempts == naive(policy, state)
        lengths.add(len(got.attempts))
        targets.add(got.target)
    assert {0, 1, 2, 3, 4, 5} <= lengths
    assert {None, *range(16)} == targets


# --- the table ------------------------------------------------------------------------------------------------------


def test_names_and_marks_of_the_table():
    names = [policy.name for policy in POLICIES]
    assert len(set(names)) == len(names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for name in names)
    assert [policy.name for policy in POLICIES if policy.privileged] == list(BOUNDS) == names[-3:]
    assert all(policy.privileged == policy.sees.startswith("privileged:") for policy in POLICIES)
    assert [policy.name for policy in POLICIES if policy.needs_lag] == ["least-lag", "linear"]
    years = [policy.year for policy in POLICIES if policy.name in ("2011", "2012", "2017", "2019", "2021", "legacy")]
    assert years == ["2011", "2012", "2017", "2019", "2021", "2025"]
    assert all(BY_NAME[name].year == "-" for name in (*HEURISTICS, *BOUNDS, "none", "random"))
    assert len(FEATURES) + 1 == len(NAMES) == len(heuristics.linear_weights({}))


@pytest.mark.parametrize(
    "name, same_as, deboost, ipi_tracking",
    [
        ("legacy", "legacy", "none", "off"),
        ("relaxed", "relaxed", "none", "off"),
        ("sched-v2", "legacy", "v2", "off"),
        ("sched-v3", "legacy", "v3", "off"),
        ("series-v2", "relaxed", "v2", "v2"),
        ("series-v3", "relaxed", "v3", "v3"),
        ("clairvoyant", "clairvoyant", "none", "off"),
        ("clairvoyant-working", "clairvoyant-working", "none", "off"),
    ],
)
def test_the_halves_of_the_series(name, same_as, deboost, ipi_tracking):
    """Which function chooses, and what the policy switches on in a scenario that has everything off."""
    vm = Vm("vm", 2, WORKLOADS["compute"], ipi_tracking="off")
    before = Scenario("plain", Host(pcpus=2), (vm, replace(vm, name="other")))
    after = BY_NAME[name].prepare(before)
    assert BY_NAME[name].function is BY_NAME[same_as].function
    assert (after.host.yield_deboost, {vm.ipi_tracking for vm in after.vms}) == (deboost, {ipi_tracking})
    assert replace(after, host=before.host, vms=before.vms) == before
