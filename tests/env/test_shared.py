"""What a compiled policy and an observation both read is the same, in states that real episodes come to."""

from dataclasses import replace

import numpy as np
import pytest
from episodes import any_allowed, woken

from kvmgym import DirectedYieldEnv
from kvmgym.core import shown
from kvmgym.core.jit import face_jit
from kvmgym.core.layout import NONE, SHOW_GUEST, SHOW_LAG
from kvmgym.core.memory import carve, span
from kvmgym.env import stepping
from kvmgym.env.observation import F_ALL, OF_SPINNER, OF_VCPU, G
from kvmgym.policies.heuristics import CAP_MS, FEATURES, score
from kvmgym.policies.kernel import is_ipi_receiver, may_try, sent_lately, waits_for_pcpu
from kvmgym.scenarios import BY_NAME as SCENARIOS

STATES = 250  # of each host
MAY_TRY, WAITS, FROM_ME, TO_ME, FLAGS = range(5)
NAMES = [name for name, _ in FEATURES]
DEDUP = SCENARIOS["dedup-small"]
HOSTS = {
    "dedup-small": DEDUP,
    "shootdowns-small": SCENARIOS["shootdowns-small"],
    "mixed-8p-4vm": SCENARIOS["mixed-8p-4vm"],
    "APICv": replace(DEDUP, vms=tuple(replace(vm, apicv=True) for vm in DEDUP.vms)),
    "IPIs soon too old": replace(DEDUP, vms=tuple(replace(vm, ipi_window_ns=20_000) for vm in DEDUP.vms)),
    "CFS": replace(DEDUP, host=DEDUP.host.on_kernel("6.1")),
    "woken": woken(4),  # attempts fail here
}


@face_jit
def read(state, static, seen):
    """What policies read of each vCPU of the spinner's VM, float64 [V, FLAGS + features]; returns ask.waits_for. As
    where a policy is asked, lags and what the spinner waits for are filled in before."""
    w = carve(state, static)
    ask = w.ask[0]
    before = w.host[0].shows
    w.host[0].shows = SHOW_LAG | SHOW_GUEST
    shown.show(w)
    w.host[0].shows = before
    vm = w.vm[ask.vm]
    vcpus = span(w.vcpu, vm.first, vm.vcpus)
    features = seen.shape[1] - FLAGS
    for i in range(vm.vcpus):
        seen[i, MAY_TRY] = ask.tries > 0 and may_try(vcpus[i], ask.me, i, ask)
        seen[i, WAITS] = waits_for_pcpu(vcpus[i])
        seen[i, FROM_ME] = is_ipi_receiver(vm, vcpus, ask.me, i, ask.now_ns)
        seen[i, TO_ME] = sent_lately(vm, vcpus[i], ask.me, ask.now_ns)
        for k in range(features):  # a score of one feature alone
            for other in range(features):
                ask.weights[other] = 1.0 if other == k else 0.0
            seen[i, FLAGS + k] = score(vm, vcpus, ask.me, i, ask)
    return ask.waits_for


