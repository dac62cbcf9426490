"""What the tests of kvmgym.params share: small workloads and scenarios, and distributions."""

import pytest
from hypothesis import strategies as st

from kvmgym.params import BarrierSpec, Compute, Dist, Host, LockSpec, QueueSpec, Role, Scenario, Vm, Workload

US = 1_000
WORK = Compute(Dist.constant(US))
LOCKS = (LockSpec("mm"), LockSpec("inode"), LockSpec("heap", kind="mutex"))
QUEUES = (QueueSpec("items", 8),)
BARRIERS = (BarrierSpec("step", spin_ns=5 * US),)
TAILED = Dist.lognormal(600, 1.0, tail_share=0.01, tail_low_ns=20_000, tail_high_ns=50_000)
SPACE = "Workload(demo).roles[0].program"
NO_TIME = f"{SPACE}: can run through in no time: every choice of branches needs a Compute or Block"

times = st.floats(0, 1e9) | st.integers(0, 10**9)
dists = st.one_of(
    times.map(Dist.constant),
    times.map(Dist.exponential),
    st.tuples(times, times).map(lambda ends: Dist.uniform(*sorted(ends))),
    st.tuples(st.floats(1, 1e9), st.floats(0, 3), st.floats(0, 1), times, times).map(
        lambda n: Dist.lognormal(*n[:3], *sorted(n[3:]))
    ),
)


def workload(*phases, name="demo", **given):
    """A workload of one role whose program is the phases."""
    return Workload(name, "", (Role("all", phases or (WORK,)),), LOCKS, QUEUES, BARRIERS, **given)


def scenario(*vms, **given):
    return Scenario("demo", Host(), vms or (Vm("a", 2, workload()),), **given)


def message(call):
    with pytest.raises(ValueError) as caught:
        call()
    return str(caught.value)
