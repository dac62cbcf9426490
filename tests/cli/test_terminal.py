"""What the commands print to: encodings, broken and full outputs, widths, colours; and how they stop."""

import io
import os
import pty
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from commands import SMALL, command, environment, one_line, run
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kvmgym.cli.main import main, parser
from kvmgym.cli.terminal import Output, Terminal, columns, plain
from kvmgym.cli.vertical import fitted
from kvmgym.scenarios import BY_NAME

GAINS = ("--policies", "none,random,legacy,relaxed")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """A small comparison whose runs are there already."""
    arguments = (*SMALL, "--out", str(tmp_path_factory.mktemp("out")), *GAINS)
    found = run(*arguments)
    assert found.returncode == 0 and found.stderr == ""
    return arguments


# --- encodings --------------------------------------------------------------------------------------------------------


def test_an_ascii_console_gets_tables_in_ascii(compared: tuple[str, ...]) -> None:
    found = run(*compared, PYTHONIOENCODING="ascii")
    assert found.returncode == 0 and found.stderr == "" and found.stdout.isascii()
    row = next(line for line in found.stdout.splitlines() if "shootdowns-small" in line)
    assert row.count("+/-") == 3
    lines = [line for line in found.stdout.splitlines() if line.startswith(("|", "+"))]
    gains = lines[: 1 + next(place for place, line in enumerate(lines) if place and line.startswith("+--"))]
    assert len({len(line) for line in gains}) == 1, "the columns stand in line"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "ascii:surrogateescape"])
def test_everything_prints_in_every_encoding(encoding: str) -> None:
    for arguments in (["list"], ["compare", "--help"], ["--help"]):
        found = run(*arguments, PYTHONIOENCODING=encoding)
        assert found.returncode == 0 and found.stderr == "" and len(found.stdout) > 500


def test_the_c_locale(compared: tuple[str, ...]) -> None:
    found = run(*compared, LC_ALL="C")
    assert found.returncode == 0 and found.stderr == "" and "shootdowns-small" in found.stdout


def test_letters_that_an_encoding_lacks() -> None:
    assert plain("±1 × 2 – 3 µs … │ é", "utf-8") == "±1 × 2 – 3 µs … │ é"
    assert plain("±1 × 2 – 3 µs …", "ascii") == "+/-1 x 2 - 3 us ..."
    assert plain("é\udcff", "ascii") == "\\xe9\\udcff"
    assert plain("é\udcff", "utf-8") == "é\\udcff"


def test_names_are_no_markup(tmp_path: Path) -> None:
    name = "[/b] [red]x :smile:"
    text = BY_NAME["shootdowns-small"].to_toml().replace("shootdowns-small", name, 1)
    (tmp_path / "mine.toml").write_text(text)
    out = tmp_path / "a[/b]"
    small = [word for word in SMALL if word not in ("--scenarios", "shootdowns-small")]
    found = run(*small, "--scenario", "mine.toml", "--policies", "none", "--out", str(out), cwd=tmp_path)
    assert found.returncode == 0 and found.stderr == ""
    assert name in found.stdout and "a[/b]" in found.stdout.replace("\n", "") and (out / "runs.jsonl").exists()


# --- outputs that break -----------------------------------------------------------------------------------------------


def test_a_full_output_is_one_line_and_the_results_are_kept(compared: tuple[str, ...]) -> None:
    summary = Path(compared[compared.index("--out") + 1]) / "summary.json"
    summary.unlink()
    found = run(*compared, shell=">/dev/full")
    assert found.returncode == 1
    assert found.stderr == "kvmgym compare: standard output: No space left on device\n"
    assert summary.exists()
    for arguments in (["list"], ["list", "--help"], ["--version"]):
        found = run(*arguments, shell=">/dev/full")
        assert found.returncode == 1 and one_line(found.stderr) and "No space left on device" in found.stderr


def test_closed_outputs_stop_nothing(compared: tuple[str, ...]) -> None:
    summary = Path(compared[compared.index("--out") + 1]) / "summary.json"
    for shell in (">&-", ">&- 2>&-", "2>&-"):
        summary.unlink()
        found = run(*compared, shell=shell)
        assert found.returncode == 0 and found.stderr == "" and summary.exists()
    for shell in (">&- 2>&-", "2>&-", "2>/dev/full"):
        assert run("list", "--nope", shell=shell).returncode == 2
    found = run("list", "--nope", shell=">&-")
    assert found.returncode == 2 and one_line(found.stderr)


def test_a_reader_that_stops_is_no_fault(compared: tuple[str, ...]) -> None:
    for arguments in (("list",), compared, ("compare", "--help")):
        found = run(*arguments, shell='| head -1; exit "${PIPESTATUS[0]}"')
        assert found.returncode == 0 and found.stderr == "" and found.stdout.count("\n") == 1


def test_an_interrupted_command_ends_with_130_and_one_line(tmp_path: Path) -> None:
    words = command("compare", "--scenarios", "dedup-noisy-7vm", "--duration", "5", "--seeds", "50", "--threads", "1",
                    "--policies", "legacy", "--out", str(tmp_path))  # fmt: skip
    job = subprocess.Popen(
        words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # where a script began the tests it is ignored
    )  # fmt: skip
    runs = tmp_path / "runs.jsonl"
    while job.poll() is None and not runs.exists():
        time.sleep(0.05)
    job.send_signal(signal.SIGINT)
    out, err = job.communicate(timeout=300)
    assert job.returncode == 130 and err == "kvmgym compare: interrupted\n"
    assert "Traceback" not in out


