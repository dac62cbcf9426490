"""Users' own policies: what is refused before it runs fast, what is filled in, and that no old machine code runs."""

from __future__ import annotations

import inspect
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from kvmgym.core import jit, layout
from kvmgym.env.single import DirectedYieldEnv
from kvmgym.measure.replay import Flags, replay
from kvmgym.measure.simulate import simulate
from kvmgym.policies import BY_NAME, POLICIES, Policy, as_policy, checked, custom
from kvmgym.scenarios import BY_NAME as SCENARIOS
from kvmgym.world.blueprint import Blueprint

SCENARIO = SCENARIOS["dedup-small"]
TIMES = {"duration_ns": 5_000_000, "warmup_ns": 0}
FAR = 10**6


def first_ready(vm, vcpus, me, ask):
    for i in range(vcpus.size):
        if i != me and vcpus[i].ready:
            return i
    return -1


@numba.njit
def ready_of(vcpus, i):
    return vcpus[i].ready  # HERE (beyond_in_a_helper)


def outside(vm, vcpus, me, ask):
    return vcpus.size  # HERE


def below(vm, vcpus, me, ask):
    return -2  # HERE


def the_spinner(vm, vcpus, me, ask):
    if vcpus.size > 100:
        return -1
    return me  # HERE


def a_float(vm, vcpus, me, ask):
    return 1.0  # HERE


def a_flag(vm, vcpus, me, ask):
    return me == 0  # HERE


def nothing(vm, vcpus, me, ask):
    first_ready(vm, vcpus, me, ask)  # HERE


def misspelt(vm, vcpus, me, ask):
    return 1 if vcpus[0].reddy else -1  # HERE


def misspelt_written(vm, vcpus, me, ask):
    ask.curser = 1  # HERE
    return -1


def beyond(vm, vcpus, me, ask):
    return 1 if vcpus[FAR].ready else -1  # HERE


def beyond_the_weights(vm, vcpus, me, ask):
    return 1 if ask.weights[99] else -1  # HERE


def beyond_in_a_helper(vm, vcpus, me, ask):
    return 1 if ready_of(vcpus, FAR) else -1


def writes_a_flag(vm, vcpus, me, ask):
    other = 1 if me == 0 else 0
    vcpus[other].ready = 1 - vcpus[other].ready  # HERE
    return other


def writes_to_the_vm(vm, vcpus, me, ask):
    vm.last_boosted_vcpu = FAR  # HERE
    return -1


def writes_the_tries(vm, vcpus, me, ask):
    ask.tries = 99  # HERE
    return -1


def endless(vm, vcpus, me, ask):
    while True:
        me += 1  # HERE


# fmt: off
def endless_on_a_line(vm, vcpus, me, ask):
    while True: pass  # noqa: E701  # HERE
# fmt: on


def too_few_arguments(vm, vcpus, me):
    return -1


def any_arguments(*given):
    return -1


def one_more_with_a_default(vm, vcpus, me, ask, more=2):
    return -1


BAD: dict[Callable[..., Any], str] = {
    outside: r"returns 4; must be the index of another vCPU, 0 to 3, or NONE \(-1\)",
    below: r"returns -2; must be the index of another vCPU",
    the_spinner: r"returns \d, the spinner itself \(me\)",
    a_float: r"returns 1.0, a float",
    a_flag: r"returns (True|False), a bool",
    nothing: r"returns None, a NoneType",
    misspelt: r"there is no field 'reddy'; did you mean 'ready'\?",
    misspelt_written: r"there is no field 'curser'; did you mean 'cursor'\?",
    beyond: r"IndexError: index 1000000 is out of bounds for axis 0 with size 4",
    beyond_the_weights: r"IndexError: index 99 is out of bounds",
    beyond_in_a_helper: r"IndexError: index 1000000 is out of bounds for axis 0 with size 4",
    writes_a_flag: r"writes to vcpus.ready; it may write to dy_eligible",
    writes_to_the_vm: r"writes to vm.last_boosted_vcpu",
    writes_the_tries: r"writes to ask.tries",
    endless: r"does not come to an end",
    endless_on_a_line: r"does not come to an end",
    too_few_arguments: r"must take exactly four arguments, without defaults: vm, vcpus, me, ask",
    any_arguments: r"must take exactly four arguments",
    one_more_with_a_default: r"must take exactly four arguments",
}


