"""Each field of an observation: its value in a world whose records are known, and where it may lie."""

import numpy as np
import pytest
from entities import change
from episodes import US, any_allowed, holder_preempted, same, woken, world
from hypothesis import given
from hypothesis import strategies as st
from stories import FAR, hog, hold, one_lock, plain_host, user, vm
from strategies import many, scenarios, seeds

from kvmgym import DirectedYieldEnv
from kvmgym.core.jit import face_jit
from kvmgym.core.layout import RUNNING
from kvmgym.core.memory import POINTERS, carve
from kvmgym.env import observation, stepping
from kvmgym.env.observation import F_ALL, GLOBALS, PRIVILEGED, VCPU_FIELDS, F, G
from kvmgym.params import Scenario

NAMES = [field.name for field in GLOBALS]
COLUMNS = [field.name for field in (*VCPU_FIELDS, *PRIVILEGED)]
NOW = 30 * US


@face_jit
def observe(state, static, out, privileged):
    """observation.write for one row of bytes."""
    observation.write(carve(state, static), out, privileged)


def numbers(env):
    """What the records of the environment's world now give, privileged fields included, float32 [G + V*F_ALL]."""
    out = np.full(G + env.worlds.max_vcpus * F_ALL, 7, np.float32)
    observe(env.worlds.states[0], env.worlds.statics.bytes[0], out, 1)
    return out


def named(out):
    """The numbers by name: "window", "ready[2]"."""
    found = dict(zip(NAMES, out[:G].tolist(), strict=True))
    rows = out[G:].reshape(-1, F_ALL)
    for i, row in enumerate(rows.tolist()):
        found.update({f"{name}[{i}]": value for name, value in zip(COLUMNS, row, strict=True)})
    return found


def begun(scenario, **options):
    env = DirectedYieldEnv(scenario, **options)
    env.reset(seed=0)
    return env


def approximately(expected):
    return pytest.approx(expected, abs=1e-6)


# --- hand-made values -----------------------------------------------------------------------------------------------


def test_a_spinner_among_woken_vcpus():
    """Exits at 2, 6, 14, 30 µs: the window has grown to 32 µs, three exits came before. a0 and a1 run, each alone; a2
    and a3 woke at 29 µs, are queued, and their pCPUs, no longer idle, have not picked them yet."""
    found = named(numbers(begun(woken(2))))
    of_host = {"window": 4 / 16, "exits": 2 / 16, "kernel_mode": 1, "tries": 1, "attempts": 0, "vcpus": 4 / 128,
               "runnable": 1, "queue": 1 / 8, "lag": 0, "idle": 0, "apicv": 0, "ipi_tracking": 1}  # fmt: skip
    assert {name: found[name] for name in of_host} == approximately(of_host)
    everywhere = {"exists": 1, "boosted": 1, "ipi_age": 1, "queue": 1 / 8}
    a0 = {"running": 1, "holds_lock": 1, "last_boosted": 1}
    a1 = {"running": 1, "me": 1, "same_pcpu": 1, "in_spin_loop": 1}
    sleeper = {"ready": 1, "waiting": 1 / 20}
    for i, own in enumerate((a0, a1, sleeper, sleeper)):
        wanted = dict.fromkeys(COLUMNS, 0) | everywhere | own
        got = {name: found[f"{name}[{i}]"] for name in COLUMNS if name not in ("lag", "deadline")}
        wanted = {name: wanted[name] for name in got}
        assert got == approximately(wanted), i


def test_a_spinner_whose_holder_is_preempted():
    """At 4102 µs: a0 has waited 102 µs, was latched in ring 0, owes nothing (2 ms each) and has a new slice of 3 ms
    before it. Two tasks are queued at pCPU 0, one at pCPU 1. log2(103) is 6 + 39/64 between powers of two."""
    found = named(numbers(begun(holder_preempted())))
    wanted = {"ready[0]": 1, "preempted[0]": 1, "in_kernel[0]": 1, "running[0]": 0, "lag[0]": 0, "deadline[0]": 1 / 4,
              "queue[0]": 2 / 8, "queue[1]": 1 / 8, "waiting[0]": (6 + 39 / 64) / 20, "waiting[1]": 0, "me[1]": 1,
              "same_pcpu[0]": 0, "awaited[0]": 1, "awaited[1]": 0, "holds_lock[0]": 1, "holds_lock[1]": 0}  # fmt: skip
    assert {name: found[name] for name in wanted} == approximately(wanted)


