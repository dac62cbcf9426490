"""Bad arguments: exit status 2 and one line that names option, value and what is allowed, before any work."""

import argparse
import os
import re
from pathlib import Path

import pytest
from commands import one_line

from kvmgym.cli import compare
from kvmgym.cli.arguments import seconds, whole, whole_numbers
from kvmgym.cli.main import main, parser

SECONDS = "must be a number of seconds from {} to 1,000,000"
VMS = "must be whole numbers from 1 to 64, as 2,3,4"
NINES = f"'{'9' * 28}...{'9' * 27}'"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with what stands in the way of options, and no work begun."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(compare, "compile_once", lambda console: pytest.fail("work began"))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command line says about the arguments, which it has to refuse, after its name."""
    before = sorted(os.listdir())
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and one_line(said.err) and len(said.err) < 1000
    assert sorted(os.listdir()) == before
    return re.sub(r"^kvmgym( [a-z]+)?: ", "", said.err.rstrip("\n"))


@pytest.mark.parametrize(
    "option, value, expected",
    [
        *(("duration", text, SECONDS.format("1e-09")) for text in ("inf", "nan", "1e308", "-1", "0", "1e-12", "²", "")),
        *(("warmup", text, SECONDS.format("0")) for text in ("inf", "NaN", "-0.1", "1e7", "0x10", "1_0")),
        *(("seeds", text, "must be a whole number from 2 to 10,000") for text in ("100000000", "1", "1.5", "²", "1_0")),
        *(("threads", text, "must be a whole number from 1 to 1,024") for text in ("0", "-1", "999999999999", "x")),
        *(("vms", text, VMS) for text in ("²", "٣", "0", "65", ",")),
        ("json", "folder", "must be a file, not a folder"),
        ("json", "new/", "must be a file, not a folder"),
        ("json", "file/x", "must be in a folder, but file is none"),
        ("json", "", "must be a file name, or - for standard output"),
        ("out", "", "must be the name of a folder"),
        ("out", "file", "must be in a folder, but file is none"),
        ("out", "file/deep/er", "must be in a folder, but file is none"),
        ("scenario", "", "must be the name of a file or folder"),
        ("scenario", "folder", "must be a file that can be read (Is a directory)"),
        ("scenario", "nowhere", "must be a file that can be read (No such file or directory)"),
        ("scenario", "file/x", "must be a file that can be read (Not a directory)"),
    ],
)
def test_a_bad_value_is_named_with_its_option(
    option: str, value: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, "compare", f"--{option}", value) == f"--{option} = {value!r}: {expected}"


