"""Files of the product: written so that nothing is half written, JSON without NaN, lines that survive a crash."""

from __future__ import annotations

import errno
import importlib
import json
import math
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

try:
    fcntl: Any = importlib.import_module("fcntl")
except ImportError:  # Windows
    fcntl = None

LOCK_WAIT_S = 10.0  # for a file's lock
STDOUT = "-"  # as the name of a file to write: standard output


# --- JSON -----------------------------------------------------------------------------------------------------------


def to_json(data: Any, indent: int | None = None) -> str:
    """JSON text of plain data. JSON has no NaN and no infinity: such a number is written as null.

    >>> to_json({"low": 1.5, "high": float("inf")})
    '{"low": 1.5, "high": null}'
    """
    return json.dumps(_finite(data), indent=indent, allow_nan=False)


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return data


def from_json(text: str | bytes) -> Any:
    """The data of JSON text, of bytes as UTF-8. Errors: ValueError that says why it is none: not UTF-8, not JSON, NaN
    or infinity in it, nested too deep."""
    try:
        return json.loads(text.decode() if isinstance(text, bytes) else text, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except RecursionError:
        raise ValueError("nested too deep") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"holds {name}, which is no JSON")


def read_json(path: str | Path) -> Any:
    """The data of a JSON file. Errors: ValueError that names the file and says why it is none, OSError when it cannot
    be read."""
    try:
        return from_json(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


# --- whole files ----------------------------------------------------------------------------------------------------


def is_stdout(name: str | Path) -> bool:
    """Whether what is written to a file of that name comes out at standard output: "-", /dev/stdout, or the file that
    standard output goes to."""
    return str(name) == STDOUT or _own_descriptor(Path(name)) == 1


def write_output(name: str, content: str | bytes) -> None:
    """Write what an option names: a file as `write_atomically` does, "-" is standard output. Errors: OSError with the
    name."""
    if name == STDOUT:
        with _named("standard output"):
            _write_stdout(_bytes(content))
    else:
        write_atomically(Path(name), content)


def check_output(name: str) -> None:
    """Find out before the work whether `write_output` has a chance. Errors: OSError with the name."""
    if name == STDOUT:
        return
    path = Path(name)
    with _named(name):
        found = _stat(path)
        nearest = path if found else next(folder for folder in path.absolute().parents if folder.exists())
        if nearest.is_dir() == bool(found):
            number = errno.EISDIR if found else errno.ENOTDIR
        elif not os.access(nearest, os.W_OK):
            number = errno.EACCES
        else:
            return
        raise OSError(number, os.strerror(number))


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Write a file, text as UTF-8, so that it is either the old one or the whole new one.

    Links are followed, the mode of a file that is there is kept, a new one gets that of the umask. What is no regular
    file (a device, a pipe) and what this process writes to already (/dev/stdout) is written through, never replaced.
    Errors: OSError with the file's name.
    """
    path = Path(path)
    with _named(path):
        found = _stat(path)
        descriptor = _own_descriptor(path)
        if descriptor is not None:
            _flush()
            _write_all(descriptor, _bytes(content))
        elif found is not None and not stat.S_ISREG(found.st_mode):
            with open(path, "wb", buffering=0) as file:
                _write_all(file.fileno(), _bytes(content))
        else:
            _replace(Path(os.path.realpath(path)), _bytes(content), found)


def _bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


@contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """OSErrors that come out of it name `path`, whatever file or descriptor they are about."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def _stat(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _own_descriptor(path: Path) -> int | None:
    """The descriptor of this process that a path stands for: /dev/fd/N, or where standard output or error goes."""
    named = re.fullmatch(r"/(?:dev|proc/self)/fd/([0-9]{1,4})", str(path))
    if named:
        return int(named[1])
    with suppress(OSError):
        found = os.stat(path)
        for descriptor in (1, 2):
            with suppress(OSError):
                if os.path.samestat(found, os.fstat(descriptor)):
                    return descriptor
    return None


def _flush() -> None:
    """Let out what was printed before."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def _write_stdout(content: bytes) -> None:
    stream: Any = sys.stdout
    if stream is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    stream.flush()
    buffer = getattr(stream, "buffer", None)
    if buffer is None:  # a stream of text that somebody has put there
        stream.write(content.decode())
    else:
        buffer.write(content)
    stream.flush()


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _replace(path: Path, content: bytes, found: os.stat_result | None) -> None:
    """Put a regular file in the place of `found`, the one that is there."""
    if found is not None and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            if found is not None:
                _like(file.fileno(), found)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _like(descriptor: int, found: os.stat_result) -> None:
    """Give an open file the owner, where that is allowed, and the mode of another."""
    own = os.fstat(descriptor)
    if (own.st_uid, own.st_gid) != (found.st_uid, found.st_gid):
        with suppress(PermissionError):
            os.fchown(descriptor, found.st_uid, found.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(found.st_mode))


# --- files that grow by lines ---------------------------------------------------------------------------------------


def append_line(path: str | Path, line: str) -> None:
    """Add a line to a file, whole and on the disk, or not at all. A last line that a crash has torn stays a line of its
    own. Processes that do so to one file wait for one another. Errors: OSError with the file's name."""
    with _named(path), open(path, "ab+", buffering=0) as file, locked(file.fileno()):
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - 1, 0))
        torn = file.read(1) not in (b"", b"\n")
        try:
            _write_all(file.fileno(), b"\n" * torn + line.encode() + b"\n")
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                file.truncate(end)
            raise


def lines_of(file: IO[bytes], longest: int) -> Iterator[tuple[bytes, bool]]:
    """The lines of a file from where it stands, and whether each has its end: the last one may be torn, or somebody is
    writing it. Of a line of more than `longest` bytes only as much is read as shows that it is."""
    while content := file.readline(longest + 1):
        rest = content
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(longest + 1)
        yield content, rest.endswith(b"\n")


@contextmanager
def locked(descriptor: int, shared: bool = False) -> Iterator[None]:
    """Holds the lock of an open file, which ends with the process at the latest. On a file system without locks, and
    when somebody who stands still has had it for LOCK_WAIT_S, it goes on without: the lock keeps order, no more."""
    if not _lock(descriptor, shared):
        yield
        return
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _lock(descriptor: int, shared: bool) -> bool:
    if fcntl is None:
        return False
    given_up = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_NB | (fcntl.LOCK_SH if shared else fcntl.LOCK_EX))
            return True
        except BlockingIOError:
            if time.monotonic() >= given_up:
                return False
            time.sleep(0.005)
        except OSError:
            return False