def line_of(function: Callable[..., Any]) -> int | None:
    """The line that is marked HERE, in the function or as its helper's."""
    for number, text in enumerate(Path(__file__).read_text(encoding="utf-8").splitlines(), start=1):
        if text.endswith(f"# HERE ({function.__name__})"):
            return number
    lines, start = inspect.getsourcelines(function)
    return next((start + k for k, text in enumerate(lines) if text.rstrip().endswith("# HERE")), None)


@pytest.mark.parametrize("function", BAD, ids=lambda function: function.__name__)
def test_what_a_policy_may_not_do_is_one_error_with_name_and_line(function: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=BAD[function]) as caught:
        simulate(SCENARIO, function, **TIMES)
    message = str(caught.value)
    assert message.startswith(f"policy {function.__name__!r}, {Path(__file__).name}, line ") and "\n" not in message
    line = line_of(function) or function.__code__.co_firstlineno
    told = int(re.search(r"line (\d+):", message).group(1))  # type: ignore[union-attr]
    assert told in ((line, line - 1) if function is endless else (line,))


def test_the_environment_refuses_them_too() -> None:
    with pytest.raises(ValueError, match="policy 'outside', "):
        DirectedYieldEnv("dedup-2vm", controlled=[0], others=outside)
    env = DirectedYieldEnv("dedup-2vm", kernel_agent=True, duration_ns=5_000_000)
    env.reset(seed=1)
    with pytest.raises(ValueError, match="policy 'misspelt', "):
        env.worlds.ask(as_policy(misspelt), np.zeros(1, np.int64))


def test_a_vm_that_does_not_spin_in_the_stretch_is_checked_on_a_busy_host() -> None:
    """The mistake shows with VMs of 5 vCPUs only, and the scenario has one that never spins."""
    from kvmgym.params import Compute, Dist, Host, Ops, Role, Scenario, Vm, Workload

    calm = Workload("calm", "", (Role("main", (Compute(Dist.constant(1_000_000)), Ops())),))

    def of_five(vm, vcpus, me, ask):
        return 7 if vcpus.size == 5 else -1

    with pytest.raises(ValueError, match="policy 'of_five'.* returns 7; must be the index of another vCPU, 0 to 4"):
        simulate(Scenario("calm", Host(pcpus=2), (Vm("a", 5, calm),)), of_five, **TIMES)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_every_policy_of_the_table_keeps_to_what_it_may(policy: Policy) -> None:
    blueprint = Blueprint(policy.prepare(SCENARIO))
    shows = int(layout.SHOW_LAG * policy.needs_lag + layout.SHOW_GUEST * policy.privileged)
    checked.check_on(blueprint, checked.Checker(policy.name, policy.function), shows, policy.weights)


def test_the_checked_run_does_not_touch_the_result() -> None:
    """A copy of a policy of the table under another name gives the table's result."""
    own = custom(first_ready)
    once, again = (simulate(SCENARIO, own, seed=3, **TIMES).vms for _ in range(2))
    assert once == again and once[0].yields_ok > 0


def test_it_is_checked_once_for_each_set_of_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []
    monkeypatch.setattr("kvmgym.policies.check_on", lambda blueprint, *_: runs.append(blueprint.scenario.name))

    def counted(vm, vcpus, me, ask):
        return -1

    for name in ("dedup-small", "dedup-small", "dedup-2vm", "dedup-2vm"):
        custom(counted).check_on(Blueprint(SCENARIOS[name]))
    assert runs == ["dedup-small", "dedup-2vm"]
    BY_NAME["legacy"].check_on(Blueprint(SCENARIOS["dedup-small"]))
    assert len(runs) == 2


# --- what is filled in ----------------------------------------------------------------------------------------------


@numba.njit
def lag_of(vcpu):
    return vcpu.lag_ns


def by_lag(vm, vcpus, me, ask):
    best = -1
    for i in range(vcpus.size):
        if i != me and vcpus[i].ready and lag_of(vcpus[i]) != 0:
            best = i
    return best


def by_wait(vm, vcpus, me, ask):
    return ask.waits_for


