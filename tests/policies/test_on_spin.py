"""kvm_vcpu_on_spin rule by rule: the scan, its rules (a) to (e), eligibility, tries, rounds. Expectations by hand.

Each test names its rule of the kernel; the numbers of consequences follow the list in docs on the kernel's behaviour.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from kvmgym.measure.replay import Flags, replay

RUNNING = Flags()
KERNEL = Flags(ready=True, preempted=True, preempted_in_kernel=True)  # preempted in ring 0
USER = Flags(ready=True, preempted=True)  # preempted in user mode
WOKEN = Flags(ready=True)  # woken, has not run yet
SPINNER = replace(KERNEL, in_spin_loop=True)  # descheduled within its own spin exit
SERIES = ("strict", "relaxed")
ALL = ("2019", "2021", "legacy", "legacy-i-bug", "strict", "relaxed", "relaxed-only")
PREEMPTED_ONLY = ("2011", "2012", "2017")  # before `ready`
YEARS = (*PREEMPTED_ONLY, "2019", "2021")
ONE_ROUND = (*YEARS, "legacy", "legacy-i-bug", "strict", "relaxed-only")
FREE, ESRCH, OK = 0, -1, 1


def ask(policy, flags, **given):
    """A replay whose candidates all answer `results` (default: all 0, so that the whole scan is seen); me is vCPU 0."""
    results = given.pop("results", FREE)
    results = [results] * len(flags) if isinstance(results, int) else results
    return replay(policy, flags, **{"me": 0, "results": results, **given})


def spun(flags, index=0):
    """The flags that a spinner has after a handler that yielded to nobody."""
    return replace(flags[index], in_spin_loop=False, dy_eligible=False)


# --- the scan -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [*PREEMPTED_ONLY, *ALL])
def test_fewer_than_two_vcpus_return_at_once(policy):
    lonely = Flags(ready=True, dy_eligible=True)
    got = ask(policy, [lonely], results=OK)
    assert (got.attempts, got.target, got.flags) == ((), None, (lonely,))


@pytest.mark.parametrize("policy", [*PREEMPTED_ONLY, *ALL])
@pytest.mark.parametrize(
    "last, order",
    [
        (0, (1, 2, 3, 4)),  # a new VM: last_boosted_vcpu is 0
        (2, (3, 4, 1, 2)),  # the one boosted last comes last
        (3, (4, 1, 2, 3)),
        (4, (1, 2, 3, 4)),
    ],
)
def test_the_scan_starts_after_the_last_boosted_and_visits_it_last(policy, last, order):
    got = ask(policy, [RUNNING] + [KERNEL] * 4, last_boosted_vcpu=last)
    rounds = 2 if policy == "relaxed" else 1  # all results 0: round 2 asks everybody again
    assert got.attempts == order * rounds
    assert got.last_boosted_vcpu == last  # only a success moves it


@pytest.mark.parametrize("policy", [*YEARS, "legacy", "strict", "relaxed", "relaxed-only"])
def test_success_stores_the_index_and_stops(policy):
    got = ask(policy, [RUNNING] + [KERNEL] * 4, last_boosted_vcpu=2, results=[0, OK, OK, FREE, OK])
    assert (got.attempts, got.results, got.target) == ((3, 4), (0, 1), 4)
    assert got.last_boosted_vcpu == 4


def test_the_i_bug_stores_the_loop_offset():
    """Linux 6.13 to 6.18.0. last = 2, so the offsets 0, 1, 2, ... are vCPUs 3, 4, 0, ...: vCPU 4 has offset 1."""
    flags = [RUNNING] + [KERNEL] * 4
    got = ask("legacy-i-bug", flags, last_boosted_vcpu=2, results=[0, OK, OK, FREE, OK])
    assert (got.attempts, got.target, got.last_boosted_vcpu) == ((3, 4), 4, 1)
    # so the next scan starts at 2, not after the vCPU that was boosted
    assert ask("legacy-i-bug", flags, last_boosted_vcpu=1).attempts == (2, 3, 4, 1)
    # from last = 0 offset 0 is vCPU 1: boosting it leaves last at 0, and the next scan asks vCPU 1 first again
    assert ask("legacy-i-bug", flags, results=OK).last_boosted_vcpu == 0


# --- tries ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ONE_ROUND)
def test_three_esrch_end_a_round(policy):
    got = ask(policy, [RUNNING] + [KERNEL] * 6, results=ESRCH)
    assert (got.attempts, got.results) == ((1, 2, 3), (-1, -1, -1))


@pytest.mark.parametrize("policy", ONE_ROUND)
def test_a_result_of_0_costs_no_try(policy):
    got = ask(policy, [RUNNING] + [KERNEL] * 7, results=[0, ESRCH, FREE, ESRCH, FREE, FREE, ESRCH, ESRCH])
    assert got.results == (-1, 0, -1, 0, 0, -1)


# --- rules a to e ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [*PREEMPTED_ONLY, *ALL])
def test_rule_a_never_the_spinner_itself(policy):
    """Even one that looks like the best of targets, by every flag."""
    me = replace(KERNEL, pending_interrupt=True, dy_eligible=True, ipi_pending=True, ipi_receiver=0)
    assert ask(policy, [me, RUNNING, RUNNING], results=OK).attempts == ()


@pytest.mark.parametrize("policy", ALL)
def test_rule_b_only_ready_vcpus(policy):
    flags = [RUNNING, replace(KERNEL, ready=False), KERNEL]
    assert set(ask(policy, flags).attempts) == {2}


@pytest.mark.parametrize("policy", ALL)
def test_rule_c_a_blocking_vcpu_needs_an_event(policy):
    asleep = replace(KERNEL, blocking=True)
    flags = [RUNNING, asleep, replace(asleep, dy_runnable=True), replace(asleep, pending_interrupt=True)]
    wanted = {2, 3}  # the pending-interrupt hint makes a vCPU dy_runnable on x86
    assert set(ask(policy, flags).attempts) == wanted


@pytest.mark.parametrize("preempted", [False, True])
@pytest.mark.parametrize("kernel_mode", [False, True])
@pytest.mark.parametrize("hint", [False, True])
@pytest.mark.parametrize("in_kernel", [False, True])
def test_rule_d_of_mainline_and_of_both_rounds(preempted, kernel_mode, hint, in_kernel):
    flags = [RUNNING, Flags(ready=True, preempted=preempted, pending_interrupt=hint, preempted_in_kernel=in_kernel)]

    def asked(policy):
        return ask(policy, flags, yield_to_kernel_mode=kernel_mode).attempts

    skipped_by_mainline = preempted and kernel_mode and not hint and not in_kernel
    assert asked("legacy") == asked("legacy-i-bug") == (() if skipped_by_mainline else (1,))
    strict = hint or (preempted and (not kernel_mode or in_kernel))
    assert asked("strict") == ((1,) if strict else ())
    assert asked("relaxed-only") == ((1,) if preempted else ())
    assert asked("relaxed") == asked("strict") + asked("relaxed-only")


@pytest.mark.parametrize("policy", ALL)
@pytest.mark.parametrize(
    "stopped_by, candidate",
    [
        ("b", replace(SPINNER, ready=False)),
        ("c", replace(SPINNER, blocking=True)),
    ],
)
def test_rules_b_and_c_come_before_the_eligibility_check(policy, stopped_by, candidate):
    """The check's side effect shows the order: a candidate that an earlier rule skips keeps its dy_eligible."""
    for dy_eligible in (False, True):
        candidate = replace(candidate, dy_eligible=dy_eligible)
        got = ask(policy, [RUNNING, candidate])
        assert (got.attempts, got.flags[1]) == ((), candidate), stopped_by


