"""Steps of many worlds, compiled: answer the open spin exit of each row, run to its next decision, write what it sees.

The one place where observation, reward and the engine meet; kvmgym.env.vector puts Gymnasium on it. A decision is an
attempt of a controlled VM's spin exit that has a possible target. Exits of other VMs are answered by a compiled policy,
exits without a possible target by "no yield"; both are passed over here. Arrays are few because each costs time at the
call.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from kvmgym.core import engine, shown
from kvmgym.core.jit import disabled, face_jit
from kvmgym.core.layout import AT_DECISION, GOING_ON, NO, NONE, YES
from kvmgym.core.memory import World, carve, span
from kvmgym.core.records import Bytes, Numbers, PolicyFunction
from kvmgym.env import observation, prefetch, reward
from kvmgym.policies import SIGNATURE

# Columns of a row's whole numbers, int64 [E, COLUMNS + 2 * (reward.SUMS + VMs)]: set by the environment (STATIC: the
# row of `statics` that has its scenario's tables; MIXED: its VMs run different programs) ...
UNTIL_NS, CONTROLLED, SHOW_ALL, KEEP_ASKING, PRIVILEGED, STATIC, MIXED = range(7)
# ... and written by a step: status (AT_*), the decision, the result of the last attempt (1, 0, -1; -2: none), time
# passed, how many actions since the reset could not be attempted
AT, VM, ME, ATTEMPT, RESULT, NOW_NS, ELAPSED_NS, OPS, MASKED, COLUMNS = range(7, 17)
NO_ATTEMPT = -2
NO_SUM = -1  # OPS where the VMs run different programs
_A_ROW = 32  # what a row counts for besides the steps of its world, as steps of engine.STEPS

_PLAIN: dict[int, Any] = {}  # policies by address when nothing is compiled


def address_of(policy: Any) -> int:
    """Where a policy's machine code is. Handing out the number is quicker than the function: numba looks at each
    argument of a call from Python, and at a function for 15 µs."""
    function = policy.engine_function
    if disabled():
        _PLAIN[id(function)] = function
        return id(function)
    return int(function.__wrapper_address__())


@intrinsic  # type: ignore[untyped-decorator]
def _function_at_compiled(typing_context: Any, address: Any) -> Any:
    """The first-class function at an address of `address_of`."""
    kind = types.FunctionType(SIGNATURE)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        function = cgutils.create_struct_proxy(kind)(context, builder)
        function.c_addr = builder.inttoptr(args[0], cgutils.voidptr_t)
        function.py_addr = cgutils.get_null_value(cgutils.voidptr_t)
        function.jit_addr = cgutils.get_null_value(cgutils.voidptr_t)
        return function._getvalue()

    return kind(types.int64), generate


_function_at: Any = _PLAIN.__getitem__ if disabled() else _function_at_compiled


@face_jit
def _is_decision(w: World, numbers: Numbers, mask: Numbers) -> bool:
    """True when the open attempt is for the agent; the mask is written."""
    if observation.write_mask(w, mask) > 0 or numbers[SHOW_ALL]:
        return True
    if numbers[KEEP_ASKING] == 0:
        return False
    vm = w.vm[w.ask[0].vm]  # a kernel policy judges for itself whether it is done
    for v in range(vm.first, vm.first + vm.vcpus):
        if w.vcpu[v].ready and v != vm.first + w.ask[0].me:
            return True
    return False


@face_jit
def _run_to_decision(w: World, numbers: Numbers, others: PolicyFunction, mask: Numbers, steps: int) -> tuple[int, int]:
    """Run one world to its next decision: AT_DECISION, AT_TIME or AT_DEADLOCK, or GOING_ON when the steps are used up;
    and the steps that are left."""
    while True:
        status, steps = engine.advance(w, numbers[UNTIL_NS], others, YES, steps)
        if status == GOING_ON:
            return status, steps
        if status != AT_DECISION:
            mask[:] = False
            mask[mask.size - 1] = True
            return status, steps
        ask = w.ask[0]
        if (numbers[CONTROLLED] >> ask.vm) & 1 == 0:
            vm = w.vm[ask.vm]
            engine.answer(w, others(vm, span(w.vcpu, vm.first, vm.vcpus), ask.me, ask))
            continue
        prefetch.seen(w)
        if _is_decision(w, numbers, mask):
            prefetch.queued(w)
            return status, steps
        engine.answer(w, NONE)


@face_jit
def _write_decision(w: World, status: int, numbers: Numbers, out: Numbers) -> None:
    """What the agent learns about the decision, or about the end."""
    ask, now = w.ask[0], w.host[0].now_ns
    numbers[AT] = status
    numbers[ELAPSED_NS] = now - numbers[NOW_NS]
    numbers[NOW_NS] = now
    ops = 0
    for g in range(w.par[0].vms):
        ops += 0 if w.vm[g].is_task else w.vm[g].ops
    numbers[OPS] = NO_SUM if numbers[MIXED] else ops
    if status == AT_DECISION:
        numbers[VM] = ask.vm
        numbers[ME] = ask.me
        numbers[ATTEMPT] = ask.attempt
        observation.write(w, out, numbers[PRIVILEGED])
    else:
        numbers[VM] = NONE
        numbers[ME] = NONE
        numbers[ATTEMPT] = 0
        out[:] = 0


@face_jit
def begin_row(state: Bytes, static: Bytes, numbers: Numbers, others: int, mask: Numbers, out: Numbers) -> None:
    """Run a booted world to its first decision. others: the address of the policy of VMs that are not controlled.
    While numbers[AT] is GOING_ON it has to be called again."""
    w = carve(state, static)
    if numbers[AT] != GOING_ON:
        numbers[NOW_NS] = w.host[0].now_ns
        numbers[RESULT] = NO_ATTEMPT
    status, _ = _run_to_decision(w, numbers, _function_at(others), mask, engine.STEPS)
    if status == GOING_ON:
        numbers[AT] = status
        return
    reward.read_sums(w, numbers[COLUMNS:], True)
    _write_decision(w, status, numbers, out)


@face_jit
def _prefetch(
    w: World, listed: Numbers, n: int, states: Bytes, statics: Bytes, actions: Numbers, rows: Numbers
) -> None:
    """Ask for what the rows after listed[n], whose world is `w`, will read: the nearer its turn, the more is known."""
    for ahead in range(1, min(4, listed.size - n)):
        row = listed[n + ahead]
        numbers = rows[row]
        if numbers[AT] != AT_DECISION:
            continue
        if ahead == 3:
            shift = (row - listed[n]) * states.shape[1]
            prefetch.head(w, shift)
            if numbers[STATIC] == rows[listed[n], STATIC]:
                prefetch.early(w, numbers[VM], shift)
            continue
        other = carve(states[row], statics[numbers[STATIC]])
        if ahead == 2:
            prefetch.late(other, numbers[VM], numbers[ME], actions[row])
        else:
            prefetch.begin(other, numbers[VM], numbers[ME], actions[row])


@face_jit
def step_rows(
    listed: Numbers,
    states: Bytes,
    statics: Bytes,
    actions: Numbers,
    others: int,
    weights: Numbers,
    masks: Numbers,
    outs: Numbers,
    rows: Numbers,
    rewards: Numbers,
) -> int:
    """Answer and run on the `listed` rows, int64 [N]; returns how many are at their end, or -1 - n when the
    steps of one call were used up with n rows done: call it again for listed[n:] (the first may be under way).

    states: uint8 [E, bytes], statics: uint8 [S, bytes]. actions: int64 [E], the VM's vCPU count or more for "no yield".
    weights: float64 [K]. Written: masks bool [E, V + 1], outs float32 [E, numbers], rows int64 (see above), rewards
    float64 [E, 1 + K]: the reward and its weighted terms. Rows are independent: threads may share the arrays with lists
    of their own."""
    ended = 0
    steps = engine.STEPS
    policy = _function_at(others)
    for n in range(listed.size):
        if steps <= 0:
            return -1 - n
        row = listed[n]
        numbers = rows[row]
        w = carve(states[row], statics[numbers[STATIC]])
        if numbers[AT] != GOING_ON:
            ask = w.ask[0]
            target = actions[row]
            if target < 0 or target >= w.vm[ask.vm].vcpus or not (masks[row, target] or numbers[KEEP_ASKING]):
                numbers[MASKED] += 0 if target == masks.shape[1] - 1 else 1
                target = NONE
            engine.answer(w, target)
            numbers[RESULT] = ask.last_result if ask.attempt > numbers[ATTEMPT] else NO_ATTEMPT
        status, steps = _run_to_decision(w, numbers, policy, masks[row], steps)
        if status == GOING_ON:
            numbers[AT] = status
            return -1 - n
        steps -= _A_ROW
        if states.size > prefetch.CACHED:  # while what the observation reads is on its way
            _prefetch(w, listed, n, states, statics, actions, rows)
        sums = reward.SUMS + w.par[0].vms
        before, after = numbers[COLUMNS : COLUMNS + sums], numbers[COLUMNS + sums : COLUMNS + 2 * sums]
        reward.read_sums(w, after, weights[reward.TERM.headline] != 0.0)
        earned = rewards[row]
        reward.write_terms(w, before, after, earned[1:])
        total = 0.0
        for k in range(weights.size):
            earned[1 + k] *= weights[k]
            total += earned[1 + k]
        earned[0] = total
        for k in range(sums):  # numba compiles `before[:] = after` for seconds: its error message formats shapes
            before[k] = after[k]
        _write_decision(w, status, numbers, outs[row])
        ended += 1 if status != AT_DECISION else 0
    return ended


@face_jit
def step_often(
    listed: Numbers,
    states: Bytes,
    statics: Bytes,
    actions: Numbers,
    others: int,
    weights: Numbers,
    masks: Numbers,
    outs: Numbers,
    rows: Numbers,
    rewards: Numbers,
    times: int,
) -> None:
    """`step_rows` with the same actions over and over: what a step costs without a call from Python, for benchmarks."""
    for _ in range(times):
        first = 0
        while True:
            ended = step_rows(listed[first:], states, statics, actions, others, weights, masks, outs, rows, rewards)
            if ended >= 0:
                break
            first += -1 - ended


@face_jit
def ask_rows(
    listed: Numbers,
    states: Bytes,
    statics: Bytes,
    rows: Numbers,
    address: int,
    shows: int,
    weights: Numbers,
    actions: Numbers,
    none: int,
) -> None:
    """What a compiled policy answers in the open exit of each listed row; `none` stands for "no yield". As in the
    engine the policy may write to its `ask` record and to dy_eligible."""
    policy = _function_at(address)
    kept = np.zeros(weights.size)
    for n in range(listed.size):
        row = listed[n]
        w = carve(states[row], statics[rows[row, STATIC]])
        ask = w.ask[0]
        if ask.open == 0:
            actions[row] = none
            continue
        if shows:
            before = w.host[0].shows
            w.host[0].shows = shows
            shown.show(w)
            w.host[0].shows = before
        for i in range(weights.size):  # the weights of the other VMs' policy come back below
            kept[i] = ask.weights[i]
            ask.weights[i] = weights[i]
        vm = w.vm[ask.vm]
        target = policy(vm, span(w.vcpu, vm.first, vm.vcpus), ask.me, ask)
        actions[row] = none if target < 0 or target >= vm.vcpus else target
        for i in range(weights.size):
            ask.weights[i] = kept[i]


@face_jit
def rollout_rows(listed: Numbers, states: Bytes, statics: Bytes, rows: Numbers, span_ns: int, address: int) -> None:
    """What the environment is measured against: the engine alone, with a compiled policy, for `span_ns` in each row."""
    policy = _function_at(address)
    for n in range(listed.size):
        row = listed[n]
        w = carve(states[row], statics[rows[row, STATIC]])
        until_ns = w.host[0].now_ns + span_ns
        while engine.advance(w, until_ns, policy, NO, engine.STEPS)[0] == GOING_ON:
            pass