def test_a_policy_that_reads_the_lag_has_it_filled() -> None:
    """Also when it reads it in a helper; without it every lag is 0, and it never yields."""
    assert custom(by_lag).needs_lag
    assert Policy("mine", by_lag, "-", "me", "lag", "").needs_lag
    assert not custom(first_ready).needs_lag
    assert simulate(SCENARIO, by_lag, duration_ns=50_000_000, warmup_ns=0).vms[0].yields_ok > 0


def test_a_policy_that_reads_what_no_host_sees_has_to_say_so() -> None:
    with pytest.raises(ValueError, match="policy 'by_wait' reads ask.waits_for, which no host can see"):
        simulate(SCENARIO, by_wait, **TIMES)
    assert simulate(SCENARIO, custom(by_wait, privileged=True), **TIMES).vms[0].yields_ok > 0


@pytest.mark.parametrize("given", [3, None, len, [first_ready]])
def test_what_is_no_function_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match="policy"):
        as_policy(given)  # type: ignore[arg-type]


# --- machine code ---------------------------------------------------------------------------------------------------

WANTED = 1


@numba.njit
def wanted():
    return WANTED


def wants(vm, vcpus, me, ask):
    return WANTED if me != WANTED else -1


def wants_by_helper(vm, vcpus, me, ask):
    return wanted() if me != wanted() else -1


@pytest.mark.parametrize("function", [wants, wants_by_helper], ids=lambda function: function.__name__)
def test_a_changed_global_counts_in_the_next_run(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = custom(function, "kept")
    for policy in (function, kept):
        monkeypatch.setitem(globals(), "WANTED", 1)
        assert simulate(SCENARIO, policy, **TIMES).vms[0].yields_attempted > 0
        monkeypatch.setitem(globals(), "WANTED", -1)
        assert simulate(SCENARIO, policy, **TIMES).vms[0].yields_attempted == 0


RUN = """
import own
from kvmgym.measure.replay import Flags, replay
from kvmgym.measure.simulate import simulate
from kvmgym.scenarios import BY_NAME
print(simulate(BY_NAME["dedup-small"], own.policy, duration_ns=5_000_000, warmup_ns=0).vms[0].yields_attempted > 0)
"""


@pytest.mark.skipif(jit.disabled(), reason="nothing is compiled under NUMBA_DISABLE_JIT=1")
def test_an_edited_helper_in_another_file_counts_in_the_next_process(tmp_path: Path) -> None:
    """Also behind a helper whose own cache is numba's, which knows nothing of the file that was edited."""
    files = {
        "own.py": "from middle import chosen\n\ndef policy(vm, vcpus, me, ask):\n    return chosen(me)\n",
        "middle.py": "import numba\nfrom far import offset\n\n@numba.njit(cache=True)\ndef chosen(me):\n"
        "    return offset() if me != offset() else -1\n",
        "far.py": "import numba\n\n@numba.njit(cache=True)\ndef offset():\n    return 1\n",
    }
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path]), "PYTHONDONTWRITEBYTECODE": "1"}
    printed = []
    for value in ("1", "1", "-1"):
        for name, text in files.items():
            (tmp_path / name).write_text(text.replace("return 1", f"return {value}"))
        command = [sys.executable, "-c", RUN]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        printed.append(done.stdout)
    assert printed == ["True\n", "True\n", "False\n"]


def test_policies_can_be_pickled_after_use() -> None:
    own = custom(first_ready)
    expected = simulate(SCENARIO, own, **TIMES).vms
    again = pickle.loads(pickle.dumps(own))
    assert again == own and simulate(SCENARIO, again, **TIMES).vms == expected
    table = BY_NAME["legacy"]
    table.engine_function  # noqa: B018
    assert pickle.loads(pickle.dumps(table)) is table


def test_a_replay_is_checked_too() -> None:
    flags = [Flags(), Flags(ready=True, preempted=True)]
    assert replay(first_ready, flags, me=0, results=[1, 1]).target == 1
    with pytest.raises(ValueError, match="policy 'beyond_in_a_helper', .*: IndexError: index 1000000 is out of bounds"):
        replay(beyond_in_a_helper, flags, me=0, results=[1, 1])


def test_a_function_is_one_policy_however_often_it_is_given() -> None:
    assert as_policy(first_ready) is as_policy(first_ready)
