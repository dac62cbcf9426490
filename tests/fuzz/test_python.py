"""Keyword arguments of the public classes and functions: an object or a result, or one clean error."""

from typing import Any

import numpy as np
import odd
import pytest
from fuzzing import Worker, fuzz
from hypothesis import strategies as st

from kvmgym.params import Compute, Dist, Host, Ops, Role, Scenario, Vm, Workload
from kvmgym.scenarios import BY_NAME

WORK = (Compute(Dist.constant(1000)), Ops())
ROLE = Role("all", WORK)
WORKLOAD = Workload("demo", "", (ROLE,))
SMALL = BY_NAME["shootdowns-small"]
# What can be made, with arguments that are right; each case changes some of them or adds others.
MADE: dict[str, dict[str, Any]] = {
    "Host": {"pcpus": 2}, "Costs": {}, "Ple": {}, "HaltPoll": {},
    "Vm": {"name": "a", "vcpus": 2, "workload": WORKLOAD},
    "HostTask": {"name": "t", "run": Dist.constant(1000)},
    "Scenario": {"name": "s", "host": Host(2), "vms": (Vm("a", 2, WORKLOAD),)},
    "Workload": {"name": "w", "description": "", "roles": (ROLE,)},
    "Role": {"name": "r", "program": WORK}, "LockSpec": {"name": "l"}, "QueueSpec": {"name": "q", "capacity": 1},
    "BarrierSpec": {"name": "b"}, "Burst": {}, "Rates": {}, "Compute": {"dist": Dist.constant(1)},
    "Lock": {"lock": "l"}, "Unlock": {"lock": "l"}, "Shootdown": {}, "Kick": {}, "Block": {"dist": Dist.constant(1)},
    "Barrier": {"barrier": "b"}, "Put": {"queue": "q"}, "Get": {"queue": "q"}, "Ops": {},
    "Choose": {"branches": ()}, "Branch": {"weight": 1}, "Repeat": {"times": 1, "phases": WORK},
    "Dist": {"kind": "constant", "numbers": (1,)}, "Dist.constant": {"ns": 1}, "Dist.exponential": {"mean_ns": 1},
    "Dist.uniform": {"low_ns": 1, "high_ns": 2}, "Dist.lognormal": {"median_ns": 1, "sigma": 1},
    "series": {"workload": "dedup", "vms": 2}, "guest": {"name": "g", "workload": "dedup", "vcpus": 2},
}  # fmt: skip
FIELDS: dict[str, tuple[str, ...]] = {
    "Host": ("pcpus", "hz", "slice_ns", "costs", "ple", "halt_poll", "balance", "forfeit", "yield_deboost",
    "lag_credit_scale",
             "llc_pcpus", "start", "tick_scale"),
    "Vm": ("weight", "pin", "cpus", "stream", "tasks", "lock_kind", "ipi_mode", "ipi_window_ns", "pv_spin_ns",
    "sev_es"),
    "Scenario": ("host_tasks", "description", "tag"), "HostTask": ("sleep", "weight", "pin", "cpus"),
    "Workload": ("locks", "queues", "barriers", "burst", "rates", "working_set_kib", "progress", "marks"),
    "Costs": ("exit_ns", "rewarm_share"), "Ple": ("window_ns", "grow", "shrink", "max_ns", "kernel_mode", "enabled"),
    "HaltPoll": ("max_ns", "grow", "shrink"), "LockSpec": ("count", "kind", "zipf"), "Burst": ("factor", "mean_ns",
    "unit_ns"),
    "Rates": ("kernel_share", "halts"), "Compute": ("kernel_share", "bursty"), "Branch": ("phases",),
    "Role": ("share",),
    "Ops": ("count",), "Dist": ("unit_ns",), "Lock": ("irq_off",), "Kick": ("target",), "Shootdown": ("targets",),
}  # fmt: skip
RUN = {"scenario": SMALL, "policy": "legacy", "duration_ns": 10_000, "warmup_ns": 0}
CALLED = {"simulate": {**RUN, "seed": 1}, "simulate_batch": {**RUN, "seeds": [1, 2]}}
ENVIRONMENT: dict[str, Any] = {"scenario": SMALL, "duration_ns": 1_000_000}
OPTIONS = ("scenario", "duration_ns", "observation", "reward", "max_vcpus", "controlled", "others", "privileged",
           "show_all",
           "kernel_agent", "debug", "render_mode")  # fmt: skip
BATCH = ("num_envs", "autoreset_mode", "threads", "copy", "max_episode_steps")


def changed(
    name: str, right: dict[str, Any], more: tuple[str, ...] = ()
) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    """The name with arguments of which one to three are odd."""
    names = st.sampled_from((*right, *more, "no_such_argument")) if len(more) < 3 else st.sampled_from((*right, *more))
    return st.dictionaries(names, odd.values, min_size=1, max_size=3).map(lambda some: (name, {**right, **some}))


def test_parameters(cases: Worker, pytestconfig: pytest.Config) -> None:
    made = st.one_of([changed(name, right, FIELDS.get(name, ())) for name, right in MADE.items()])
    right = [(name, given) for name, given in MADE.items() if name != "Choose"]
    digits = [
        (name, {**given, key: 10**5000}) for name, given in MADE.items() for key in (*given, *FIELDS.get(name, ()))
    ]
    fuzz(cases, "make", made, pytestconfig, 400, also=[*right, *digits])


def test_simulate(cases: Worker, pytestconfig: pytest.Config) -> None:
    called = st.one_of([changed(name, right, ("threads",)) for name, right in CALLED.items()])
    huge = [("simulate", {**RUN, "duration_ns": ns}) for ns in (float("inf"), 1e308, 2**63, 1.5, "1", None, True)]
    fuzz(cases, "call", called, pytestconfig, 100, also=[*CALLED.items(), *huge])


@st.composite
def environments(draw: st.DrawFn) -> tuple[str, dict[str, Any], dict[str, Any], Any]:
    """An environment, the arguments of its reset, and an action, of which some are odd."""
    kind = draw(st.sampled_from(("single", "vector")))
    names = OPTIONS + (BATCH if kind == "vector" else ())
    given = {**ENVIRONMENT, **({"num_envs": 2} if kind == "vector" else {})}
    given |= draw(st.dictionaries(st.sampled_from(names), odd.values, max_size=2))
    options = st.dictionaries(
        st.sampled_from(("scenario", "world_seed", "reset_mask", "nothing")), odd.values, max_size=2
    )
    reset = draw(st.fixed_dictionaries({}, optional={"seed": odd.values | st.just(1), "options": options | odd.values}))
    right = st.just(0 if kind == "single" else np.zeros(2, np.int64))
    return kind, given, reset, draw(right | right | odd.values)


def test_environments(cases: Worker, pytestconfig: pytest.Config) -> None:
    right = [("single", ENVIRONMENT, {"seed": 1}, 0), ("vector", {**ENVIRONMENT, "num_envs": 2}, {"seed": 1}, [0, 0])]
    fuzz(cases, "environment", environments(), pytestconfig, 150, also=right)


def test_a_deep_program_is_refused(cases: Worker) -> None:
    from fuzzing import fault_of

    from kvmgym.params import Branch, Choose

    phases: tuple[Any, ...] = WORK
    for _ in range(2000):
        phases = (Choose((Branch(1, phases),)),)
    with pytest.raises(ValueError, match="more than 32 repeats and choices inside each other") as refused:
        Workload("deep", "", (Role("r", phases),))
    assert fault_of(refused.value) is None
    assert isinstance(Scenario("s", Host(1), (Vm("a", 1, WORKLOAD),)), Scenario)
