"""Where compiled code is kept: KVMGYM_CACHE_DIR, else XDG_CACHE_HOME, else ~/.cache, in a folder of our own below it.

    <base>/kvmgym-code/<digest of the sources>/made-by-kvmgym, *.code

Reading a file of compiled code runs it, so a folder in the shared temporary directory is used only if it is ours and
closed to others. Only folders with our marker and a digest for a name are ever removed. Nothing here raises: without a
folder compiled code is just not kept.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from kvmgym.core.notes import tell

VARIABLE = "KVMGYM_CACHE_DIR"
OURS = "kvmgym-code"
MARKER = "made-by-kvmgym"
SUFFIX = ".code"
_DIGEST = re.compile(r"[0-9a-f]{16}")
_KEPT = 4  # folders of other versions that stay
_FRESH_S = 86_400  # and those that somebody may be using


def choose(digest: str) -> tuple[Path, bool]:
    """The folder for the code of sources with this digest, and whether anything can be kept in it."""
    wanted = [base / OURS / digest for base in _bases()]
    for folder in wanted:
        if _usable(folder):
            return folder, True
    if os.environ.get(VARIABLE):
        tell(f"{VARIABLE} = {os.environ[VARIABLE]!r}: compiled code cannot be kept there")
    for make in (_shared, _private):
        with suppress(OSError):
            folder = make() / digest
            if _usable(folder):
                return folder, True
    return (wanted or [Path(os.devnull) / OURS / digest])[0], False


def prune(folder: Path) -> None:
    """Mark `folder` as used now, and remove its siblings of ours that were not used lately."""
    with suppress(OSError):
        os.utime(folder / MARKER)
    with suppress(OSError):
        others = [(_used(other), other) for other in folder.parent.iterdir() if other != folder and _is_ours(other)]
        for used, other in sorted(others)[:-_KEPT]:
            if time.time() - used > _FRESH_S:
                shutil.rmtree(other, ignore_errors=True)


def _bases() -> Iterator[Path]:
    named = os.environ.get(VARIABLE)
    if named:
        with suppress(OSError):  # the working directory is gone
            yield Path(named).absolute()
        return
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(cache):  # the standard has relative ones ignored
        yield Path(cache)
        return
    with suppress(RuntimeError, KeyError):  # no HOME, and no entry in passwd
        home = Path.home()
        if home.is_absolute():
            yield home / ".cache"


def _usable(folder: Path) -> bool:
    """True when the folder holds code of ours, or can be made and written."""
    try:
        if _is_ours(folder) and any(folder.glob(f"*{SUFFIX}")):
            return True
        _make(folder)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _make(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):  # the marker is for what was made here
        (folder / MARKER).write_text("Machine code that kvmgym compiled. Safe to remove.\n", encoding="ascii")


def _is_ours(folder: Path) -> bool:
    try:
        plain = stat.S_ISDIR(folder.lstat().st_mode) and stat.S_ISREG((folder / MARKER).lstat().st_mode)
    except OSError:
        return False
    return plain and _DIGEST.fullmatch(folder.name) is not None


def _used(folder: Path) -> float:
    return (folder / MARKER).lstat().st_mtime


def _shared() -> Path:
    """Our folder in the temporary directory. OSError when it is not ours alone."""
    user = os.geteuid() if hasattr(os, "geteuid") else 0
    folder = Path(tempfile.gettempdir()) / f"{OURS}-{user}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    closed = stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) & 0o077 == 0
    if not closed or (hasattr(os, "geteuid") and found.st_uid != user):
        tell(f"{folder} is open to others, so no compiled code is read from it")
        raise PermissionError(folder)
    return folder


def _private() -> Path:
    """A new folder for this process alone."""
    folder, owner = tempfile.mkdtemp(prefix=f"{OURS}-"), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return Path(folder)
