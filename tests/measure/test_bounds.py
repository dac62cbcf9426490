"""`bound` in tables: the best privileged policy of each scenario, and whose gain it is."""

from kvmgym.cli.tables import tables
from kvmgym.measure.bounds import MEMBERS, NAME, best_bounds, with_bound
from kvmgym.measure.gains import Cell, cells
from kvmgym.policies import BY_NAME as POLICY
from kvmgym.policies import POLICIES

BEHIND = {"wasted_share": 0.1, "ple_exits_per_s": 1.0, "yields_ok_per_s": 1.0, "fairness": 1.0}


def made(**ops: dict[str, float]) -> list[Cell]:
    """Cells of one VM, two seeds; ops: of each scenario, operations a second by policy. Legacy makes 100."""
    return cells(
        [
            {"scenario": scenario, "policy": policy, "seed": seed, "vm_names": ["vm"], "vm_programs": ["p"],
             "vm_ops_per_s": [done], "ops_per_s": done, **BEHIND}
            for scenario, by_policy in ops.items()
            for policy, done in {"legacy": 100.0, **by_policy}.items()
            for seed in (0, 1)
        ],
        "legacy",
    )  # fmt: skip


def test_the_members_are_the_privileged_policies_and_change_nothing_of_the_host() -> None:
    assert tuple(policy.name for policy in POLICIES if policy.privileged) == MEMBERS and len(MEMBERS) == 3
    assert all(POLICY[name].deboost is None for name in MEMBERS)


def test_it_is_the_best_of_each_scenario_and_says_which() -> None:
    found = made(
        locks={"clairvoyant": 150.0, "clairvoyant-waiting": 120.0, "clairvoyant-working": 140.0},
        flushes={"clairvoyant": 80.0, "clairvoyant-waiting": 90.0, "clairvoyant-working": 0.0},
    )
    first, second = best_bounds(found)
    assert (first.scenario, first.policy, first.of, first.text) == ("locks", NAME, "clairvoyant", "+50.0 ± 0.0")
    assert (second.scenario, second.of, second.text) == ("flushes", "clairvoyant-waiting", "-10.0 ± 0.0")


def test_tables_have_it_in_place_of_its_members_and_with_details_before_them() -> None:
    found = made(locks=dict.fromkeys(MEMBERS, 120.0))
    policies = [POLICY["legacy"], *(POLICY[name] for name in MEMBERS)]
    less, shown = with_bound(found, policies, members=False)
    assert [cell.policy for cell in less] == [NAME, "legacy"] and [p.name for p in shown] == [NAME, "legacy"]
    more, shown = with_bound(found, policies, members=True)
    assert [cell.policy for cell in more] == [NAME, "legacy", *MEMBERS] == [p.name for p in shown]
    assert "the best of 3 privileged policies, clairvoyant on locks)" in str(
        tables(less, "legacy", [*shown][:2], 200)[0].title
    )


def test_without_all_members_there_is_none() -> None:
    found = made(locks={"clairvoyant": 150.0})
    policies = [POLICY["legacy"], POLICY["clairvoyant"]]
    assert best_bounds(found) == [] and with_bound(found, policies, members=False) == (found, policies)
