"""What the engine shows to policies that ask: run-queue lags, and what a spinner truly waits for. Values by hand."""

import numpy as np
import pytest
from digests import booted, digest
from entities import change, group_above
from examples import EXAMPLES, MS
from hypothesis import given
from stories import FAR, Story, hog, hold, one_lock, plain_host, story, us, user, vm, work
from strategies import many, policies, scenarios, seeds

from kvmgym.core import shown
from kvmgym.core.jit import jit
from kvmgym.core.layout import NONE, SHOW_GUEST, SHOW_LAG
from kvmgym.core.memory import carve, view
from kvmgym.measure.simulate import advance
from kvmgym.params import Barrier, BarrierSpec, Block, LockSpec, Ple, Scenario, Shootdown, Vm
from kvmgym.policies import BY_NAME


@jit
def waits_for_row(state, static, v):
    return shown.waits_for(carve(state, static), v)


@jit
def lag_row(state, static, v):
    return shown.lag_ns(carve(state, static), v)


def awaited(told, who, time_us):
    """The name of the vCPU that `who` waits for at a time, or None."""
    told.until(time_us)
    found = int(waits_for_row(told.row, told.blueprint.static, told.names().index(who)))
    return None if found == NONE else told.name(found)


# --- what a spinner waits for -----------------------------------------------------------------------------------------
# Two vCPUs that share a pCPU run 0-2, 2-4, 4-7 ms, the first of them first. No pause-loop exits unless a test says so.

QUIET = {"ple": Ple(enabled=False), "policy": "none"}


@pytest.mark.parametrize("kind", ["tas", "fifo", "pvq"])
def test_a_lock_waiter_waits_for_the_holder_while_that_is_preempted(kind):
    a = vm("a", (*hold("l", 5_000), FAR), (user(100), *hold("l", 10), FAR), pin=(0, 1), locks=one_lock(kind),
           pv_spin_ns=10**9)  # fmt: skip
    told = story(a, hog("h", 0), **QUIET)
    found = [awaited(told, "a1", time_us) for time_us in (50, 1_000, 3_000, 5_000)]
    assert found == [None, None, "a0", None]


@pytest.mark.parametrize("kind, expected", [("fifo", "a1"), ("pvq", "a1")])
def test_the_holder_runs_and_the_next_in_line_does_not(kind, expected):
    a = vm(
        "a",
        (*hold("l", 10_000), FAR),
        (user(100), *hold("l", 10), FAR),
        (user(200), *hold("l", 10), FAR),
        pin=(0, 1, 2),
        locks=one_lock(kind),
        pv_spin_ns=10**9,
    )
    told = story(a, hog("h", 1), pcpus=3, **QUIET)
    assert [awaited(told, "a2", time_us) for time_us in (1_000, 3_000, 5_000)] == [None, expected, None]
    assert [awaited(told, "a1", time_us) for time_us in (5_000, 8_000)] == [None, None], "nobody is before it"


def test_waits_are_followed_to_their_end():
    """a2 spins for the lock of a1, which spins for that of a0. First a0 is preempted, later a1 as well."""
    locks = (LockSpec("l"), LockSpec("m"))
    outer, inner = hold("m", 10), hold("l", 10)
    a = vm(
        "a",
        (*hold("l", 20_000), FAR),
        (user(50), outer[0], *inner, outer[2], FAR),
        (user(200), *hold("m", 10), FAR),
        pin=(0, 1, 2),
        locks=locks,
    )
    told = story(a, hog("h", 0), pcpus=3, **QUIET)
    assert [awaited(told, "a2", time_us) for time_us in (100, 1_000, 3_000)] == [None, None, "a0"]
    told = story(a, hog("h", 1), pcpus=3, **QUIET)
    assert [awaited(told, "a2", time_us) for time_us in (1_000, 3_000)] == [None, "a1"], "a0 runs, a1 does not"
    told = story(a, hog("h", 0), hog("i", 1), pcpus=3, **QUIET)
    assert [awaited(told, "a2", time_us) for time_us in (1_000, 3_000)] == [None, "a0"], "a1 would only spin"


def test_a_shootdown_waits_for_the_receiver_that_has_been_ready_longest():
    """a1 and a hog share p1: it is ready from 13 to 16 ms. a2 and two hogs share p2: it is ready from 9 to 15 ms."""
    a = vm("a", (user(13_500), Shootdown(), FAR), (FAR,), (FAR,), (FAR,), pin=(0, 1, 2, 3))
    told = story(a, hog("h", 1), hog("i", 2), hog("j", 2), pcpus=4, **QUIET)
    assert [awaited(told, "a0", time_us) for time_us in (13_400, 13_600, 15_500, 16_500)] == [None, "a2", "a1", None]


