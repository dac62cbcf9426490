"""Golden trajectories: runs that carry their own scenario, and what came out of them when somebody last agreed with it.

`python tests/support/golden.py` writes tests/core/golden/*.json anew. A change of the model changes them: look at the
difference, say in the changelog why results moved, and commit both.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from examples import EXAMPLES, KERNEL_EXAMPLES
from stories import ROWS, Story

from kvmgym.core.layout import TRACE
from kvmgym.params import KERNELS, Scenario

FOLDER = Path(__file__).parents[1] / "core" / "golden"
FIRST_ROWS = 40
RUNS = (  # example, policy, seed, duration in ns: each fills most of the trace
    ("mixed", "legacy", 1, 3_000_000),
    ("mixed", "relaxed", 2, 3_000_000),
    ("crowded", "random", 3, 2_000_000),
    ("crowded", "strict", 4, 2_000_000),
    ("wide", "relaxed", 5, 1_200_000),
    ("wide", "legacy-i-bug", 6, 1_200_000),
    ("old_kernel", "none", 7, 12_000_000),
    ("paravirtual", "relaxed", 8, 3_000_000),
    ("tasked", "legacy", 9, 8_000_000),
    *((f"mixed_on_{name}", kernel.on_spin, 10, 3_000_000) for name, kernel in KERNELS.items()),
)
COUNTED = {
    "host": ("events", "decisions"),
    "pcpu": ("switches", "migrations", "idle_ns", "overhead_ns"),
    "vm": ("ops", "ple_exits", "yields_attempted", "yields_ok", "relaxed_ok", "lock_acquires", "mutex_acquires",
           "shootdowns", "kicks", "halts", "wakeups", "preemptions", "named_attempted", "named_ok", "polls", "polls_ok",
           "flags_left", "guest_switches"),
    "vcpu": ("run_ns", "ready_ns", "blocked_ns", "spin_ns"),
}  # fmt: skip


def record(text, policy, seed, duration_ns):
    """What a run of the scenario in TOML `text` comes to: counters, the digest of its trace, and its first rows."""
    story = Story(Scenario.from_toml_text(text), policy, seed).until(duration_ns / 1000)
    world = story.world
    length = int(world.host[0]["trace_len"])
    assert length <= ROWS, f"{length} rows do not fit the trace"
    columns = [np.ascontiguousarray(world.trace[name][:length]) for name in TRACE.names]
    counters = {
        part: {name: int(getattr(world, part)[name].sum()) for name in names} for part, names in COUNTED.items()
    }
    return {
        "trace_rows": length,
        "trace_sha256": hashlib.sha256(b"".join(column.tobytes() for column in columns)).hexdigest(),
        "counters": counters,
        "first_rows": story.tell()[:FIRST_ROWS],
    }


def update(*names):
    """Write every golden file, or those of the examples named."""
    FOLDER.mkdir(exist_ok=True)
    for name, policy, seed, duration_ns in RUNS if not names else [run for run in RUNS if run[0] in names]:
        text = {**EXAMPLES, **KERNEL_EXAMPLES}[name].to_toml()
        run = {"policy": policy, "seed": seed, "duration_ns": duration_ns, **record(text, policy, seed, duration_ns)}
        content = json.dumps({**run, "scenario": text.splitlines()}, indent=1) + "\n"
        (FOLDER / f"{name}-{policy}.json").write_text(content, encoding="utf-8")
        print(f"{name}-{policy}: {run['trace_rows']} rows")


if __name__ == "__main__":
    update(*sys.argv[1:])