def test_rule_d_comes_before_the_eligibility_check():
    in_user_mode = replace(USER, in_spin_loop=True)
    woken = replace(WOKEN, in_spin_loop=True)
    for policy in ("legacy", "legacy-i-bug", "strict"):
        assert ask(policy, [RUNNING, in_user_mode]).flags[1] == in_user_mode
    for policy in ("strict", "relaxed", "relaxed-only"):
        assert ask(policy, [RUNNING, woken]).flags[1] == woken


def test_rule_a_comes_before_the_eligibility_check():
    """The spinner is in its spin loop; were it checked, a successful exit would leave its dy_eligible inverted."""
    me = Flags(ready=True, preempted=True, preempted_in_kernel=True)
    for policy in ALL:
        got = ask(policy, [KERNEL, me, RUNNING, KERNEL], me=1, results=[FREE, OK, OK, OK], last_boosted_vcpu=0)
        assert (got.target, got.flags[1]) == (3, replace(me, in_spin_loop=True))


# --- eligibility (rule e) -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [policy for policy in ONE_ROUND if policy != "2011"])
def test_the_check_inverts_dy_eligible_of_a_spinner_whatever_the_answer(policy):
    flags = [RUNNING, SPINNER]
    first = ask(policy, flags)
    assert (first.attempts, first.flags[1].dy_eligible) == ((), True)  # not eligible, and now it is
    second = ask(policy, first.flags)
    assert (second.attempts, second.flags[1].dy_eligible) == ((1,), False)  # eligible, and no longer
    assert ask(policy, second.flags).attempts == ()