def test_a_barrier_waits_for_one_that_has_not_come():
    barrier = {"barriers": (BarrierSpec("b", 10**9),)}
    a = vm("a", (user(100), Barrier("b"), FAR), (user(2_500), Barrier("b"), FAR), (user(50), Barrier("b"), FAR),
           pin=(0, 1, 2), **barrier)  # fmt: skip
    told = story(a, hog("h", 1), hog("i", 2), pcpus=3, **QUIET)
    assert [awaited(told, "a0", time_us) for time_us in (1_000, 3_000, 5_000)] == [None, "a1", None]


def test_a_privileged_policy_reads_it():
    """a0 and a2 share p0. The clairvoyant yields to nobody while the holder runs, and to it once it is preempted at
    2 ms; legacy yields to whoever is ready."""
    a = vm("a", (*hold("l", 5_000), FAR), (user(100), *hold("l", 10), FAR), (FAR,), pin=(0, 1, 0), locks=one_lock())
    for policy, first in (("clairvoyant", "2146us a1 yield_to a0"), ("legacy", "102us a1 yield_to a2")):
        told = story(a, policy=policy)
        told.policy.install(told.world)
        assert told.until(4_000).tell(only={"yield_to"})[0] == first


# --- lags -------------------------------------------------------------------------------------------------------------


def lags_ms(told):
    """hints.lag_ns of every vCPU, in ms."""
    static = told.blueprint.static
    return [int(lag_row(told.row, static, v)) / MS for v in range(told.blueprint.vcpus)]


def place(told, vruntimes_ms, first=0):
    """Give entities their vruntimes."""
    for k, value in enumerate(vruntimes_ms, first):
        change(told.world, k, vruntime_ns=round(value * MS))


def test_a_lag_is_what_v_is_ahead():
    """V of equal weights is the mean: 3 ms. With weights of 1, 1 and 2 it is 3.75 ms."""
    a = Vm("a", 3, work((FAR,)), pin=(0, 0, 0))
    told = Story(Scenario("lag", plain_host(1, group_scheduling=False), (a,)), "none").until(0)
    place(told, (0, 3, 6))
    assert lags_ms(told) == [3, 0, -3]
    change(told.world, 2, weight=2048)
    assert lags_ms(told) == [3.75, 0.75, -2.25]


def test_with_groups_the_least_lag_of_the_levels_counts():
    """Leaves of a: V = 2 ms. Groups a and b: V = 4 ms."""
    vms = (Vm("a", 2, work((FAR,), name="x"), pin=(0, 0)), Vm("b", 1, work((FAR,), name="y"), pin=(0,)))
    told = Story(Scenario("lag", plain_host(1), vms), "none").until(0)
    place(told, (1, 3, 7))
    a, b = (group_above(told.world, v) for v in (0, 2))
    place(told, (6,), a)
    place(told, (2,), b)
    assert lags_ms(told) == [-2, -2, 0]
    place(told, (2,), a)
    place(told, (6,), b)
    assert lags_ms(told) == [1, -1, -2]


def test_a_vcpu_that_sleeps_has_no_lag():
    a = vm("a", (FAR,), (user(100), Block(us(5_000)), FAR), pin=(0, 1))
    told = story(a, **QUIET, delay_dequeue=False).until(1_000)
    assert told.entity("a1")["on_rq"] == 0
    told.entity("a1")["vruntime_ns"] = -MS
    assert lags_ms(told) == [0, 0]


# --- showing changes nothing ------------------------------------------------------------------------------------------


def unshown(blueprint, row):
    """The digest of a world, leaving out what was shown."""
    row = row.copy()
    world = view(row, blueprint.static)
    world.host["shows"] = 0
    world.ask["waits_for"] = NONE
    world.vcpu["lag_ns"] = 0
    return digest(blueprint, row)


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("policy", ["legacy", "random", "linear"])
def test_showing_changes_no_course(name, policy):
    shows = SHOW_LAG if policy == "linear" else 0  # what it reads is shown to it in any case
    blueprint, (plain, shown) = booted(EXAMPLES[name], policy, 3, 3, trace_rows=4096)
    view(plain, blueprint.static).host["shows"] = shows
    view(shown, blueprint.static).host["shows"] = SHOW_LAG | SHOW_GUEST
    for row in (plain, shown):
        advance(blueprint, row, 3 * MS, BY_NAME[policy])
    assert unshown(blueprint, shown) == unshown(blueprint, plain)
    lags = np.abs(view(shown, blueprint.static).vcpu["lag_ns"]).max()
    assert lags > 0 or view(shown, blueprint.static).host[0]["decisions"] == 0


@many(25)
@given(scenarios(), policies, seeds)
def test_showing_changes_no_course_of_random_scenarios(scenario, policy, seed):
    blueprint, (plain, shown) = booted(scenario, policy, seed, seed)
    wanted = int(view(plain, blueprint.static).host[0]["shows"])
    view(shown, blueprint.static).host["shows"] = SHOW_LAG | SHOW_GUEST
    for row in (plain, shown):
        advance(blueprint, row, 2 * MS, BY_NAME[policy])
    assert wanted in (0, SHOW_LAG, SHOW_GUEST, SHOW_LAG | SHOW_GUEST)
    assert unshown(blueprint, shown) == unshown(blueprint, plain)
