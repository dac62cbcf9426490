"""Scheduling entities to set by hand: a queue's sums follow from its entities, so they are brought along."""

from kvmgym.core.check import host
from kvmgym.core.host import entities


def plain(function):
    """A compiled function as the Python that it was made from."""
    return getattr(function, "py_func", function)


def retally(world, rq):
    """Bring load and moment of a queue up to what its entities say."""
    world.rq[rq]["load"], world.rq[rq]["moment"] = plain(host.tally)(world, rq)


def change(world, k, **fields):
    """Overwrite fields of an entity, which may be queued; a callable gets the value before."""
    se = world.se[k]
    for name, value in fields.items():
        se[name] = value(se[name]) if callable(value) else value
    if se["on_rq"]:
        retally(world, int(se["rq"]))


def give_slice(world, k, slice_ns):
    """Let an entity request a slice of its own."""
    world.ent[k]["slice_ns"] = slice_ns
    world.par[0]["one_slice"] = 0


def group_above(world, k):
    """The group entity above an entity that is or was queued in a group."""
    return int(plain(entities.owner)(world, world.se[k]["rq"]))
