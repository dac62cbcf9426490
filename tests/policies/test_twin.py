"""kvm_vcpu_on_spin: kvmgym's policies against the naive twin, and their compiled form against plain Python."""

import importlib.util
import random
import sys
from collections import Counter
from types import ModuleType

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twin import TWIN_POLICIES, TwinVcpu, TwinVm, on_spin

from kvmgym.core import jit, layout
from kvmgym.measure.replay import Flags, Replayed, replay
from kvmgym.policies import POLICIES, SIGNATURE

STATES = 1_000 if numba.config.DISABLE_JIT else 10_000  # of each policy
WINDOW_NS = 50_000_000


def check_against_twin(policy: str, vm: TwinVm, me: int) -> Replayed:
    """Replay one spin exit and compare everything with the twin. The twin's `vm` is as the handler leaves it."""
    given_flags = [flags_of(vcpu) for vcpu in vm.vcpus]
    got = replay(
        policy,
        given_flags,
        me=me,
        last_boosted_vcpu=vm.last_boosted_vcpu,
        yield_to_kernel_mode=vm.yield_to_kernel_mode,
        results=vm.results,
        now_ns=vm.now_ns,
        ipi_tracking=vm.ipi_tracking,
        ipi_window_ns=vm.ipi_window_ns,
        enable_relaxed_boost=vm.enable_relaxed_boost,
    )
    answer = on_spin(policy, vm, me)
    assert got == Replayed(
        attempts=tuple(answer.attempts),
        results=tuple(answer.results),
        rounds=tuple(answer.rounds),
        target=answer.target,
        last_boosted_vcpu=vm.last_boosted_vcpu,
        flags=tuple(flags_of(vcpu) for vcpu in vm.vcpus),
    )
    return got


def flags_of(vcpu: TwinVcpu) -> Flags:
    return Flags(
        ready=vcpu.ready,
        preempted=vcpu.preempted,
        preempted_in_kernel=vcpu.preempted_in_kernel,
        blocking=vcpu.blocking,
        dy_runnable=vcpu.event_request,
        pending_interrupt=vcpu.pending_interrupt,
        in_spin_loop=vcpu.in_spin_loop,
        dy_eligible=vcpu.dy_eligible,
        ipi_pending=vcpu.ipi_pending,
        ipi_receiver=vcpu.ipi_receiver,
        ipi_time_ns=vcpu.ipi_time_ns,
    )


def random_vcpu(lots: random.Random, n: int, now_ns: int) -> TwinVcpu:
    return TwinVcpu(
        ready=lots.random() < 0.8,
        preempted=lots.random() < 0.7,
        preempted_in_kernel=lots.random() < 0.5,
        blocking=lots.random() < 0.2,
        event_request=lots.random() < 0.3,
        pending_interrupt=lots.random() < 0.15,
        in_spin_loop=lots.random() < 0.4,
        dy_eligible=lots.random() < 0.5,
        ipi_pending=lots.random() < 0.7,
        ipi_receiver=lots.randrange(-1, n),
        ipi_time_ns=now_ns - lots.choice([0, 1_000, WINDOW_NS, WINDOW_NS + 1]),
    )


def random_state(lots: random.Random) -> tuple[TwinVm, int]:
    n = lots.choice([1, 2, 3, 4, 5, 6, 8, 12, 16])
    now_ns = lots.randrange(WINDOW_NS + 1, 10 * WINDOW_NS)
    weights = lots.choice([(1, 2, 4), (0, 1, 5), (1, 1, 1)])  # success, busy, -ESRCH
    vm = TwinVm(
        vcpus=[random_vcpu(lots, n, now_ns) for _ in range(n)],
        results=lots.choices([1, 0, -1], weights, k=n),
        last_boosted_vcpu=lots.randrange(n),
        yield_to_kernel_mode=lots.random() < 0.7,
        enable_relaxed_boost=lots.random() < 0.8,
        ipi_tracking=lots.random() < 0.7,
        ipi_window_ns=WINDOW_NS,
        now_ns=now_ns,
    )
    return vm, lots.randrange(n)


