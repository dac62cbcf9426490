"""The one way a function of kvmgym is compiled, and where its machine code is kept.

All of core/ and policies/ shares one cache folder whose name is a digest of every source in them, at any depth, and of
the versions that compile it: any edit starts a fresh folder, as numba by itself looks at a function's own file only.
The compiled modules of env/ have a folder in it whose name is a digest of env/.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np

from kvmgym.core import cachedir, inner
from kvmgym.core.codecache import CodeCache

Function = TypeVar("Function", bound=Callable[..., Any])

_PACKAGE = Path(__file__).parent.parent


def sources(package: Path, *names: str) -> list[Path]:
    """Every Python file below the named folders of a package, and the named files."""
    found = [file for name in names for file in (package / name).glob("**/*.py")]
    return sorted([*found, *(package / name for name in names if (package / name).is_file())])


def digest(package: Path, files: Iterable[Path]) -> str:
    """A digest of the files, of their places in the package, and of the versions that compile them."""
    total = hashlib.sha256()
    for source in files:
        total.update(source.relative_to(package).as_posix().encode() + b"\0" + source.read_bytes() + b"\0")
    for version in (numba.__version__, np.__version__, sys.version):
        total.update(version.encode())
    return total.hexdigest()[:16]


# What decides the machine code of the engine and the policies; CACHE_DIR.name tells one engine from another.
DIGEST = digest(_PACKAGE, sources(_PACKAGE, "core", "policies", "codes.py"))
CACHE_DIR, KEPT = cachedir.choose(DIGEST)
FACES_DIR = CACHE_DIR / digest(_PACKAGE, sources(_PACKAGE, "env"))
POLICIES_DIR = CACHE_DIR / "policies"

inner.kept = KEPT
if KEPT:
    cachedir.prune(CACHE_DIR)
    for _folder in (FACES_DIR, POLICIES_DIR):
        with suppress(OSError):
            _folder.mkdir(exist_ok=True)


def jit(function: Function) -> Function:
    """Compile in nopython mode, without the GIL, kept in CACHE_DIR; plain Python under NUMBA_DISABLE_JIT=1."""
    return _compiled(function, CACHE_DIR)


def face_jit(function: Function) -> Function:
    """As `jit`, for the compiled modules of env/: kept in FACES_DIR, so that an edit there leaves the engine's machine
    code as it is."""
    return _compiled(function, FACES_DIR)


def _compiled(function: Function, folder: Path) -> Function:
    if disabled():
        return function
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "pipeline_class": inner.Pipeline}
    compiled: Any = numba.njit(**options)(function)
    compiled._cache = cache_of(function, folder)
    return cast(Function, compiled)


def cache_of(function: Callable[..., Any], folder: Path) -> CodeCache:
    """The cache of one function, by its name and its file. What has no file or a closure is not kept: neither tells
    all that its code depends on."""
    plain: Any = function
    file = Path(plain.__code__.co_filename)
    known = KEPT and plain.__closure__ is None and file.is_file()
    name = f"{plain.__module__}.{plain.__qualname__}"
    return CodeCache(folder if known else None, name, lambda: hashlib.sha256(file.read_bytes()).digest())


def disabled() -> bool:
    """True under NUMBA_DISABLE_JIT=1: everything runs as plain Python."""
    config: Any = numba.config
    return bool(config.DISABLE_JIT)
