"""Scenario files of any content: read and come back the same, or one clean error; what is read also runs."""

import re

import pytest
from fuzzing import Worker, fuzz
from hypothesis import strategies as st

from kvmgym.scenarios import BY_NAME
from kvmgym.workloads import BY_NAME as WORKLOADS

BASES = [BY_NAME[name].to_toml() for name in ("shootdowns-small", "dedup-small", "kernbench-32p-pvq-1vm")]
BASES += [BY_NAME["mixed-8p-4vm"].to_toml(WORKLOADS.values())]
TOKEN = re.compile(r'"[^"\n]*"|-?\d[\d_.e+-]*|\w+|[{}\[\],=]')
ODD = ("0", "-1", "1", "2", "1e308", "nan", "inf", "-inf", "9" * 20, "9" * 5000, "1.5", "0.0", "true", "[]", "{}",
       '""', '"dedup"',
       '"²"', '"\\u0000"', '"x' + "x" * 500 + '"', "1979-05-27", "0x7fffffffffffffff", "1_0", "[[vm]]", "[host]",
       "\n", "'", "\x00",
       "{ kind = \"repeat\", times = 1_000_000_000, phases = [{ kind = \"ops\" }] }", "512", "1024",
       "1_000_000_000")  # fmt: skip


@st.composite
def changed(draw: st.DrawFn) -> str:
    """A good file with one to three words or lines replaced, dropped, doubled or swapped."""
    text = draw(st.sampled_from(BASES))
    for _ in range(draw(st.integers(1, 3))):
        how = draw(st.sampled_from(("word", "word", "word", "swap", "line", "double", "cut")))
        if how == "word" or how == "swap":
            places = [found.span() for found in TOKEN.finditer(text)]
            begin, end = draw(st.sampled_from(places)) if places else (0, 0)
            other = (
                text[slice(*draw(st.sampled_from(places)))] if places and how == "swap" else draw(st.sampled_from(ODD))
            )
            text = text[:begin] + other + text[end:]
        else:
            lines = text.splitlines(keepends=True) or [""]
            place = draw(st.integers(0, len(lines) - 1))
            lines[place] = {"line": "", "double": 2 * lines[place], "cut": lines[place][: len(lines[place]) // 2]}[how]
            text = "".join(lines)
    return text


def test_changed_scenarios(cases: Worker, pytestconfig: pytest.Config) -> None:
    fuzz(cases, "scenario_text", changed(), pytestconfig, 100, also=BASES)


def test_any_bytes(cases: Worker, pytestconfig: pytest.Config) -> None:
    fuzz(cases, "scenario_bytes", st.binary(max_size=200) | st.text().map(str.encode), pytestconfig, 100)


def test_deep_and_long_ones(cases: Worker, pytestconfig: pytest.Config) -> None:
    deep = st.tuples(st.sampled_from(("[", "{a=", "[[", "a.", "[a", "'''", "#")), st.integers(1, 100_000))
    content = deep.map(lambda case: ("a = " + case[0] * case[1]).encode()[:5_000_000])
    fuzz(cases, "scenario_bytes", content, pytestconfig, 20, also=[b"a=1\n" * 500_000, b"\xef\xbb\xbfname=1", b"\x00"])