@pytest.mark.parametrize("policy", ALL)
@pytest.mark.parametrize("dy_eligible", [False, True])
def test_a_vcpu_out_of_its_spin_loop_is_eligible_and_keeps_its_flag(policy, dy_eligible):
    got = ask(policy, [RUNNING, replace(KERNEL, dy_eligible=dy_eligible)])
    assert set(got.attempts) == {1}
    assert got.flags[1].dy_eligible is dy_eligible


def test_the_flag_is_shared_by_all_spinners():
    """Spinner 0 asks about vCPU 2 in vain, spinner 1 then gets it."""
    flags = [RUNNING, RUNNING, SPINNER]
    first = ask("legacy", flags)
    second = ask("legacy", first.flags, me=1, results=OK)
    assert (first.attempts, second.target) == ((), 2)


@pytest.mark.parametrize("policy", [*PREEMPTED_ONLY, *ALL])
def test_an_exit_without_a_target_clears_the_flags_of_the_spinner(policy):
    got = ask(policy, [replace(RUNNING, dy_eligible=True), RUNNING])
    assert got.flags == (RUNNING, RUNNING)


@pytest.mark.parametrize("policy", [*PREEMPTED_ONLY, *ALL])
def test_a_successful_yielder_stays_in_its_spin_loop(policy):
    """It is descheduled inside the handler, before the flags are cleared (consequence 7)."""
    got = ask(policy, [RUNNING, KERNEL], results=OK)
    assert got.flags[0] == replace(RUNNING, in_spin_loop=True)


# --- consequences ---------------------------------------------------------------------------------------------------


def test_1_mainline_takes_woken_vcpus_and_the_series_does_not():
    flags = [RUNNING, WOKEN]
    assert ask("legacy", flags, results=OK).target == 1
    for policy in ("strict", "relaxed", "relaxed-only"):
        assert ask(policy, flags, results=OK).attempts == ()


def test_1_tiers_1_and_2_take_a_woken_vcpu_all_the_same():
    sender = Flags(ipi_pending=True, ipi_receiver=1)
    for policy in SERIES:
        assert ask(policy, [sender, WOKEN], results=OK).target == 1
        assert ask(policy, [RUNNING, replace(WOKEN, pending_interrupt=True)], results=OK).target == 1


def test_2_a_spinner_skipped_in_round_1_can_be_picked_in_round_2():
    got = ask("relaxed", [RUNNING, SPINNER], results=OK)
    assert (got.attempts, got.rounds, got.target) == ((1,), (2,), 1)
    assert got.flags[1].dy_eligible is False  # inverted twice
    alone = ask("strict", [RUNNING, SPINNER], results=OK)
    assert (alone.attempts, alone.flags[1].dy_eligible) == ((), True)


