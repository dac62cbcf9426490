"""kvmgym.params: scaling, and TOML round trips and messages."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paramdata import BARRIERS, NO_TIME, QUEUES, SPACE, TAILED, WORK, dists, message, scenario, workload

from kvmgym.params import (
    DEBOOSTS,
    KERNEL_MODES,
    Barrier,
    BarrierSpec,
    Block,
    Branch,
    Burst,
    Choose,
    Compute,
    Costs,
    Dist,
    Get,
    HaltPoll,
    Host,
    HostTask,
    Kick,
    Lock,
    LockSpec,
    Ops,
    Ple,
    Put,
    Rates,
    Repeat,
    Role,
    Scenario,
    Shootdown,
    Unlock,
    Vm,
    Workload,
)
from kvmgym.params.dist import scale_times

# --- scaling --------------------------------------------------------------------------------------------------------


def rich_scenario():
    """A scenario that uses every kind of phase and most fields."""
    stage = (
        Compute(Dist.exponential(3_000), kernel_share=0.3, bursty=True),
        Lock("mm", irq_off=True),
        Compute(TAILED),
        Unlock("mm"),
        Choose((Branch(0.25, (Shootdown("busy"), Kick("next"))), Branch(0.75, (Block(Dist.uniform(1, 2.5)),)))),
        Repeat(3, (Put("items"), Ops(2))),
    )
    sink = (Get("items"), Lock("heap"), WORK, Unlock("heap"), Barrier("step"), Ops())
    pipe = Workload(
        "pipe",
        'Stages "in" and "out"\n\twith a µ, a \\ and a \x7f',
        (Role("in", stage, 0.75), Role("out", sink, 0.25)),
        (LockSpec("mm", 6, "fifo", 0.5), LockSpec("heap", kind="mutex")),
        QUEUES,
        BARRIERS,
        working_set_kib=4096,
        burst=Burst(),
        progress="chunks",
        rates=Rates(0.3, 15_000, 10_700, 600, 400, 110),
        marks="A",
        source="made up",
    )
    vms = (
        Vm("a", 4, pipe, pin=(0, 1, 2, 3), stream=7),
        Vm(
            "b",
            2,
            workload(),
            512,
            cpus=(0, 2),
            lock_kind="pvq",
            ipi_mode="pv",
            ipi_tracking="off",
            pv_kick_yields=False,
            pv_tlb_flush=True,
            pv_sched_yield=True,
            apicv=True,
            sev_es=True,
        ),
        Vm("c", 4, pipe, enable_relaxed_boost=False, ipi_window_ns=1, pv_spin_ns=0),
        Vm("d", 1, Workload("sleepy", "", (Role("all", (Block(WORK.dist),)),)), tasks=5),
    )
    tasks = (
        HostTask("hog", Dist.constant(5_000_000), cpus=[3, 1, 3]),
        HostTask("cron", WORK.dist, Dist.exponential(10**7), 2, pin=3),
    )
    host = Host(
        8,
        250,
        costs=Costs(exit_ns=600, rewarm_share=0.1),
        ple=Ple(grow=1, user_exits=True, kernel_mode="ring0", names_holder=True),
        halt_poll=HaltPoll(200_000, 3, 5_000, 0),
        next_buddy=True,
        forfeit="none",
        yield_deboost="v3",
        lag_credit_scale=0.5,
        lag_credit_across=True,
    )
    return Scenario("rich", host, vms, tasks, "All of it.", "test")


def flat_times(value, path=""):
    """Every number of a parameter object that is a time in ns, by path."""
    if isinstance(value, Dist):
        return {f"{path}.mean": value.mean_ns}
    if isinstance(value, Burst):
        return {f"{path}.mean": value.dist.mean_ns}
    if isinstance(value, tuple):
        return {
            key: time for place, item in enumerate(value) for key, time in flat_times(item, f"{path}[{place}]").items()
        }
    if not dataclasses.is_dataclass(value):
        return {path: value} if "_ns" in path.rsplit(".", 1)[-1] and value is not None else {}
    derived = {f"{path}.slice": value.base_slice_ns, f"{path}.tick": value.tick_ns} if isinstance(value, Host) else {}
    names = [item.name for item in dataclasses.fields(value) if item.name != "slice_ns"]
    return derived | {
        key: time for name in names for key, time in flat_times(getattr(value, name), f"{path}.{name}").items()
    }


def test_scaled_multiplies_every_time_and_nothing_else():
    plain = rich_scenario()
    scaled = plain.scaled(3)
    before, after = flat_times(plain), flat_times(scaled)
    assert len(before) == 50 and ".host.costs.rewarm_ns_at_1mib" in before and ".vms[2].ipi_window_ns" in before
    assert (
        before[".host.halt_poll.grow_start_ns"] == 5_000 and ".vms[3].workload.roles[0].program[0].dist.mean" in before
    )
    assert after == pytest.approx({key: 3 * time for key, time in before.items()})
    assert scaled.vms[0].workload.rates == Rates(0.3, 5_000, 10_700 / 3, 200, 400 / 3, 110 / 3)
    assert (scaled.host.pcpus, scaled.host.hz, scaled.host.costs.rewarm_share) == (8, 250, 0.1)
    assert (scaled.host.lag_credit_scale, scaled.host.halt_poll.grow, scaled.vms[3].tasks) == (0.5, 3, 5)
    assert scaled.vms[0].workload.roles[0].program[1:2] == plain.vms[0].workload.roles[0].program[1:2]
    assert scaled.vms[1].weight == 512 and scaled.vms[0].pin == (0, 1, 2, 3)
    assert plain.scaled(2).scaled(3) == plain.scaled(6)
    assert scale_times(plain.host, 1) == dataclasses.replace(plain.host, slice_ns=2_800_000)


def test_streams_default_to_the_index():
    assert rich_scenario().streams == (7, 1, 2, 3)
    assert rich_scenario().vcpus == 11
    assert list(rich_scenario().workloads) == ["pipe", "demo", "sleepy"]


# --- TOML -----------------------------------------------------------------------------------------------------------


def test_toml_is_readable():
    text = Scenario("two", Host(4), (Vm("a", 2, workload(WORK, Ops())),), (HostTask("hog", WORK.dist),)).to_toml()
    assert (
        text
        == """\
