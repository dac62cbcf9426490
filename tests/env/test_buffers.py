"""The bytes behind a batch: cache lines, shared tables, and that asking for memory early changes nothing."""

import numpy as np
import pytest
from episodes import any_allowed, same

from kvmgym import DirectedYieldEnv, DirectedYieldVectorEnv
from kvmgym.core import layout
from kvmgym.core.layout import LINE
from kvmgym.env import prefetch
from kvmgym.env.buffers import StaticRows, widened, zeros
from kvmgym.scenarios import BY_NAME as SCENARIOS
from kvmgym.world.blueprint import Blueprint

SMALL, LARGE = Blueprint(SCENARIOS["dedup-small"]), Blueprint(SCENARIOS["dedup-2vm"])
OTHER = Blueprint(SCENARIOS["vips-small"])


def row_of(tables, row, blueprint):
    return tables.bytes[row, : blueprint.static.size]


@pytest.mark.parametrize("rows, width", [(0, 0), (1, 64), (3, 640), (7, 6400)])
def test_rows_begin_on_cache_lines(rows, width):
    made = zeros(rows, width)
    assert made.shape == (rows, width) and made.flags.c_contiguous and not made.any()
    assert rows == 0 or made.ctypes.data % LINE == 0


@pytest.mark.parametrize("name", ["PCPU", "RQ", "SE", "VM", "VCPU", "LOCK"])
def test_records_are_whole_cache_lines(name):
    assert getattr(layout, name).itemsize % LINE == 0


def test_what_a_scan_for_a_target_reads_is_one_cache_line():
    """The mask and the policies of the kernel read these of every vCPU of a VM."""
    read = ("state", "ready", "preempted", "preempted_in_kernel", "blocking", "in_spin_loop", "dy_eligible", "pcpu",
            "ipi_pending", "ipi_receiver", "ipi_time_ns", "pending_interrupt", "tried_serial",
            "boosted_ns")  # fmt: skip
    assert {layout.VCPU.fields[name][1] // LINE for name in read} == {0}


def test_widening_keeps_what_was_there():
    old = zeros(2, 64)
    old[:] = 7
    new = widened(old, 3, 128)
    assert new.shape == (3, 128) and (new[:2, :64] == 7).all() and new.sum() == 7 * 2 * 64
    assert widened(new, 1, 1).shape == (3, 128)


def test_worlds_of_one_scenario_share_a_row_of_tables():
    tables = StaticRows()
    assert [tables.take(blueprint) for blueprint in (SMALL, LARGE, SMALL, OTHER)] == [0, 1, 0, 2]
    assert same(row_of(tables, 0, SMALL), SMALL.static) and same(row_of(tables, 1, LARGE), LARGE.static)
    tables.give_back(0)
    assert tables.take(SMALL) == 0, "one world still uses it"


def test_a_row_that_nobody_uses_is_taken_again():
    tables = StaticRows()
    first, second = tables.take(SMALL), tables.take(LARGE)
    tables.give_back(first)
    assert tables.take(OTHER) == first and tables.take(SMALL) not in (first, second)
    assert same(row_of(tables, first, OTHER), OTHER.static) and same(row_of(tables, second, LARGE), LARGE.static)


def test_a_copy_has_a_life_of_its_own():
    tables = StaticRows()
    tables.take(SMALL)
    other = tables.copy()
    tables.give_back(0)
    assert tables.take(LARGE) == 0
    assert other.take(SMALL) == 0 and same(row_of(other, 0, SMALL), SMALL.static)


def test_a_sampler_of_ever_new_scenarios_needs_no_more_tables_than_rows():
    def sampled(generator):
        return SCENARIOS[("dedup-small", "vips-small", "dbench-small", "hotlock-small")[generator.integers(4)]]

    batch = DirectedYieldVectorEnv(3, sampled, max_vcpus=4, duration_ns=2_000_000, autoreset_mode="same_step")
    batch.reset(seed=1)
    ended = 0
    for _ in range(300):
        ended += int(batch.step(batch.sample_actions())[3].sum())
    assert ended > 20 and batch.worlds.statics.bytes.shape[0] <= 4


def test_the_tables_of_a_world_are_not_to_be_written():
    batch = DirectedYieldVectorEnv(2, "dedup-small")
    batch.reset(seed=1)
    with pytest.raises(ValueError, match="read-only"):
        batch.worlds.world(0).par[0]["ple_window_ns"] = 1
    batch.worlds.world(0).host[0]["shows"] = 0


@pytest.mark.parametrize("refused", [{"world_seed": -1}, {"world_seed": "x"}, {"scenario": "dedup-96p-hogs-7vm"}])
def test_a_refused_reset_leaves_the_episode_as_it_is(refused):
    """Its state and its tables belong together."""
    env, other = (DirectedYieldEnv("dedup-small", max_vcpus=16, duration_ns=20_000_000) for _ in range(2))
    for one in (env, other):
        one.reset(seed=1)
    with pytest.raises(ValueError, match=r"world_seed|max_vcpus"):
        env.reset(options={"scenario": "dedup-2vm", **refused})
    for _ in range(30):
        one, two = env.step(0), other.step(0)
        assert same(one[0], two[0]) and one[1:4] == two[1:4]


@pytest.mark.parametrize("dealt", ["dedup-2vm", ["dedup-2vm", "dedup-small", "vips-2vm"]], ids=["alike", "mixed"])
def test_a_batch_larger_than_the_caches_is_its_singles(dealt):
    """Large enough that memory is asked for ahead of time; some rows end on the way."""
    names = [dealt] if isinstance(dealt, str) else dealt
    rows = 48
    batch = DirectedYieldVectorEnv(rows, dealt, duration_ns=3_000_000, autoreset_mode="disabled")
    seen, _ = batch.reset(seed=5)
    assert batch.worlds.states.size > prefetch.CACHED
    watched = (0, 1, 2, rows - 2, rows - 1)
    widest = batch.worlds.max_vcpus
    singles = {
        row: DirectedYieldEnv(names[row % len(names)], duration_ns=3_000_000, max_vcpus=widest) for row in watched
    }
    for row, single in singles.items():
        assert same(single.reset(seed=5 + row)[0], seen[row])
    pick, resets = any_allowed(4), 0
    for step in range(120):
        actions = np.array([pick(mask) for mask in batch.action_masks()])
        seen, rewards, _, ended, _ = batch.step(actions)
        seen, rewards, ended = seen.copy(), rewards.copy(), ended.copy()
        for row, single in singles.items():
            observed, reward, _, over, _ = single.step(int(actions[row]))
            assert same(observed, seen[row]) and reward == rewards[row] and over == ended[row], (step, row)
            if over:
                single.reset()
        if ended.any():
            resets += int(ended.sum())
            batch.reset(options={"reset_mask": ended})
    assert resets > 0