def test_2_and_a_spinner_eligible_in_round_1_is_not_in_round_2():
    got = ask("relaxed", [RUNNING, replace(SPINNER, dy_eligible=True)])
    assert (got.attempts, got.rounds, got.flags[1].dy_eligible) == ((1,), (1,), True)


def test_3_negative_tries_do_not_stop_round_2():
    """Three -ESRCH in round 1 use up the tries; in round 2 they go on to -1, -2, ...: all seven are asked."""
    got = ask("relaxed", [RUNNING] + [KERNEL] * 7, results=ESRCH)
    assert got.attempts == (1, 2, 3, 1, 2, 3, 4, 5, 6, 7)
    assert got.rounds == (1,) * 3 + (2,) * 7


@pytest.mark.parametrize("in_round_1, in_round_2", [(0, 3), (1, 2), (2, 1), (3, 7)])
def test_3_the_tries_are_not_reset_between_the_rounds(in_round_1, in_round_2):
    """k -ESRCH in round 1 leave 3 - k tries to round 2, and 0 of them mean no limit at all. vCPUs 1 .. k pass
    round 1."""
    flags = [RUNNING] + [KERNEL] * in_round_1 + [USER] * (7 - in_round_1)
    got = ask("relaxed", flags, results=ESRCH)
    assert (got.rounds.count(1), got.rounds.count(2)) == (in_round_1, in_round_2)


@pytest.mark.parametrize("first", [FREE, ESRCH])
def test_4_round_2_runs_after_failed_attempts(first):
    """vCPU 1 passes round 1 and fails; vCPU 2 was preempted in user mode, which only round 2 takes."""
    got = ask("relaxed", [RUNNING, KERNEL, USER], results=[0, first, OK])
    assert (got.attempts, got.rounds, got.target) == ((1, 1, 2), (1, 2, 2), 2)


def test_4_no_round_2_after_a_success_or_when_it_is_off():
    flags = [RUNNING, KERNEL, USER]
    assert ask("relaxed", flags, results=[0, OK, OK]).rounds == (1,)
    assert ask("relaxed", flags, enable_relaxed_boost=False).rounds == (1,)
    assert ask("strict", flags).rounds == (1,)  # v3 patch 9 alone never retries


def test_5_an_ipi_receiver_that_runs_is_never_a_target():
    sender = Flags(ipi_pending=True, ipi_receiver=1)
    for policy in SERIES:
        assert ask(policy, [sender, RUNNING], results=OK).attempts == ()


# --- the tiers of round 1 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sender, now_ns, taken",
    [
        (Flags(ipi_pending=True, ipi_receiver=1, ipi_time_ns=1_000), 51_000, True),  # age 50 us, the window
        (Flags(ipi_pending=True, ipi_receiver=1, ipi_time_ns=1_000), 51_001, False),  # 1 ns older
        (Flags(ipi_pending=True, ipi_receiver=1, ipi_time_ns=1_000), 1_000, True),  # just sent
        (Flags(ipi_pending=False, ipi_receiver=1, ipi_time_ns=1_000), 1_000, False),  # acknowledged
        (Flags(ipi_pending=True, ipi_receiver=2, ipi_time_ns=1_000), 1_000, False),  # sent to another
        (Flags(ipi_pending=True, ipi_receiver=-1, ipi_time_ns=1_000), 1_000, False),
    ],
)
def test_tier_1_is_my_recent_ipi_receiver(sender, now_ns, taken):
    got = ask("strict", [sender, WOKEN, RUNNING], now_ns=now_ns, ipi_window_ns=50_000)
    assert got.attempts == ((1,) if taken else ())


def test_tier_1_is_off_without_tracking():
    sender = Flags(ipi_pending=True, ipi_receiver=1)
    assert ask("strict", [sender, WOKEN], ipi_tracking=False).attempts == ()


def test_tier_1_looks_at_the_spinners_own_slot_only():
    other = Flags(ipi_pending=True, ipi_receiver=1)
    assert ask("strict", [RUNNING, WOKEN, other]).attempts == ()