@pytest.mark.parametrize("option", ["duration", "warmup", "seeds", "threads", "vms"])
def test_numbers_of_many_digits_are_shortened(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    for digits in (400, 5000, 100_000):
        assert refused(capsys, "compare", f"--{option}", "9" * digits).startswith(f"--{option} = {NINES}: must be ")


def test_names_that_are_too_long_for_the_system(capsys: pytest.CaptureFixture[str]) -> None:
    shown = f"'{'x' * 28}...{'x' * 27}'"
    for option, what in (("out", "the name of a folder"), ("json", "a file name, or - for standard output")):
        said = refused(capsys, "compare", f"--{option}", "x" * 5000)
        assert said == f"--{option} = {shown}: must be {what} (File name too long)"


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (("bench", "--repeats", "0"), "--repeats = '0': must be a whole number from 1 to 1,000"),
        (("bench", "--repeats", "²"), "--repeats = '²': must be a whole number from 1 to 1,000"),
        (("validate", "V1", "V99"), 'ID: unknown check "V99": did you mean "V9"? allowed: V1, V2, V3, '),
        (("validate", "--markdown", ""), "--markdown = '': must be a file name, or - for standard output"),
        (("list", "polices"), 'KIND: unknown kind "polices": did you mean "policies"? allowed: policies, '),
        (("compar",), "COMMAND: invalid choice: 'compar' (choose from"),
        ((), "the following arguments are required: COMMAND"),
        (("list", "--nope"), "unrecognized arguments: --nope"),
        (("compare", "x" * 100_000), f"unrecognized arguments: {'x' * 30}...{'x' * 29}"),
        (("compare", "--policies", "a\nb\x1b[31m"), '--policies: unknown policy "a\\nb\\x1b[31m": allowed: 2011, '),
        (("compare", "--policies", ","), None),
        (("compare", "--baseline", "legaci"), '--baseline: unknown policy "legaci": did you mean "legacy"? '),
        (("compare", "--scenarios", ""), "--scenarios = '': must be at least one name"),
        (("compare", "--scenarios", "dedup-2vm", "--vms", "3"), "--vms = '3': must be left out where --scenarios has "),
        (("compare", "--scenarios", "all", "--policies", "all", "--seeds", "10000"), "--seeds = 10000: must be "),
    ],
)
def test_other_commands_and_names(
    arguments: tuple[str, ...], expected: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if expected is None:  # the baseline alone is a comparison, if a dull one
        assert [policy.name for policy in compare.chosen_policies(",", "legacy")] == ["legacy"]
    else:
        assert refused(capsys, *arguments).startswith(expected)


FILES = {
    "deep.toml": (b"a = " + b"[" * 900 + b"]" * 900, "not TOML: arrays or tables nested too deep"),
    "tables.toml": (b"a = " + b"{b=" * 900 + b"1" + b"}" * 900, "not TOML: arrays or tables nested too deep"),
    "binary.toml": (bytes(range(256)), "not UTF-8: invalid start byte at byte 128"),
    "nul.toml": (bytes(9), "not TOML: Invalid statement (at line 1, column 1)"),
    "empty.toml": (b"", "name: this key is missing"),
    "digits.toml": (b"name = " + b"9" * 5000, "not TOML: a number of too many digits"),
    "long.toml": (b"a=1\n" * 1_100_000, "too long: must be a scenario of at most 4,000,000 bytes"),
    "key.toml": (b'"' + b"k" * 10_000 + b'" = 1', f'unknown key "{"k" * 28}...{"k" * 27}": allowed: name, host'),
    "letters.toml": (b'"a\\u001b[31m" = 1', 'unknown key "a\\x1b[31m": allowed: name, host'),
    "value.toml": (
        b'name = "x"\nvm = []\nhost = "' + b"y" * 10_000 + b'"',
        f"host = '{'y' * 28}...{'y' * 27}': must be a table",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_scenario_files_that_are_none(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    content, expected = FILES[name]
    Path(name).write_bytes(content)
    assert refused(capsys, "compare", "--scenario", name).startswith(f"{name}: {expected}")


def test_phases_nested_too_deep_are_refused_at_any_depth(capsys: pytest.CaptureFixture[str]) -> None:
    head = 'name="x"\nhost={pcpus=1}\n[[vm]]\nname="a"\nvcpus=1\nworkload="w"\n[[workload]]\nname="w"\ndescription=""\n'
    work = '{kind="compute",dist={kind="constant",ns=1000}}'
    for depth, expected in ((33, "more than 32 repeats and choices inside each other"), (150, "nested too deep")):
        program = '{kind="choose",branches=[{weight=1,phases=[' * depth + work + "]}]}" * depth
        Path("deep.toml").write_text(f'{head}[[workload.role]]\nname="r"\nprogram=[{program}]\n')
        assert expected in refused(capsys, "compare", "--scenario", "deep.toml")


def test_a_device_without_an_end_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "compare", "--scenario", "/dev/zero").startswith("/dev/zero: too long")


def test_a_name_with_control_characters_is_shown_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a\x1b[31m\n.toml").write_text("x = 1")
    assert refused(capsys, "compare", "--scenario", "a\x1b[31m\n.toml").startswith(
        'a\\x1b[31m\\n.toml: unknown key "x"'
    )


def test_scenario_files_and_names_are_both_taken() -> None:
    from kvmgym.scenarios import BY_NAME

    Path("mine.toml").write_text(BY_NAME["hotlock-small"].to_toml().replace("hotlock-small", "mine", 1))

    def found(*arguments: str) -> list[str]:
        options = parser().parse_args(["compare", *arguments])
        return [scenario.name for scenario in compare.chosen_scenarios(options)]

    assert found("--scenario", "mine.toml") == ["mine"]
    assert found("--scenario", "mine.toml", "--scenarios", "series") == ["mine", "dbench-2vm", "dedup-2vm", "vips-2vm"]
    assert found("--scenario", "mine.toml", "--scenarios", "vips-2vm") == ["mine", "vips-2vm"]
    assert found("--vms", "3,2,3") == [f"{work}-{vms}vm" for vms in (3, 2) for work in ("dbench", "dedup", "vips")]


def test_values_are_what_they_say() -> None:
    assert whole(1, 64)("64") == 64 and whole(-5, 5)("-5") == -5
    assert seconds(0)("1e-3") == 0.001 and seconds(0)(".5") == 0.5 and seconds(1e-9)("1e6") == 1e6
    assert whole_numbers(1, 64)(" 2, 3 ,2") == (2, 3)
    for kind, text in ((whole(1, 64), " 3"), (whole(1, 64), "٣"), (seconds(0), "1e400"), (seconds(0), "infinity")):
        with pytest.raises(argparse.ArgumentTypeError):
            kind(text)
