"""The report's section on sensitivity: what each assumed constant does to the ranking of the policies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from math import comb
from typing import Any

from experiments.calibration import rules
from kvmgym.cli.tables import markdown
from kvmgym.measure.stats import paired_gain

Data = Mapping[str, Any]


def mean_ops(table: Data) -> dict[str, float]:
    """Mean operations a second of each policy, from its list by seed."""
    return {policy: sum(values) / len(values) for policy, values in table.items()}


def joined(first: Data, second: Data) -> dict[str, list[float]]:
    """The seeds of both tables, by policy."""
    return {policy: [*first[policy], *second[policy]] for policy in first}


def clear_pairs(both: Data, level: float = 0.95) -> list[tuple[str, str]]:
    """Pairs (better, worse) of policies whose paired difference is clear at the level."""
    found = []
    for better in both:
        for worse in both:
            if better != worse and paired_gain(both[better], both[worse], level).low > 0:
                found.append((better, worse))
    return found


def conclusions(data: Data) -> dict[str, list[tuple[str, str]]]:
    """By scenario the pairs that are clear over all seeds with nothing changed, at 95 % for all pairs of all scenarios
    together (Bonferroni), as the pairs are picked for being clear."""
    base, other = data["unchanged"], data["other_seeds"]
    pairs = sum(comb(len(table), 2) for table in base.values())
    return {place: clear_pairs(joined(base[place], other[place]), 1 - 0.05 / pairs) for place in base}


def noise(data: Data) -> dict[str, list[float]]:
    """By scenario Kendall's τ between the two halves of the seeds with nothing changed, for each way to halve them."""
    found: dict[str, list[float]] = {}
    for place, table in data["unchanged"].items():
        both = joined(table, data["other_seeds"][place])
        count = len(next(iter(both.values())))
        for half in combinations(range(count), count // 2):
            if 0 in half:
                rest = [i for i in range(count) if i not in half]
                parts = ({name: [values[i] for i in part] for name, values in both.items()} for part in (half, rest))
                found.setdefault(place, []).append(_tau(*parts))
    return found


def flips(table: Data, pairs: Iterable[tuple[str, str]]) -> list[tuple[str, bool]]:
    """Pairs whose order is reversed in the table: text, and whether clearly (95 %)."""
    found = []
    for better, worse in pairs:
        gain = paired_gain(table[better], table[worse])
        if gain.mean < 0:
            found.append((f"{better} > {worse}", gain.high < 0))
    return found


def sensitivities(data: Data) -> list[dict[str, Any]]:
    """For each variant, and first for the other seeds: τ by scenario, the scenarios' flips, and the moves of ranks."""
    base, other, pairs = data["unchanged"], data["other_seeds"], conclusions(data)
    found = []
    unchanged = {"constant": "none (other seeds)", "mark": "", "change": "", "inert": False, "ops_per_s": other}
    for variant in (unchanged, *data["variants"]):
        tables = variant["ops_per_s"]
        found.append({
            **{key: variant[key] for key in ("constant", "mark", "change", "inert")},
            "same": tables == base,
            "tau": {place: _tau(base[place], tables[place]) for place in base},
            "flips": {place: flips(tables[place], pairs[place]) for place in base},
            "moved": {place: rules.moved(mean_ops(base[place]), mean_ops(tables[place])) for place in base},
        })  # fmt: skip
    return found


def _tau(first: Data, second: Data) -> float:
    before, after = mean_ops(first), mean_ops(second)
    return rules.kendall([before[name] for name in before], [after[name] for name in before])


def sensitivity_section(data: Data) -> str:
    """The table of τ, the reversed conclusions and the changes of rank."""
    found = sensitivities(data)
    base, floor, picked = data["unchanged"], noise(data), conclusions(data)
    rows, flipped = [], []
    for one in found:
        flat = [(place, text, clear) for place, pairs in one["flips"].items() for text, clear in pairs]
        taus = [f"{one['tau'][place]:.2f}" for place in base]
        mean = sum(one["tau"].values()) / len(base)
        note = "bit-identical" if one["same"] else f"{len(flat)} ({sum(clear for _, _, clear in flat)})"
        rows.append((f"`{one['constant']}`" if one["mark"] else one["constant"], one["mark"], one["change"], *taus,
                     f"{mean:.2f}", note))  # fmt: skip
        flipped += [(one["constant"], one["change"], place, text, "clear" if clear else "not clear")
                    for place, text, clear in flat]  # fmt: skip
    moves = [
        (one["constant"], one["change"], *("; ".join(one["moved"][place]) or "-" for place in base))
        for one in found
        if any(one["moved"].values())
    ]
    policies = ", ".join(next(iter(base.values())))
    spread = ", ".join(f"{place} {min(taus):.2f}-{max(taus):.2f}" for place, taus in floor.items())
    means = [sum(taus) / len(taus) for taus in zip(*floor.values(), strict=True)]
    below = [one for one in found[1:] if sum(one["tau"].values()) / len(base) < min(means)]
    listed = ", ".join(f"{one['constant']} {one['change']}" for one in below) or "none"
    kept = "\n".join(f"- {place}: " + "; ".join(_chains(pairs)) for place, pairs in picked.items())
    flips_table = (
        markdown(("constant", "change", "scenario", "conclusion", "reversed"), flipped) if flipped else "None."
    )
    return f"""## Sensitivity of the ranking to each assumed constant

Ranked: {policies};
the named 2-VM scenarios with the profiles' own values. τ is Kendall's between the ranking (by mean operations a second)
with the default and with the changed constant, on the same seeds. Noise floor: τ between two halves of six seeds with
nothing changed, over the {len(means)} ways to halve them: {spread};
mean over the scenarios {min(means):.2f}-{max(means):.2f}. A τ within that says nothing. Those whose mean τ is below it:
{listed}.
Constants whose switches are off in these scenarios have to give identical results.

A conclusion is an order of two policies that is clear over the six seeds, at 95 % for all pairs together:

{kept}

Last column: how many of these a changed constant reverses (in brackets: clearly, 95 % for the one pair).

{markdown(("constant", "mark", "change", *base, "mean τ", "reversed (clearly)"), rows)}

![sensitivity](sensitivity.png)

Conclusions that are reversed:

{flips_table}

Changes of rank (1 is best):

{markdown(("constant", "change", *base), moves) if moves else "None."}"""


def _chains(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Pairs by the better one: `legacy > none, strict`."""
    worse: dict[str, list[str]] = {}
    for better, other in pairs:
        worse.setdefault(better, []).append(other)
    return [f"{better} > {', '.join(others)}" for better, others in worse.items()]