class State:
    """A decision: what is observed and what policies read, of the VM's vCPUs only.

    mask: bool [V]; observed: float64 [V, F_ALL]; seen: as `read` writes it; waits_for: a vCPU or NONE."""

    def __init__(self, env, observation):
        worlds = env.worlds
        world = worlds.world(0)
        ask = world.ask[0]
        vcpus = int(world.vm[ask["vm"]]["vcpus"])
        self.me, self.tries = int(ask["me"]), int(ask["tries"])
        self.slice_ms = float(world.par[0]["slice_ns"]) / 1e6
        self.mask = env.action_masks()[:vcpus]
        self.spinner = observation[:G]
        self.observed = observation[G:].reshape(-1, F_ALL)[:vcpus].astype(float)
        self.seen = np.zeros((vcpus, FLAGS + len(NAMES)))
        weights = ask["weights"].copy()
        static = worlds.statics.bytes[worlds.rows[0, stepping.STATIC]]
        self.waits_for = read(worlds.states[0], static, self.seen)
        ask["weights"] = weights

    def field(self, name):
        """A field of the observation, [V]."""
        return self.observed[:, getattr(OF_VCPU, name)]

    def feature(self, name):
        """A feature of the linear policy, [V]."""
        return self.seen[:, FLAGS + NAMES.index(name)]

    def first_in_turn(self, rank):
        """The allowed vCPU with the least rank, of equals the next after the one boosted last; NONE without one."""
        allowed = np.flatnonzero(self.mask)
        last = int(np.argmax(self.field("last_boosted")))
        turns = (allowed - last - 1) % len(self.mask)
        return int(allowed[np.lexsort((turns, rank[allowed]))[0]]) if len(allowed) else NONE


def decisions(scenario, policy=None):
    """STATES decisions of episodes, each with what `policy` answers there (None without one). Actions are random."""
    options = {"privileged": True, "show_all": True, "observation": "flat", "duration_ns": 30_000_000}
    env = DirectedYieldEnv(scenario, kernel_agent=policy is not None, **options)
    pick, seed, count = any_allowed(0), 0, 0
    while count < STATES:
        observation, _ = env.reset(seed=seed)
        ended, seed = False, seed + 1
        while not ended and count < STATES:
            state, count = State(env, observation), count + 1
            yield state, None if policy is None else env.ask(policy)
            observation, _, _, ended, _ = env.step(pick(env.action_masks()))


def age(us):
    """log2(1 + t/µs) / 20, linear between powers of two, at most 1."""
    octave = np.floor(np.log2(1 + us))
    return np.minimum((octave + (1 + us) / 2**octave - 1) / 20, 1)


@pytest.fixture(scope="module", params=HOSTS)
def states(request):
    return request.param, [state for state, _ in decisions(HOSTS[request.param])]


def test_the_mask_holds_the_candidates_of_the_kernel(states):
    name, found = states
    for state in found:
        assert state.mask.tolist() == (state.seen[:, MAY_TRY] == 1).tolist()
        others = np.arange(len(state.mask)) != state.me
        waiting = (state.field("ready") == 1) & (
            (state.field("blocking") == 0) | (state.field("pending_interrupt") == 1)
        )
        waits = state.seen[:, WAITS] == 1
        assert waits[waiting].all() and (state.field("ready")[waits] == 1).all()
        if state.spinner[OF_SPINNER.tries] > 0:
            assert state.mask.tolist() == (waits & others & (state.field("tried") == 0)).tolist()
        else:
            assert not state.mask.any()
    assert any(state.mask.any() for state in found)
    if name == "mixed-8p-4vm":
        assert not all(state.mask.any() for state in found)
    if name == "woken":
        assert {state.tries for state in found} == {0, 1, 2, 3} and any(state.field("tried").any() for state in found)


def test_tracked_ipis_are_the_same(states):
    name, found = states
    for state in found:
        assert state.field("ipi_from_me").tolist() == state.seen[:, FROM_ME].tolist()
        assert state.field("ipi_to_me").tolist() == state.seen[:, TO_ME].tolist()
        assert ((state.field("ipi_age") < 1) <= (state.seen[:, FROM_ME] == 1)).all()
    if name in ("shootdowns-small", "IPIs soon too old"):
        assert any(state.seen[:, FROM_ME].any() for state in found)


def test_flags_are_the_features_of_the_linear_policy(states):
    pairs = {"preempted": "preempted", "in_kernel": "in_kernel", "pending_interrupt": "pending_interrupt",
             "in_spin_loop": "in_spin_loop", "same_pcpu": "same_pcpu", "ipi_from_me": "receiver"}  # fmt: skip
    for state in states[1]:
        for field, feature in pairs.items():
            assert state.field(field).tolist() == state.feature(feature).tolist(), field
        last = int(np.argmax(state.field("last_boosted")))
        vcpus = len(state.mask)
        assert state.feature("turn") == pytest.approx((np.arange(vcpus) - last - 1) % vcpus / vcpus)


