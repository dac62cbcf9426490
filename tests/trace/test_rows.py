"""Rows of a trace by their names."""

from stories import FAR, hold, one_lock, story, us, vm

from kvmgym.params import HostTask
from kvmgym.trace.rows import Row, decode, vcpu_names


def test_rows_name_vcpus_locks_and_results():
    """a0 takes the lock and is descheduled for the hog; a1 spins for it and yields to a0."""
    told = story(
        vm("a", (*hold("l", 5_000), FAR), (*hold("l", 10), FAR), pin=(0, 1), locks=one_lock()),
        tasks=(HostTask("hog", us(10**6), pin=0),),
    ).until(3_100)
    rows = decode(told.blueprint, told.world)
    assert rows[0] == Row(0, "a/0", "run", "p0", 0)
    assert Row(0, "a/0", "lock", "l", 0) in rows and Row(0, "a/1", "wait", "l", 0) in rows
    yields = [row for row in rows if row.kind == "yield_to"]
    assert yields and all(row.who == "a/1" and row.what == "a/0" and row.number == 0 for row in yields)
    assert {row.result for row in yields} <= {-1, 0, 1} and 1 in {row.result for row in yields}
    assert [row.what for row in rows if row.kind == "PLE"][:2] == ["2000", "4000"]  # the window that was used up [ns]
    assert vcpu_names(told.blueprint) == ["a/0", "a/1", "hog"]


def test_a_full_trace_keeps_its_first_rows():
    told = story(vm("a", (FAR,), pin=(0,)), vm("b", (FAR,), pin=(0,)), pcpus=1).until(20_000)
    whole = decode(told.blueprint, told.world)
    told.blueprint.trace_rows = 3  # as if it held three rows only
    assert len(whole) > 3 and decode(told.blueprint, told.world) == whole[:3]