# What happens to the numbers when records change: (part, index, field, value) edits, and all numbers that differ then.
# The world is that of four sleepers at 30 µs; a1 spins, vCPU 3 is the one looked at.
EDITS = {
    "window": ([("vcpu", 1, "ple_window_ns", 16 * US)], {"window": 3 / 16}),
    "window at its base": ([("vcpu", 1, "ple_window_ns", 2 * US)], {"window": 0}),
    "window between": ([("vcpu", 1, "ple_window_ns", 6 * US)], {"window": 1.5 / 16}),
    "exits": ([("vcpu", 1, "spin_exits", 8)], {"exits": 3 / 16}),
    "first exit": ([("vcpu", 1, "spin_exits", 1)], {"exits": 0}),
    "kernel mode": ([("ask", 0, "yield_to_kernel_mode", 0)], {"kernel_mode": 0}),
    "tries": ([("ask", 0, "tries", 1)], {"tries": 1 / 3}),
    "no tries": ([("ask", 0, "tries", -2)], {"tries": 0}),
    "attempts": ([("ask", 0, "attempt", 4)], {"attempts": 1 / 4}),
    "many attempts": ([("ask", 0, "attempt", 40)], {"attempts": 1}),
    "runnable": ([("vm", 0, "nr_runnable", 3)], {"runnable": 1 / 2}),
    "load": ([("vm", 0, "load_x1024", 1536)], {"load": 1 / 4}),
    "more load than vCPUs": ([("vm", 0, "load_x1024", 60 * 1024)], {}),
    "home queue": ([("pcpu", 1, "nr_running", 4)], {"queue": 1 / 2, "queue[1]": 1 / 2}),
    "idle": ([("host", 0, "idle_nr", 3)], {"idle": 1 / 2}),
    "apicv": ([("vm", 0, "apicv", 1)], {"apicv": 1}),
    "no tracking": ([("vm", 0, "ipi_tracking", 0)], {"ipi_tracking": 0}),
    "running": ([("vcpu", 3, "state", RUNNING)],
                {"running[3]": 1, "waiting[3]": 0, "deadline[3]": 0}),
    "not ready": ([("vcpu", 3, "ready", 0)], {"ready[3]": 0}),
    "preempted": ([("vcpu", 3, "preempted", 1)], {"preempted[3]": 1}),
    "in kernel": ([("vcpu", 3, "preempted", 1), ("vcpu", 3, "preempted_in_kernel", 1)],
                  {"preempted[3]": 1, "in_kernel[3]": 1}),
    "latched of old": ([("vcpu", 3, "preempted_in_kernel", 1)], {}),
    "blocking": ([("vcpu", 3, "blocking", 1)], {"blocking[3]": 1}),
    "pending interrupt": ([("vcpu", 3, "pending_interrupt", 1)], {"pending_interrupt[3]": 1}),
    "my IPI": ([("vcpu", 1, "ipi_pending", 1), ("vcpu", 1, "ipi_receiver", 3), ("vcpu", 1, "ipi_time_ns", 27 * US)],
               {"ipi_from_me[3]": 1, "ipi_age[3]": 2 / 20}),
    "my IPI, acknowledged": ([("vcpu", 1, "ipi_receiver", 3), ("vcpu", 1, "ipi_time_ns", 27 * US)], {}),
    "my IPI, long ago": ([("vcpu", 1, "ipi_pending", 1), ("vcpu", 1, "ipi_receiver", 3),
                          ("vcpu", 1, "ipi_time_ns", 9 * US), ("vm", 0, "ipi_window_ns", 20 * US)], {}),
    "an IPI to me": ([("vcpu", 3, "ipi_pending", 1), ("vcpu", 3, "ipi_receiver", 1), ("vcpu", 3, "ipi_time_ns", NOW)],
                     {"ipi_to_me[3]": 1}),
    "in its spin loop": ([("vcpu", 3, "in_spin_loop", 1)], {"in_spin_loop[3]": 1}),
    "eligible": ([("vcpu", 3, "dy_eligible", 1)], {"dy_eligible[3]": 1}),
    "waiting": ([("vcpu", 3, "ready_since_ns", 15 * US)], {"waiting[3]": 4 / 20}),
    "waiting long": ([("vcpu", 3, "ready_since_ns", -2_000_000 * US)], {"waiting[3]": 1}),
    "same pCPU": ([("vcpu", 3, "pcpu", 1)], {"same_pcpu[3]": 1}),
    "its queue": ([("pcpu", 3, "nr_running", 6)], {"queue[3]": 6 / 8}),
    "long queue": ([("pcpu", 3, "nr_running", 60)], {"queue[3]": 1}),
    "boosted": ([("vcpu", 3, "boosted_ns", 23 * US)], {"boosted[3]": 3 / 20}),
    "boosted just now": ([("vcpu", 3, "boosted_ns", NOW)], {"boosted[3]": 0}),
    "last boosted": ([("vm", 0, "last_boosted_vcpu", 3)], {"last_boosted[3]": 1, "last_boosted[0]": 0}),
    "holds": ([("vcpu", 3, "holds", 2)], {"holds_lock[3]": 1}),
}  # fmt: skip


