"""The one way a function of kvmgym is compiled.

numba keys a cached function on its own file only, so an edit in another module would leave stale machine code behind.
All of core/ therefore shares one cache folder whose name is a digest of every source in core/ and policies/ and of
the versions that compile it: any edit starts a fresh folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])


def _digest() -> str:
    sources = hashlib.sha256()
    package = Path(__file__).parent.parent
    for source in sorted([*package.glob("core/*.py"), *package.glob("policies/*.py")]):
        sources.update(source.name.encode() + b"\0" + source.read_bytes())
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


CACHE_DIR = _writable(_cache_root() / _digest())
_KEPT = 4  # cache folders of other versions that stay


def _prune() -> None:
    """Remove the cache folders of versions that were not used lately."""
    CACHE_DIR.touch()
    others = [folder for folder in CACHE_DIR.parent.iterdir() if folder.is_dir() and folder != CACHE_DIR]
    for folder in sorted(others, key=lambda folder: folder.stat().st_mtime)[:-_KEPT]:
        shutil.rmtree(folder, ignore_errors=True)


with suppress(OSError):
    _prune()


@contextmanager
def cached_in_own_folder() -> Iterator[None]:
    """While it is open, numba caches what is being defined in CACHE_DIR; users' own settings are kept otherwise."""
    config: Any = numba.config
    before = config.CACHE_DIR
    config.CACHE_DIR = str(CACHE_DIR)
    try:
        yield
    finally:
        config.CACHE_DIR = before


def jit(function: Function) -> Function:
    """Compile in nopython mode, without the GIL, cached in CACHE_DIR; plain Python under NUMBA_DISABLE_JIT=1."""
    with cached_in_own_folder():
        compiled: Any = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    return cast(Function, compiled)


def disabled() -> bool:
    """True under NUMBA_DISABLE_JIT=1: everything runs as plain Python."""
    config: Any = numba.config
    return bool(config.DISABLE_JIT)


def is_compiled() -> bool:
    """True when the machine code of the engine is already in CACHE_DIR, so that the next start is quick."""
    return any(CACHE_DIR.rglob("engine.advance*.nbc"))
