"""The tables of a comparison: gains over the baseline, each VM's own, and what lies behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from kvmgym.cli.vmtables import by_vm
from kvmgym.measure.bounds import MEMBERS, NAME, Shown
from kvmgym.measure.compare import HEADINGS, LEARNED, grouped
from kvmgym.measure.gains import Cell
from kvmgym.measure.published import published_for
from kvmgym.measure.shown import METRICS

MANY = 6  # more policies than this are rows, not columns
MARKED = ("bounds", LEARNED)  # groups that are named above a column

Places = Mapping[tuple[str, str], Cell]  # by scenario and policy


def scenarios_of(found: Iterable[Cell]) -> list[str]:
    """The names of the scenarios, in the order of the cells."""
    return list(dict.fromkeys(cell.scenario for cell in found))


def tables(found: Sequence[Cell], baseline: str, policies: Shown, width: int, details: bool = False) -> list[Table]:
    """The gains, for many policies with a row a policy; then, for few policies or with details, each VM's own gain and
    what lies behind them. Where VMs run different programs, each VM's own gain is always shown."""
    places = {(cell.scenario, cell.policy): cell for cell in found}
    title = f"gain in guest operations/s over {baseline} in %, with 95 % intervals paired by seed"
    if any(cell.mixed for cell in found):
        title += "\n(where VMs run different programs: geometric mean of each VM's own gain)"
    left_out = dict.fromkeys(f"{cell.scenario} {name}" for cell in found for name in cell.host.left_out)
    if left_out:
        title += f"\n(left out, as without progress in either run: {', '.join(left_out)})"
    best = [f"{cell.of} on {cell.scenario}" for cell in found if cell.policy == NAME]
    if best:
        title += f"\n({NAME}: the best of {len(MEMBERS)} privileged policies, {', '.join(best)})"
    ordered, few = grouped(policies), len(policies) <= MANY
    gains = (
        [_by_scenario(title, places, baseline, ordered)] if few else _by_policy(title, places, baseline, ordered, width)
    )
    for scenario in scenarios_of(found):
        if few or details or places[scenario, baseline].mixed:
            mine = {policy.name: places[scenario, policy.name] for policy in ordered}
            gains += by_vm(mine, baseline, width, policies_down=not few)
    return [*gains, _behind(found)] if few or details else gains


def _table(title: str | None) -> Table:
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)


def _by_scenario(title: str, places: Places, baseline: str, policies: Shown) -> Table:
    """A row a scenario, a column a policy."""
    table = _table(title)
    table.add_column("scenario", no_wrap=True)
    shown = [policy for policy in policies if policy.name != baseline]
    for policy in shown:
        group = policy.group
        mark = f"\n{HEADINGS[group]}" if group in MARKED else ""
        table.add_column(policy.name + mark, justify="right")
    scenarios = scenarios_of(places.values())
    published = any(map(published_for, scenarios))
    if published:
        table.add_column("published\nv1/v2, v3", justify="right", no_wrap=True)
    for scenario in scenarios:
        gains = [places[scenario, policy.name].text for policy in shown]
        table.add_row(scenario, *gains, *([_published_text(scenario)] if published else []))
    return table


def _by_policy(title: str, places: Places, baseline: str, policies: Shown, width: int) -> list[Table]:
    """A row a policy, grouped, a column a scenario with the published figures in its heading; as many tables as the
    width needs. The baseline's row has its operations a second, where these have a sum."""

    def text(scenario: str, policy: str) -> str:
        cell = places[scenario, policy]
        return _rate_text(cell) if policy == baseline else cell.text

    scenarios, names = scenarios_of(places.values()), [policy.name for policy in policies]
    widest = max(len(line) for place in places for line in (text(*place), place[0], _published_text(place[0])))
    first = 2 + max(map(len, [*names, *HEADINGS.values()])) + len("   year")
    at_once = max(1, (width - first) // (3 + widest))
    parts = -(-len(scenarios) // at_once)
    size = -(-len(scenarios) // parts)
    if any(map(published_for, scenarios)):
        title += "\nbelow each scenario: published gain of v1/v2, of v3"
    found: list[Table] = []
    for begin in range(0, len(scenarios), size):
        part = scenarios[begin : begin + size]
        table = _table(None if found else title)
        table.add_column("policy", no_wrap=True)
        table.add_column("year", no_wrap=True)
        for scenario in part:
            table.add_column(f"{scenario}\n{_published_text(scenario)}".rstrip(), justify="right", no_wrap=True)
        _add_groups(table, policies, lambda policy, part=part: [text(scenario, policy) for scenario in part])  # type: ignore[misc]
        found.append(table)
    return found


def _add_groups(table: Table, policies: Shown, texts: Callable[[str], list[str]]) -> None:
    """The rows of the policies under their groups' headings."""
    for group, heading in HEADINGS.items():
        members = [policy for policy in policies if policy.group == group]
        if members:
            table.add_row(heading, style="bold")
        for policy in members:
            table.add_row(f"  {policy.name}", policy.year, *texts(policy.name))
        table.add_section()


def _behind(found: Sequence[Cell]) -> Table:
    """A row a scenario and policy: means over the seeds."""
    table = _table("what lies behind it")
    for column in ("scenario", "policy", "ops/s", *(metric.heading for metric in METRICS)):
        text = column in ("scenario", "policy")
        table.add_column(column, justify="left" if text else "right", no_wrap=text)
    for cell in found:
        table.add_row(
            cell.scenario, cell.policy, _rate_text(cell).removesuffix("/s"),
            *(metric.text(cell.means[metric.name]) for metric in METRICS),
        )  # fmt: skip
    return table


def _rate_text(cell: Cell) -> str:
    """Operations a second of all VMs; "by VM" where these run different programs."""
    return f"{cell.ops_per_s.mean:,.0f}/s" if cell.ops_per_s else "by VM"


def _published_text(scenario: str) -> str:
    figures = published_for(scenario)
    return f"{figures.v1_v2:+.1f}, {figures.v3_throughput:+.1f}" if figures else ""


def markdown(heading: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    lines = [heading, ["---"] * len(heading), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