@pytest.mark.parametrize("edits, changed", EDITS.values(), ids=EDITS)
def test_a_number_is_what_the_records_say(edits, changed):
    env = begun(woken(4))
    before = named(numbers(env))
    for part, index, field, value in edits:
        getattr(world(env), part)[index][field] = value
    after = named(numbers(env))
    differs = {name: value for name, value in after.items() if value != before[name]}
    assert differs == approximately(changed)


def test_a_tried_target_is_marked():
    env = begun(woken(4))
    observed, *_ = env.step(3)
    found = dict(zip(COLUMNS[:F], observed[G + 3 * F : G + 4 * F].tolist(), strict=True))
    assert found["tried"] == 1 and observed[NAMES.index("tries")] == approximately(2 / 3)
    assert observed[NAMES.index("attempts")] == 1 / 16
    assert observed[G:].reshape(-1, F)[[0, 1, 2, 4, 5], COLUMNS.index("tried")].tolist() == [0] * 5


@pytest.mark.parametrize("behind_ms, lag, own", [(1.5, 0.75, 0.0), (-3, -1.5, 0.0), (30, 4, 0.0), (-30, -4, 0.0)])
def test_lag_and_deadline_are_in_slices_against_the_average(behind_ms, lag, own):
    """a0's vruntime and deadline are moved back: V of two tasks follows by half of it. Slices of 3 ms, at most 4."""
    env = begun(holder_preempted())
    behind = round(behind_ms * 1000 * US)
    change(world(env), 1, vruntime_ns=lambda v: v - behind, deadline_ns=lambda d: d - behind)
    found = named(numbers(env))
    assert found["lag[0]"] == approximately(np.clip(lag / 3 / 4 if abs(lag) < 4 else lag, -1, 1))
    deadline = (3 - behind_ms / 2) / 3 / 4
    assert found["deadline[0]"] == approximately(np.clip(deadline, -1, 1))
    assert found["lag"] == own


@pytest.mark.parametrize("ahead_ms, lag", [(0, 0), (1.5, -1 / 16), (-3, 1 / 8)])
def test_the_spinners_own_lag(ahead_ms, lag):
    """a1 shares pCPU 1 with c0: a1 0-2, c0 2-4 ms, then a1 again, which comes for the lock at 4.1 ms. Both have run
    2 ms when it exits at 4102; moving it by x moves its lag by -x/2, here in slices of 3 ms / 4."""
    guest = vm("a", (*hold("l", 2_100), FAR), (user(2_100), *hold("l", 10), FAR), pin=(0, 1), locks=one_lock())
    env = begun(Scenario("shared", plain_host(2, group_scheduling=False), (hog("b", 0), guest, hog("c", 1))))
    found = numbers(env)
    assert env.worlds.rows[0, stepping.NOW_NS] == 4_102 * US and found[NAMES.index("queue")] == 2 / 8
    behind = world(env).se[3]["vruntime_ns"] - world(env).se[2]["vruntime_ns"]
    assert found[NAMES.index("lag")] == approximately(behind / 2 / (3_000 * US) / 4)
    change(world(env), 2, vruntime_ns=lambda v: v + behind + round(ahead_ms * 1000 * US))
    assert numbers(env)[NAMES.index("lag")] == approximately(lag)


