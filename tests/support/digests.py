"""What a world is, as one hash over its named fields: never over raw bytes, whose padding and pointers mean nothing.

Run as a script it reads a JSON list of runs from standard input and prints their digests, so that a test can compare
two processes.
"""

import hashlib
import json
import sys

import numpy as np

from kvmgym.core.layout import STATE_PARTS
from kvmgym.core.memory import view
from kvmgym.measure.simulate import advance
from kvmgym.params import Scenario
from kvmgym.policies import as_policy
from kvmgym.world.blueprint import Blueprint


def digest(blueprint, row):
    """The hash of every field of every part of a world's state."""
    world = view(row, blueprint.static)
    found = hashlib.sha256()
    for part, kind in STATE_PARTS:
        array = getattr(world, part)
        for name in kind.names or ("",):
            column = array[name] if name else array
            found.update(f"{part}.{name}:{column.dtype.str}:{column.shape};".encode())
            found.update(np.ascontiguousarray(column).tobytes())
    return found.hexdigest()


def booted(scenario, policy, *seeds, trace_rows=0):
    """A blueprint of the scenario as the policy wants it, and a booted row for each seed that shows what it reads."""
    chosen = as_policy(policy)
    blueprint = Blueprint(chosen.prepare(scenario), trace_rows=trace_rows)
    rows = blueprint.worlds(seeds)
    for row in rows:
        chosen.install(view(row, blueprint.static))
    return blueprint, rows


def run(scenario, policy, seed, until_ns, trace_rows=0):
    """The digest of a world that has run to `until_ns`."""
    blueprint, (row,) = booted(scenario, policy, seed, trace_rows=trace_rows)
    advance(blueprint, row, until_ns, as_policy(policy))
    return digest(blueprint, row)


if __name__ == "__main__":
    runs = json.load(sys.stdin)
    print(json.dumps([run(Scenario.from_toml_text(text), *rest) for text, *rest in runs]))
