"""Commands as a shell runs them: in a process of their own, with the streams and variables that a test asks for."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUARD_S = 300  # a hang ends here, with the tracebacks of all threads
SMALL = ("compare", "--scenarios", "shootdowns-small", "--duration", "0.02", "--warmup", "0", "--seeds", "2")


def environment(**variables: str) -> dict[str, str]:
    """The variables of this process without those that change what a terminal shows, and `variables` on top."""
    left_out = {
        "COLUMNS",
        "LINES",
        "NO_COLOR",
        "FORCE_COLOR",
        "TERM",
        "PYTHONIOENCODING",
        "LC_ALL",
        "LANG",
        "PYTHONUTF8",
    }
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    path = os.pathsep.join([str(ROOT), str(ROOT / "agents"), *filter(None, [kept.get("PYTHONPATH")])])
    return {**kept, "PYTHONPATH": path, **variables}


def command(*arguments: str) -> list[str]:
    """The program's name and the arguments."""
    return [sys.executable, "-m", "kvmgym", *arguments]


def run(
    *arguments: str, cwd: Path | None = None, shell: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run `kvmgym ARGUMENTS`; returns status and texts. shell: what bash does with the streams, as `>/dev/full`."""
    line = command(*arguments)
    words = ["bash", "-c", f'"$@" {shell}', "bash", *line] if shell else line
    return subprocess.run(
        words, cwd=cwd or ROOT, env=environment(**variables), capture_output=True, timeout=GUARD_S,
        encoding="utf-8", errors="surrogateescape",
    )  # fmt: skip


def one_line(text: str) -> bool:
    """Whether a text is exactly one line that says something, and no traceback."""
    return text.endswith("\n") and text.count("\n") == 1 and bool(text.strip()) and "Traceback" not in text