# --- widths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [30, 80, 100])
@pytest.mark.parametrize("arguments", [(), ("--details", "--policies", "all")])
def test_a_comparison_fits_its_width_with_whole_numbers(
    width: int, arguments: tuple[str, ...], compared: tuple[str, ...]
) -> None:
    found = run(*compared, *arguments, COLUMNS=str(width))
    assert found.returncode == 0 and found.stderr == ""
    lines = found.stdout.splitlines()
    tables = lines[: next(place for place, line in enumerate(lines) if line.startswith("runs in"))]
    assert max(map(len, tables)) <= width
    wide = run(*compared, *arguments, COLUMNS="500").stdout
    numbers = re.findall(r"[+-]\d+\.\d ± \d+\.\d", wide)
    assert len(numbers) >= 3 and sorted(re.findall(r"[+-]\d+\.\d ± \d+\.\d", "\n".join(tables))) == sorted(numbers)
    assert "0.9" in found.stdout or arguments == ()


@pytest.mark.parametrize("width", [30, 80, 100])
def test_lists_fit_their_width_with_whole_names(width: int) -> None:
    found = run("list", COLUMNS=str(width))
    assert found.returncode == 0 and max(len(line.rstrip()) for line in found.stdout.splitlines()) <= width
    words = set(found.stdout.split())
    assert set(BY_NAME) <= words and {"clairvoyant-working", "60000", "legacy"} <= words


def test_a_table_too_wide_turns_vertical_and_a_narrower_one_keeps_its_numbers() -> None:
    table = Table(title="gains")
    table.add_column("scenario", no_wrap=True)
    table.add_column("relaxed\nkernel", justify="right")
    table.add_column("what it does")
    table.add_row("dedup-noisy-7vm", "+12.3 ± 0.4", Text("yields to whoever waits longest", style="red"))
    table.add_row("other", style="bold")
    table.add_row("  x", "", "")

    def lines(width: int) -> list[str]:
        console = Console(width=width, file=io.StringIO(), record=True)
        console.print(fitted(table, width))
        return [line.rstrip() for line in console.export_text().splitlines()]

    assert lines(30) == [
        "gains",
        "",
        "dedup-noisy-7vm",
        "  relaxed kernel  +12.3 ± 0.4",
        "  what it does",
        "    yields to whoever waits",
        "    longest",
        "",
        "other",
        "",
        "x",
    ]
    assert "  relaxed kernel\n    +12.3 ± 0.4\n" in "\n".join(lines(28))
    assert any("dedup-noisy-7vm" in line and "+12.3 ± 0.4" in line for line in lines(56))
    assert any("+12.3 ± 0.4" in line and "waits longest" in line for line in lines(100))


def test_the_width_that_the_environment_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, width in (("80", 80), ("3", 20), ("0", 20), ("9" * 9, 1000), ("²", None), ("x", None), ("-5", None)):
        assert columns(text) == width
    for text, width in (("40", 40), ("²", 100), ("9" * 5000, 100), ("", 100)):
        monkeypatch.setenv("COLUMNS", text)
        assert Terminal(Output(io.StringIO())).width == width


# --- colours ----------------------------------------------------------------------------------------------------------


def on_a_terminal(arguments: tuple[str, ...], **variables: str) -> str:
    """What a command writes to a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    job = subprocess.Popen(command(*arguments), env=environment(**variables), stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    found = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        found += part
    os.close(ours)
    assert job.stderr is not None and job.stderr.read() == b"" and job.wait() == 0
    return found.decode()


COLOUR = re.compile(r"\x1b\[[0-9;]*[349][0-9][0-9;]*m")


def test_colours_are_left_out_on_request_and_where_there_are_none(compared: tuple[str, ...]) -> None:
    coloured = on_a_terminal(compared, TERM="xterm-256color")
    assert COLOUR.search(coloured) and "shootdowns-small" in coloured
    without = on_a_terminal(compared, TERM="xterm-256color", NO_COLOR="1")
    assert not COLOUR.search(without) and "shootdowns-small" in without
    dumb = on_a_terminal(compared, TERM="dumb")
    assert "\x1b" not in dumb and "shootdowns-small" in dumb
    assert "\x1b" not in run(*compared, TERM="xterm-256color").stdout


# --- help -------------------------------------------------------------------------------------------------------------


def commands() -> list[str]:
    (actions,) = parser()._subparsers._group_actions  # type: ignore[union-attr]
    return list(actions.choices)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", *commands()])
def test_help_reads_well(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*filter(None, [name]), "--help"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "%%" not in text and "%(" not in text and "None" not in text
    for line in text.splitlines():
        words = line.strip()
        assert not re.search(r"\S  +\S", re.sub(r"^(-\S+( \S+)?(, --\S+( \S+)?)?|\[?\S+\]?)  +", "", words)), line
    options = text[text.index("options:") :]
    for option in (" ".join(part.split()) for part in re.split(r"\n  (?=-)", options)[1:]):
        takes_a_value = re.match(r"--\w+ [A-Z]+", option)
        kept = re.match(r"--(json|markdown|agent|scenario) ", option)  # off without a value
        assert not takes_a_value or kept or "(default: " in option or "(required)" in option, option
