"""The one way a function of kvmgym is compiled.

numba keys a cached function on its own file only, so an edit in another module would leave stale machine code behind.
All of core/ therefore shares one cache folder whose name is a digest of every source in core/ and policies/ and of
the versions that compile it: any edit starts a fresh folder. The compiled modules above core/ have a folder in it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])


_PACKAGE = Path(__file__).parent.parent
_FACES = ("env/observation.py", "env/prefetch.py", "env/reward.py", "env/stepping.py")  # compiled modules above core/


def _digest(files: Iterable[Path]) -> str:
    sources = hashlib.sha256()
    for source in files:
        sources.update(source.relative_to(_PACKAGE).as_posix().encode() + b"\0" + source.read_bytes())
    for version in (numba.__version__, np.__version__, sys.version):
        sources.update(version.encode())
    return sources.hexdigest()[:16]


def _cache_root() -> Path:
    named = os.environ.get("KVMGYM_CACHE_DIR")
    if named:
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "kvmgym"


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.gettempdir()) / f"kvmgym-{os.getuid() if hasattr(os, 'getuid') else 0}" / folder.name


CACHE_DIR = _writable(
    _cache_root() / _digest(sorted([*_PACKAGE.glob("core/**/*.py"), *_PACKAGE.glob("policies/**/*.py")]))
)
FACES_DIR = CACHE_DIR / _digest(_PACKAGE / name for name in _FACES)
_KEPT = 4  # cache folders of other versions that stay
_FRESH_S = 86_400  # and those that somebody may be using


def _prune() -> None:
    """Remove the cache folders of versions that were not used lately."""
    CACHE_DIR.touch()
    others = [folder for folder in CACHE_DIR.parent.iterdir() if folder.is_dir() and folder != CACHE_DIR]
    for folder in sorted(others, key=lambda folder: folder.stat().st_mtime)[:-_KEPT]:
        if time.time() - folder.stat().st_mtime > _FRESH_S:
            shutil.rmtree(folder, ignore_errors=True)


with suppress(OSError):
    _prune()


@contextmanager
def cached_in_own_folder(folder: Path = CACHE_DIR) -> Iterator[None]:
    """While it is open, numba caches what is being defined in `folder`; users' own settings are kept otherwise."""
    config: Any = numba.config
    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder)
    try:
        yield
    finally:
        config.CACHE_DIR = before


def jit(function: Function) -> Function:
    """Compile in nopython mode, without the GIL, cached in CACHE_DIR; plain Python under NUMBA_DISABLE_JIT=1."""
    with cached_in_own_folder():
        compiled: Any = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    return cast(Function, compiled)


def face_jit(function: Function) -> Function:
    """As `jit`, for the compiled modules above core/ (_FACES): cached in FACES_DIR, so that an edit there leaves the
    engine's machine code as it is."""
    with cached_in_own_folder(FACES_DIR):
        compiled: Any = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    return cast(Function, compiled)


def disabled() -> bool:
    """True under NUMBA_DISABLE_JIT=1: everything runs as plain Python."""
    config: Any = numba.config
    return bool(config.DISABLE_JIT)


def is_compiled() -> bool:
    """True when the machine code of the engine is already in CACHE_DIR, so that the next start is quick."""
    return any(CACHE_DIR.rglob("engine.advance*.nbc"))