def test_tiers_accept_or_reject_and_do_not_reorder():
    """vCPU 3 is the IPI receiver (tier 1), vCPU 2 has the hint (tier 2), vCPU 1 is tier 3: the round robin decides."""
    sender = Flags(ipi_pending=True, ipi_receiver=3)
    flags = [sender, KERNEL, replace(WOKEN, pending_interrupt=True), WOKEN]
    assert ask("strict", flags).attempts == (1, 2, 3)
    assert ask("strict", flags, last_boosted_vcpu=1).attempts == (2, 3, 1)


def test_eligibility_holds_for_the_ipi_receiver_too():
    sender = Flags(ipi_pending=True, ipi_receiver=1)
    got = ask("strict", [sender, SPINNER])
    assert (got.attempts, got.flags[1].dy_eligible) == ((), True)


def test_relaxed_only_has_three_tries_of_its_own():
    assert ask("relaxed-only", [RUNNING] + [USER] * 5, results=ESRCH).attempts == (1, 2, 3)


# --- history --------------------------------------------------------------------------------------------------------

HINT = replace(USER, pending_interrupt=True)
EVENT = replace(KERNEL, blocking=True, dy_runnable=True)


@pytest.mark.parametrize(
    "candidate, kernel_mode, asked_by",
    [
        (KERNEL, True, ("2011", "2012", "2017", "2019", "2021")),
        # 2012: eligibility
        (SPINNER, True, ("2011",)),
        (replace(SPINNER, dy_eligible=True), True, ("2011", "2012", "2017", "2019", "2021")),
        # 2017: the in-kernel filter, where the caller wants it
        (USER, True, ("2011", "2012")),
        (USER, False, ("2011", "2012", "2017", "2019", "2021")),
        # 2019: woken vCPUs, which the filter spares, and blocking ones that have an event
        (WOKEN, True, ("2019", "2021")),
        (EVENT, True, ("2019", "2021")),
        (replace(KERNEL, blocking=True, pending_interrupt=True), True, ("2019", "2021")),
        (replace(KERNEL, blocking=True), True, ()),
        # 2021: a pending interrupt passes the filter (before 2017 there was none)
        (HINT, True, ("2011", "2012", "2021")),
        (replace(HINT, preempted_in_kernel=True), True, ("2011", "2012", "2017", "2019", "2021")),
        (replace(WOKEN, pending_interrupt=True), True, ("2019", "2021")),
    ],
)
def test_what_each_year_added(candidate, kernel_mode, asked_by):
    flags = [RUNNING, candidate]
    asked = tuple(year for year in YEARS if ask(year, flags, yield_to_kernel_mode=kernel_mode).attempts)
    assert asked == asked_by
    assert ("2021" in asked) == bool(ask("legacy", flags, yield_to_kernel_mode=kernel_mode).attempts)


@pytest.mark.parametrize("year", PREEMPTED_ONLY)
def test_before_2019_only_preempted_vcpus_count(year):
    """`ready` alone does not make a candidate, and preempted alone does."""
    assert ask(year, [RUNNING, WOKEN, replace(KERNEL, ready=False)]).attempts == (2,)


def test_2011_takes_spinners_and_leaves_their_flags():
    got = ask("2011", [RUNNING, SPINNER, replace(SPINNER, dy_eligible=True)])
    assert got.attempts == (1, 2)
    assert got.flags[1:] == (SPINNER, replace(SPINNER, dy_eligible=True))


@pytest.mark.parametrize("year", ["2012", "2017", "2019", "2021"])
def test_since_2012_the_filters_come_before_the_eligibility_check(year):
    """A candidate that an earlier rule skips keeps its dy_eligible."""
    blocking = replace(SPINNER, blocking=True)
    woken = replace(WOKEN, in_spin_loop=True)
    in_user_mode = replace(USER, in_spin_loop=True)
    flags = ask(year, [RUNNING, blocking, woken, in_user_mode]).flags
    checked = {"2012": {3}, "2017": set(), "2019": {2}, "2021": {2}}[year]
    assert {index for index in (1, 2, 3) if flags[index].dy_eligible} == checked