name = "two"

[host]
pcpus = 4

[[vm]]
name = "a"
vcpus = 2
workload = "demo"

[[host_task]]
name = "hog"
run = { kind = "constant", ns = 1_000 }

[[workload]]
name = "demo"
description = ""

[[workload.role]]
name = "all"
program = [
  { kind = "compute", dist = { kind = "constant", ns = 1_000 } },
  { kind = "ops" },
]

[[workload.lock]]
name = "mm"

[[workload.lock]]
name = "inode"

[[workload.lock]]
name = "heap"
kind = "mutex"

[[workload.queue]]
name = "items"
capacity = 8

[[workload.barrier]]
name = "step"
spin_ns = 5_000
"""
    )


def test_a_long_array_has_one_item_a_line():
    made = scenario(Vm("a", 40, workload(), pin=tuple(range(10)) * 4))
    text = made.to_toml()
    assert "pin = [\n  0,\n  1,\n" in text and max(map(len, text.splitlines())) <= 100
    assert Scenario.from_toml_text(text) == made


def test_known_workloads_are_written_by_name_only():
    text = scenario().to_toml(known=[workload()])
    assert text == 'name = "demo"\n\n[host]\n\n[[vm]]\nname = "a"\nvcpus = 2\nworkload = "demo"\n'
    assert Scenario.from_toml_text(text, {"demo": workload()}) == scenario()
    assert "[[workload]]" in scenario().to_toml(known=[workload(WORK, WORK)])


@pytest.mark.parametrize("factor", [1, 7])
def test_a_rich_scenario_survives_a_file(tmp_path, factor):
    made = rich_scenario() if factor == 1 else rich_scenario().scaled(factor)
    path = tmp_path / "rich.toml"
    path.write_text(made.to_toml(), encoding="utf-8")
    assert Scenario.from_toml(path) == made
    assert Scenario.from_toml(str(path), {"pipe": workload(name="pipe")}) == made  # the file's own tables win


def test_reading_accepts_fields_at_their_default():
    text = """
    name = "s"
    host_task = []
    [host]
    hz = 1000
    costs = { exit_ns = 500, rewarm_share = 0.125 }
    ple.enabled = true
    [[vm]]
    name = "a"
    vcpus = 2
    workload = "demo"
    weight = 1024
    pin = [0, 1]
    """
    assert Scenario.from_toml_text(text, {"demo": workload()}) == Scenario(
        "s", Host(), (Vm("a", 2, workload(), pin=(0, 1)),)
    )


GOOD = {"name": '"s"', "host": "{ pcpus = 4 }", "vm": '[{ name = "a", vcpus = 2, workload = "demo" }]'}
TASK = '[{{ name = "t", run = {} }}]'
LOAD = '[{{ name = "own", description = "", role = [{{ name = "r", program = [{}] }}] }}]'
KINDS = "constant, exponential, uniform, lognormal"
CONSTANT = '{ kind = "constant", ns = 5 }'
TOML_ERRORS = [
    ({"host": "{ pcpu = 4 }"}, 'unknown key "host.pcpu": did you mean "pcpus"? allowed: pcpus, hz, slice_ns, costs, '),
    (
        {"hosts": "1"},
        'unknown key "hosts": did you mean "host"? '
        "allowed: name, host, vm, host_task, description, tag, episode_ns, workload",
    ),
    ({"host": "{ costs = { exit = 1 } }"}, 'unknown key "host.costs.exit": did you mean "exit_ns"? allowed: exit_ns, '),
    ({"host": "{ pcpus = 0 }"}, "host: Host.pcpus = 0: must be 1 to 512"),
    ({"host": '{ pcpus = "4" }'}, "host.pcpus = '4': must be an integer"),
    ({"host": "{ pcpus = true }"}, "host.pcpus = True: must be an integer"),
    ({"host": "{ balance = 1 }"}, "host.balance = 1: must be true or false"),
    ({"host": "{ forfeit = 6.19 }"}, "host.forfeit = 6.19: must be a string"),
    ({"host": '{ costs = { rewarm_share = "x" } }'}, "host.costs.rewarm_share = 'x': must be a number"),
    ({"host": "3"}, "host = 3: must be a table"),
    ({"host": None}, "host: this key is missing"),
    ({"vm": '[{ name = "a", vcpus = 2 }]'}, "vm[0].workload: this key is missing"),
    ({"vm": "3"}, "vm = 3: must be an array"),
    ({"vm": "[]"}, "Scenario.vms = (): must be at least one Vm"),
    (
        {"vm": '[{ name = "a", vcpus = 2, workload = "demoo" }]'},
        'vm[0].workload: unknown workload "demoo": did you mean "demo"? allowed: demo',
    ),
    ({"vm": '[{ name = "a", vcpus = 2, workload = 4 }]'}, "vm[0].workload = 4: must be a string"),
    (
        {"vm": '[{ name = "a", vcpus = 2, workload = "demo", pin = [0, 1.5] }]'},
        "vm[0].pin[1] = 1.5: must be an integer",
    ),
    (
        {"vm": '[{ name = "a", vcpus = 2, workload = "demo", pin = [0, 4] }]'},
        "Scenario.vms[0].pin = (0, 4): must be 0 to 3 (Host.pcpus = 4)",
    ),
    (
        {"host_task": TASK.format("5")},
        'host_task[0].run = 5: must be a table with a "kind" of constant, exponential, uniform, lognormal',
    ),
    (
        {"host_task": TASK.format('{ kind = "const" }')},
        f'host_task[0].run: unknown kind "const": did you mean "constant"? allowed: {KINDS}',
    ),
    (
        {"host_task": TASK.format('{ kind = "constant", mean_ns = 5 }')},
        'unknown key "host_task[0].run.mean_ns": allowed: ns, unit_ns',
    ),
    ({"host_task": TASK.format('{ kind = "constant" }')}, "host_task[0].run.ns: this key is missing"),
    (
        {"host_task": TASK.format('{ kind = "constant", ns = -5 }')},
        "host_task[0].run: Dist.ns = -5: must be 0 to 1e+15",
    ),
    ({"host_task": TASK.format('{ kind = "constant", ns = "x" }')}, "host_task[0].run.ns = 'x': must be a number"),
    (
        {"host_task": TASK.format('{ kind = "constant", ns = 1, unit_ns = 0.5 }')},
        "host_task[0].run.unit_ns = 0.5: must be an integer",
    ),
    ({"workload": "3"}, "workload = 3: must be an array"),
    (
        {"workload": LOAD.format('{ kind = "sleep" }')},
        'workload[0].role[0].program[0]: unknown kind "sleep": allowed: compute, lock, unlock, shootdown, kick, block, '
        "barrier, put, get, ops, choose, repeat",
    ),
    (
        {"workload": LOAD.format('{ kind = "ops", n = 1 }')},
        'unknown key "workload[0].role[0].program[0].n": allowed: count',
    ),
    (
        {"workload": LOAD.format('{ kind = "ops" }')},
        NO_TIME.replace(SPACE, "workload[0]: Workload(own).roles[0].program"),
    ),
    (
        {"workload": LOAD.format(f'{{ kind = "compute", dist = {CONSTANT} }}, {{ kind = "lock", lock = "mm" }}')},
        'workload[0]: Workload(own).roles[0].program[1].lock: unknown lock "mm": there are none',
    ),
    (
        {"workload": LOAD.format('{ kind = "repeat", times = 0, phases = [] }')},
        "workload[0].role[0].program[0]: Repeat.times = 0: must be 1 to 1000000000",
    ),
]


def toml_of(changes):
    return "\n".join(f"{key} = {value}" for key, value in (GOOD | changes).items() if value is not None)


@pytest.mark.parametrize("changes, expected", TOML_ERRORS, ids=[text for _, text in TOML_ERRORS])
def test_a_bad_file_is_named_with_key_and_what_is_allowed(changes, expected):
    found = message(lambda: Scenario.from_toml_text(toml_of(changes), {"demo": workload()}, "my.toml"))
    assert found.startswith(f"my.toml: {expected}")
    assert expected.endswith(", ") or found == f"my.toml: {expected}"


def test_files_that_are_no_toml_are_named(tmp_path):
    assert message(lambda: Scenario.from_toml_text("name =", file="my.toml")).startswith("my.toml: not TOML: ")
    path = tmp_path / "latin.toml"
    path.write_bytes(b'name = "\xe9"')
    assert message(lambda: Scenario.from_toml(path)).startswith(f"{path}: not UTF-8: ")
    with pytest.raises(FileNotFoundError):
        Scenario.from_toml(tmp_path / "none.toml")
    one = LOAD.format(f'{{ kind = "compute", dist = {CONSTANT} }}')[1:-1]
    twice = toml_of({"workload": f"[{one}, {one}]"})
    assert message(lambda: Scenario.from_toml_text(twice)) == '<text>: workload[1].name: "own" is used twice'


# Hypothesis: any scenario the classes accept comes back equal from its TOML.

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(
    lambda text: text.isprintable() and text == text.strip()
)
texts = st.text(st.characters(codec="utf-8"), max_size=20)
busy = st.floats(1, 1e9).map(Dist.exponential)
simple = st.one_of(
    st.builds(Compute, dists, st.floats(0, 1)),
    st.builds(Compute, busy, st.floats(0, 1), st.booleans()),
    st.builds(Block, dists),
    st.builds(Shootdown, st.sampled_from(("others", "busy", "one"))),
    st.builds(Kick, st.sampled_from(("random", "next", "prev"))),
    st.builds(Ops, st.integers(0, 10**9)),
    st.just(Barrier("step")),
)


def bodies(inner, most=3):
    return st.lists(inner, min_size=1, max_size=most).map(tuple)


choices = st.builds(Choose, bodies(st.builds(Branch, st.floats(0.001, 1e6), st.lists(simple, max_size=2).map(tuple))))
repeats = st.builds(  # with a phase that takes time: what repeats often may not stand still
    lambda times, start, phases: Repeat(times, (Compute(start), *phases)),
    st.integers(1, 10**9), busy, bodies(simple | choices),
)  # fmt: skip
locked = st.builds(lambda dist: (Lock("mm"), Compute(dist), Unlock("mm")), dists)
programs = st.builds(
    lambda start, phases, tail: (Compute(start), *phases, *tail), busy, bodies(simple | choices | repeats), locked
)


@st.composite
def workloads(draw):
    roles = tuple(
        Role(f"r{place}", program, draw(st.floats(0.01, 9))) for place, program in enumerate(draw(bodies(programs)))
    )
    lock = LockSpec(
        "mm", draw(st.integers(1, 64)), draw(st.sampled_from(("tas", "fifo", "pvq"))), draw(st.floats(0, 3))
    )
    return Workload(
        draw(names),
        draw(texts),
        roles,
        (lock,),
        (),
        (BarrierSpec("step", draw(st.just(0) | st.integers(0, 10**9))),),
        working_set_kib=draw(st.integers(0, 10**6)),
        burst=draw(st.none() | st.builds(Burst, st.floats(1, 100), st.integers(10**8, 10**9))),
        rates=draw(st.none() | st.builds(Rates, st.floats(0, 1), st.floats(0, 1e9))),
        source=draw(texts),
    )


hosts = st.builds(
    Host,
    pcpus=st.integers(4, 512),
    hz=st.sampled_from((100, 250, 300, 1000)),
    slice_ns=st.none() | st.integers(1, 10**9),
    costs=st.builds(Costs, exit_ns=st.integers(0, 10**6), rewarm_share=st.floats(0, 1)),
    ple=st.builds(
        Ple, st.booleans(), st.integers(1, 10**6), st.integers(0, 4), kernel_mode=st.sampled_from(KERNEL_MODES)
    ),
    halt_poll=st.builds(HaltPoll, st.integers(0, 10**9), st.integers(0, 4), st.integers(1, 10**6)),
    yield_deboost=st.sampled_from(DEBOOSTS),
    lag_credit_scale=st.floats(0, 4),
    balance=st.booleans(),
)


@st.composite
def scenarios(draw):
    load = draw(workloads())
    vms = []
    for name in draw(st.lists(names, min_size=1, max_size=3, unique=True)):
        vcpus = draw(st.integers(1, 8))
        pin = draw(st.none() | st.lists(st.integers(0, 3), min_size=vcpus, max_size=vcpus).map(tuple))
        tasks = draw(st.none() | st.integers(vcpus, 20)) if load.barriers[0].spin_ns == 0 else None
        vms.append(Vm(name, vcpus, load, draw(st.integers(2, 262_144)), pin, apicv=draw(st.booleans()), tasks=tasks))
    return Scenario(draw(names), draw(hosts), tuple(vms), description=draw(texts))


@given(scenarios(), st.integers(1, 5))
def test_toml_gives_every_scenario_back(made, factor):
    assert Scenario.from_toml_text(made.to_toml()) == made
    scaled = made.scaled(factor)
    assert Scenario.from_toml_text(scaled.to_toml()) == scaled