# --- properties -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dedup-small", "dbench-small", "vips-small", "hotlock-small", "mixed-8p-4vm"])
def test_numbers_stay_in_their_range_and_vary(name):
    """Over a run of random choices; what the spinner sees of itself and of others is not constant."""
    env = DirectedYieldEnv(name, privileged=True, show_all=True, observation="flat", duration_ns=30_000 * US)
    env.reset(seed=1)
    pick, seen = any_allowed(0), []
    for _ in range(1_500):
        observed, _, _, ended, _ = env.step(pick(env.action_masks()))
        assert env.observation_space.contains(observed)
        seen.append(observed)
        if ended:
            env.reset()
    spread = np.ptp(np.array(seen), axis=0)
    rows = spread[G:].reshape(-1, F_ALL).max(axis=0)
    still = {n for n, x in zip(NAMES, spread[:G], strict=True) if x == 0}
    still |= {f"{n}[]" for n, x in zip(COLUMNS, rows, strict=True) if x == 0}
    assert still <= {"kernel_mode", "apicv", "ipi_tracking", "pending_interrupt[]", "queue", "vcpus", "blocking[]",
                     "same_pcpu[]", "idle", "ipi_to_me[]", "dy_eligible[]", "load", "ipi_from_me[]", "ipi_age[]",
                     "attempts", "tried[]"}  # fmt: skip


@many(20)
@given(scenarios(most_pcpus=4, most_vms=2), seeds, st.booleans())
def test_any_world_is_observed_in_range_without_being_touched(scenario, seed, show_all):
    """Privileged fields only come on top, and asking for them changes no course."""
    options = {"duration_ns": 1_000 * US, "show_all": show_all}
    plain, full = DirectedYieldEnv(scenario, **options), DirectedYieldEnv(scenario, privileged=True, **options)
    try:
        observed, _ = plain.reset(seed=seed)
    except ValueError:
        return
    also, _ = full.reset(seed=seed)
    pick = any_allowed(seed)
    for _ in range(40):
        rows = also[G:].reshape(-1, F_ALL)
        assert same(np.concatenate([also[:G], rows[:, :F].ravel()]), observed)
        assert plain.observation_space.contains(observed) and full.observation_space.contains(also)
        bytes_before = full.worlds.states[0][POINTERS:].tobytes()
        if not plain._ended:
            assert numbers(full).tobytes() == also.tobytes()
        assert full.worlds.states[0][POINTERS:].tobytes() == bytes_before
        if plain._ended:
            break
        action = pick(plain.action_masks())
        observed, also = plain.step(action)[0], full.step(action)[0]


def test_the_forms_hold_the_same_numbers():
    flat, table, matrix = (begun("dedup-small", max_vcpus=6, observation=form) for form in ("flat", "dict", "matrix"))
    for action in (4, 6, 6, 0, 1, 6):
        one, two, three = (env.step(action)[0] for env in (flat, table, matrix))
        columns = dict(zip(COLUMNS, one[G:].reshape(6, F).T, strict=False))
        assert same(two, {"globals": one[:G], **columns})
        assert same(three, np.concatenate([np.tile(one[:G], (6, 1)), one[G:].reshape(6, F)], axis=1))


def test_tables_are_complete():
    """A name occurs once in its table; what sees the guest is flagged, and is not there unless asked for."""
    assert len(set(NAMES)) == len(NAMES) == G and len(set(COLUMNS)) == len(COLUMNS) == F_ALL
    assert all(field.meaning.startswith("privileged: ") for field in PRIVILEGED)
    assert not any("privileged" in field.meaning for field in (*GLOBALS, *VCPU_FIELDS))
    assert begun("dedup-small").observation_space.shape == (G + 4 * F,)
    assert begun("dedup-small", privileged=True).observation_space.shape == (G + 4 * F_ALL,)