@pytest.mark.parametrize("policy", TWIN_POLICIES)
def test_policies_do_what_the_twin_does(policy: str) -> None:
    lots = random.Random(f"twin {policy}")
    seen: Counter[str] = Counter()
    for _ in range(STATES):
        got = check_against_twin(policy, *random_state(lots))
        in_round = Counter(got.rounds)
        esrch_first = sum(result < 0 for result, number in zip(got.results, got.rounds, strict=True) if number == 1)
        esrch_second = sum(result < 0 for result, number in zip(got.results, got.rounds, strict=True) if number == 2)
        seen["no attempt"] += not got.attempts
        seen["success"] += got.target is not None
        seen["tries used up"] += esrch_first == 3
        seen["second round"] += in_round[2] > 0
        seen["negative tries"] += esrch_first == 3 and esrch_second >= 2
        seen["the same target twice"] += len(set(got.attempts)) < len(got.attempts)
    # the sample is worth something: every kind of course occurs often
    kinds = {"no attempt", "success", "tries used up"}
    if policy == "relaxed":
        kinds |= {"second round", "negative tries", "the same target twice"}
    assert {kind for kind, times in seen.items() if times >= STATES // 100} == kinds


def test_2021_decides_as_legacy_and_the_years_differ() -> None:
    """On random states; how often the decision of a year is not that of the year before."""
    lots = random.Random("years")
    years = ("2011", "2012", "2017", "2019", "2021", "legacy")
    changed: Counter[str] = Counter()
    for _ in range(STATES // 5):
        vm, me = random_state(lots)
        given_state = {"last_boosted_vcpu": vm.last_boosted_vcpu, "yield_to_kernel_mode": vm.yield_to_kernel_mode}
        flags = [flags_of(vcpu) for vcpu in vm.vcpus]
        answers = [replay(year, flags, me=me, results=vm.results, **given_state) for year in years]
        for before, after, year in zip(answers[:-1], answers[1:], years[1:], strict=True):
            changed[year] += before != after
    assert changed["legacy"] == 0
    assert all(changed[year] >= STATES // 5 // 20 for year in years[1:-1])


def vcpus_strategy(n: int) -> st.SearchStrategy[list[TwinVcpu]]:
    flag = st.booleans()
    vcpu = st.builds(
        TwinVcpu,
        ready=flag,
        preempted=flag,
        preempted_in_kernel=flag,
        blocking=flag,
        event_request=flag,
        pending_interrupt=flag,
        in_spin_loop=flag,
        dy_eligible=flag,
        ipi_pending=flag,
        ipi_receiver=st.integers(-1, n - 1),
        ipi_time_ns=st.integers(0, 3),
    )
    return st.lists(vcpu, min_size=n, max_size=n)


@st.composite
def states(draw: st.DrawFn) -> tuple[TwinVm, int]:
    n = draw(st.integers(1, 6))
    vm = TwinVm(
        vcpus=draw(vcpus_strategy(n)),
        results=draw(st.lists(st.sampled_from([1, 0, -1]), min_size=n, max_size=n)),
        last_boosted_vcpu=draw(st.integers(0, n - 1)),
        yield_to_kernel_mode=draw(st.booleans()),
        enable_relaxed_boost=draw(st.booleans()),
        ipi_tracking=draw(st.booleans()),
        ipi_window_ns=draw(st.integers(0, 3)),
        now_ns=3,
    )
    return vm, draw(st.integers(0, n - 1))


@pytest.mark.parametrize("policy", TWIN_POLICIES)
@settings(max_examples=300)
@given(state=states())
def test_smallest_difference_from_the_twin(policy: str, state: tuple[TwinVm, int]) -> None:
    """The same comparison under Hypothesis, which shrinks a difference to the smallest state that shows it."""
    check_against_twin(policy, *state)


def test_a_spinner_may_be_asked_about_again_and_again() -> None:
    """Exits that follow one another: the flags that one leaves behind are what the next one meets."""
    lots = random.Random("a run of exits")
    for policy in TWIN_POLICIES:
        vm, _ = random_state(lots)
        n = len(vm.vcpus)
        for _ in range(50):
            vm.results = [lots.choice([1, 0, -1]) for _ in range(n)]
            check_against_twin(policy, vm, lots.randrange(n))


# --- compiled against plain -----------------------------------------------------------------------------------------


def plain_functions() -> dict[str, object]:
    """Every policy as plain Python, helpers included: its module loaded again with a `jit` that compiles nothing, and
    with the modules loaded so far in the place of the compiled ones."""
    modules: dict[str, ModuleType] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jit, "jit", lambda function: function)
        for name in dict.fromkeys(policy.function.__module__ for policy in POLICIES):
            spec = importlib.util.find_spec(name)
            assert spec is not None and spec.loader is not None
            modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(modules[name])
            patch.setitem(sys.modules, name, modules[name])
    assert not any(hasattr(part, "py_func") for module in modules.values() for part in vars(module).values())
    return {policy.name: getattr(modules[policy.function.__module__], policy.function.__name__) for policy in POLICIES}


@numba.njit
def _call(policy, vm, vcpus, me, ask):
    """Call a policy as the engine does: through the address of its compiled form."""
    return policy(vm, vcpus, me, ask)


def random_records(lots: random.Random) -> tuple[np.ndarray, np.ndarray, int, np.ndarray]:
    """[1] VM, [n] VCPU, me, [1] ASK: whatever a policy could meet in the middle of an exit."""
    state, me = random_state(lots)
    n = len(state.vcpus)
    vm, vcpus, ask = np.zeros(1, layout.VM), np.zeros(n, layout.VCPU), np.zeros(1, layout.ASK)
    vm["vcpus"], vm["last_boosted_vcpu"] = n, state.last_boosted_vcpu
    vm["enable_relaxed_boost"], vm["ipi_tracking"] = state.enable_relaxed_boost, lots.randrange(3)
    vm["ipi_window_ns"] = WINDOW_NS
    vcpus["idx"] = np.arange(n)
    for i, vcpu in enumerate(state.vcpus):
        flags = flags_of(vcpu)
        for name in Flags.__dataclass_fields__:
            vcpus[name][i] = getattr(flags, name)
    for name in ("ready_since_ns", "last_ran_ns", "boosted_ns"):
        vcpus[name] = [state.now_ns - lots.choice([0, 1_000, 3_000_000, WINDOW_NS]) for _ in range(n)]
    vcpus["lag_ns"] = [lots.choice([-WINDOW_NS, -1, 0, 0, 700_000, WINDOW_NS]) for _ in range(n)]
    vcpus["pcpu"] = [lots.randrange(2) for _ in range(n)]
    vcpus["tried_serial"] = [lots.randrange(3) for _ in range(n)]
    ask["now_ns"], ask["serial"], ask["me"], ask["open"] = state.now_ns, lots.randrange(3), me, 1
    ask["attempt"], ask["last_result"] = lots.randrange(4), lots.choice([1, 0, -1])
    ask["tries"], ask["scan_round"] = lots.randrange(-2, 4), lots.choice([1, 2])
    ask["start"], ask["cursor"], ask["mark"] = lots.randrange(n + 1), lots.randrange(n + 1), layout.NONE
    ask["yield_to_kernel_mode"] = state.yield_to_kernel_mode
    ask["waits_for"] = lots.randrange(-1, n)
    ask["weights"] = [[lots.choice([-1.5, 0.0, 0.1, 1.0, 3.0]) for _ in range(layout.WEIGHTS)]]
    return vm, vcpus, me, ask


def values_of(records: np.ndarray) -> dict[str, list[object]]:
    """Every field as plain numbers."""
    return {name: records[name].tolist() for name in records.dtype.names}


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled under NUMBA_DISABLE_JIT=1")
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_compiled_policy_agrees_with_its_python_function(policy) -> None:
    """What the engine calls and the Python source return the same index and leave the same bits, call after call."""
    plain = plain_functions()[policy.name]
    lots = random.Random(f"compiled {policy.name}")
    indices = set()
    for _ in range(2_000):
        given_records = random_records(lots)
        outcomes = []
        for call in (plain, lambda *records: _call(policy.engine_function, *records)):
            vm, vcpus, me, ask = (np.copy(part) if isinstance(part, np.ndarray) else part for part in given_records)
            with np.errstate(over="ignore"):  # a lot wraps on purpose
                index = int(call(vm[0], vcpus, me, ask[0]))
            outcomes.append((index, *map(values_of, (vm, vcpus, ask))))
        assert outcomes[0] == outcomes[1]
        indices.add(outcomes[0][0])
    assert indices == {-1} if policy.name == "none" else len(indices) > 10


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled under NUMBA_DISABLE_JIT=1")
def test_every_policy_has_the_one_signature() -> None:
    assert {policy.engine_function.signature() for policy in POLICIES} == {SIGNATURE}
