"""A measured window begins with its counters at 0: those that the layout marks, and no others."""

from stories import FAR, hold, one_lock, story, vm

from kvmgym.core import engine, layout

TABLES = {
    "host": layout.HOST_FIELDS, "pcpu": layout.PCPU_FIELDS, "vm": layout.VM_FIELDS, "vcpu": layout.VCPU_FIELDS,
    "lock": layout.LOCK_FIELDS, "rq": layout.RQ_FIELDS, "se": layout.SE_FIELDS, "ask": layout.ASK_FIELDS,
    "gate": layout.GATE_FIELDS, "task": layout.TASK_FIELDS,
}  # fmt: skip
SETTLED = {("pcpu", "curr_since_ns"), ("pcpu", "ready_since_ns"), ("vcpu", "state_since_ns"), ("lock", "last_ns"),
           ("vm", "run_ns")}  # fmt: skip


def test_the_counters_of_a_world_begin_at_0():
    """Marked counters are 0 after a reset of a world in which they were not; what is in progress is carried over, and
    here nothing is: both vCPUs compute."""
    told = story(vm("a", (*hold("l", 1), FAR), pin=(0,), locks=one_lock()), vm("b", (FAR,), pin=(1,))).until(2_500)
    world, before = told.world, {}
    for part, fields in TABLES.items():
        for field in fields:
            if layout.meaning(field)[2]:
                getattr(world, part)[field[0]] = 7
            else:
                before[part, field[0]] = getattr(world, part)[field[0]].copy()
    engine.settle_row(told.row, told.blueprint.static, layout.YES)
    for part, fields in TABLES.items():
        for field in fields:
            found = getattr(world, part)[field[0]]
            if layout.meaning(field)[2]:
                assert (found == 0).all(), (part, field[0])
            elif (part, field[0]) not in SETTLED and field[0] != "window_since_ns":
                assert (found == before[part, field[0]]).all(), (part, field[0])
    assert world.host[0]["window_since_ns"] == 2_500_000 and not world.hist.any()


def test_what_a_window_counts_is_what_results_are_made_of():
    marked = {(part, field[0]) for part, fields in TABLES.items() for field in fields if layout.meaning(field)[2]}
    assert len(marked) == 45
    assert {("vm", "ops"), ("vcpu", "kernel_ns"), ("pcpu", "migrations"), ("lock", "contended")} <= marked
    assert not {("host", "spin_ns"), ("host", "idle_ns"), ("vm", "run_ns"), ("vcpu", "rng")} & marked