def test_ages_and_lags_are_the_features_in_other_units(states):
    """Features end at CAP_MS, so beyond it both only have to be at least that."""
    _, found = states
    capped, compared = age(CAP_MS * 1_000), 0
    for state in found:
        boosted = np.minimum(state.field("boosted"), capped)
        assert boosted == pytest.approx(age(state.feature("boosted_ms") * 1_000), abs=1e-6)
        there = state.mask
        waiting = np.minimum(state.field("waiting"), capped)[there]
        assert waiting == pytest.approx(age(state.feature("ready_ms")[there] * 1_000), abs=1e-6)
        lag_ms = state.feature("lag_ms")[there]
        inside = np.abs(lag_ms) < CAP_MS
        slices = np.clip(lag_ms / state.slice_ms / 4, -1, 1)
        assert state.field("lag")[there][inside] == pytest.approx(slices[inside], abs=1e-6)
        assert (state.feature("eligible")[there] == (state.field("lag")[there] >= 0)).all()
        compared += int(inside.sum())
    assert compared >= 100


def test_what_the_spinner_waits_for_is_the_same(states):
    for state in states[1]:
        awaited = np.flatnonzero(state.field("awaited")).tolist()
        assert awaited == ([] if state.waits_for == NONE else [state.waits_for])
    assert states[0] == "woken" or any(state.waits_for != NONE for state in states[1])


# --- choices: a policy's answer, worked out from the observation alone ------------------------------------------------


def by_tier(state):
    """receiver-first: the series' tiers as an order."""
    rank = np.where(state.field("in_kernel") == 1, 2, 4)
    rank = np.where(state.field("preempted") == 0, 3, rank)
    rank = np.where(state.field("pending_interrupt") == 1, 1, rank)
    return state.first_in_turn(np.where(state.field("ipi_from_me") == 1, 0, rank))


def awaited(state):
    """clairvoyant: what the spinner waits for, if it may be tried."""
    may = np.flatnonzero((state.field("awaited") == 1) & (state.field("ready") == 1) & (state.field("tried") == 0))
    return int(may[0]) if len(may) and may[0] != state.me and state.spinner[OF_SPINNER.tries] > 0 else NONE


CHOICES = {
    "round-robin": lambda state: state.first_in_turn(np.zeros(len(state.mask))),
    "receiver-first": by_tier,
    "clairvoyant": awaited,
}


@pytest.mark.parametrize(
    "policy, name",
    [(policy, name) for policy in CHOICES for name in ("dedup-small", "shootdowns-small", "APICv")]
    + [("round-robin", "woken"), ("receiver-first", "woken")],  # there clairvoyant has nobody: the lock's holder runs
)
def test_a_policy_chooses_what_the_observation_says(policy, name):
    chosen = set()
    for state, answer in decisions(HOSTS[name], policy):
        answer = answer if answer < len(state.mask) else NONE
        assert answer == CHOICES[policy](state)
        chosen.add(answer)
    assert len(chosen) > 1


@pytest.mark.parametrize("policy, field", [("longest-waiting", "waiting"), ("least-lag", "lag")])
def test_a_policy_takes_the_largest_that_is_observed(policy, field):
    """Observed numbers are float32, and lags end at 4 slices, so that equals may be told apart by the policy alone."""
    picked = 0
    for state, answer in decisions(DEDUP, policy):
        if not state.mask.any():
            assert answer >= len(state.mask)
            continue
        assert state.mask[answer]
        assert state.field(field)[answer] >= state.field(field)[state.mask].max() - 1e-6
        picked += int(state.mask.sum() > 1)
    assert picked >= 20
