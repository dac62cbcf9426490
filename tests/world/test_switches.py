"""Each word of a switch has its number in the world that is built: codes, configuration and layout are one chain."""

from dataclasses import fields, replace

import pytest

from kvmgym import codes
from kvmgym.core import layout
from kvmgym.core.memory import view
from kvmgym.params import (
    Compute,
    Dist,
    Host,
    Kick,
    Lock,
    LockSpec,
    Ple,
    Role,
    Scenario,
    Shootdown,
    Unlock,
    Vm,
    Workload,
)
from kvmgym.world.blueprint import Blueprint

# Where a switch of each class is found: the part of the world, what its fields have before their names there, or the
# column when it is called otherwise.
RECORDS = {Host: ("par", ""), Ple: ("par", "ple_"), Vm: ("vm", "")}
COLUMNS = {
    (LockSpec, "kind"): ("lock", "kind"),
    (Vm, "lock_kind"): ("lock", "kind"),
    (Shootdown, "targets"): ("phase", "a"),
    (Kick, "target"): ("phase", "a"),
}
NOT_IN_THE_WORLD = {(Host, "start")}  # decides how a world boots
CASES = [
    (kind, item.name, word, number)
    for kind in (Host, Ple, Vm, LockSpec, Shootdown, Kick)
    for item in fields(kind)
    if "words" in item.metadata and (kind, item.name) not in NOT_IN_THE_WORLD
    for word, number in item.metadata["words"].numbers.items()
]


def scenario(kind, name, word):
    """One VM of two vCPUs with one lock, a shootdown or a kick, and the word where it belongs."""

    def given(wanted, item):
        return replace(item, **{name: word}) if wanted is kind else item

    sends = given(Kick, Kick()) if kind is Kick else given(Shootdown, Shootdown())
    program = (Lock("l"), Compute(Dist.constant(1_000)), Unlock("l"), Compute(Dist.constant(1_000)), sends)
    workload = Workload("w", "", (Role("r", program),), (given(LockSpec, LockSpec("l")),))
    return Scenario("s", given(Host, Host(pcpus=2, ple=given(Ple, Ple()))), (given(Vm, Vm("a", 2, workload)),))


@pytest.mark.parametrize("kind, name, word, number", CASES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_word_has_its_number_in_the_world(kind, name, word, number):
    blueprint = Blueprint(scenario(kind, name, word))
    world = view(blueprint.state, blueprint.static)
    part, column = COLUMNS.get((kind, name)) or (RECORDS[kind][0], RECORDS[kind][1] + name)
    found = getattr(world, part)
    if part == "phase":
        found = found[found["kind"] == {Shootdown: layout.PH_SHOOTDOWN, Kick: layout.PH_KICK}[kind]]
    assert [int(value) for value in found[column]] == [int(number)]


def test_every_table_of_words_is_a_switch_of_some_field():
    used = [item.metadata["words"] for kind in (Host, Ple, Vm, LockSpec, Shootdown, Kick) for item in fields(kind)
            if "words" in item.metadata]  # fmt: skip
    tables = [table for table in vars(codes).values() if isinstance(table, codes.Words)]
    assert len(tables) >= 9 and all(any(table is one for one in used) for table in tables)


def test_numbers_of_a_switch_differ():
    for table in (table for table in vars(codes).values() if isinstance(table, codes.Words)):
        assert len(set(table.numbers.values())) == len(table) > 1


@pytest.mark.parametrize("apicv, tracked", [(False, codes.TRACK_V3), (True, codes.TRACK_OFF)])
def test_interrupt_virtualisation_ends_ipi_tracking(apicv, tracked):
    built = scenario(None, "", "")
    blueprint = Blueprint(replace(built, vms=(replace(built.vms[0], apicv=apicv, ipi_tracking="v3"),)))
    world = view(blueprint.state, blueprint.static)
    assert world.vm[0]["ipi_tracking"] == tracked and world.vm[0]["apicv"] == apicv


def test_flags_and_times_of_the_same_name_reach_the_engine():
    """Every flag and time that the configuration and the layout call the same, each away from its default."""
    host = Host(pcpus=3)
    flipped = {item.name: not item.default for item in fields(Host) if isinstance(item.default, bool)}
    costs = {item.name: 100_000 + place for place, item in enumerate(fields(host.costs)) if item.name.endswith("_ns")}
    built = scenario(None, "", "")
    host = replace(host, **flipped, costs=replace(host.costs, **costs), balance_interval_ns=123, migration_cost_ns=45)
    blueprint = Blueprint(replace(built, host=host))
    par = view(blueprint.state, blueprint.static).par[0]
    expected = {**flipped, **costs, "balance_interval_ns": 123, "migration_cost_ns": 45, "pcpus": 3}
    for name in expected:
        assert int(par[name]) == expected[name], name
