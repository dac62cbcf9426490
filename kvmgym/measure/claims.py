"""Who is at which run, so that processes in one results folder share the work instead of doubling it.

A claim is a small file, named by the run's key, that its owner renews while it is at work. A claim whose owner is gone
from this machine, or that nobody renews for EXPIRES_S, is taken over. Claims spare work and guard nothing: two
processes that run the same get the same row.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kvmgym.files import from_json, locked, to_json

RENEWED_EVERY_S, EXPIRES_S = 5.0, 30.0
_FORGOTTEN_S = 86_400.0  # claims this old are removed whatever they say
_LOCK = "lock"


class Claims:
    """Claims of this process in a folder. With it open, those that are held are renewed by a thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.owner = {"host": _host(), "pid": os.getpid(), "started": _started(os.getpid())}
        self._held: set[str] = set()
        self._seen: dict[str, tuple[int, float]] = {}  # of others' claims: time on the file, when it was first seen
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> Claims:
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_left_ones()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        for key in list(self._held):
            self.release(key)

    def take(self, key: str) -> bool:
        """Claim a run; False while somebody else is at it. Where claims cannot be written, everything is free."""
        path = self.folder / key
        try:
            with self._locked():
                if self._is_others(path):
                    return False
                path.write_text(to_json(self.owner), encoding="utf-8")
        except OSError:
            pass
        self._held.add(key)
        return True

    def release(self, key: str) -> None:
        """Give up a claim, unless somebody has taken it over."""
        self._held.discard(key)
        with suppress(OSError), self._locked():
            if _read(self.folder / key) == self.owner:
                (self.folder / key).unlink()

    def _is_others(self, path: Path) -> bool:
        """Whether a claim is there and alive."""
        try:
            renewed = path.stat().st_mtime_ns
        except FileNotFoundError:
            return False
        owner = _read(path)
        if _is_gone(owner, str(self.owner["host"])):
            return False
        before, since = self._seen.get(path.name, (0, 0.0))
        if before != renewed:
            self._seen[path.name] = renewed, time.monotonic()
            return True
        return time.monotonic() - since < EXPIRES_S

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self.folder / _LOCK, "ab") as file, locked(file.fileno()):
            yield

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED_EVERY_S):
            for key in list(self._held):
                with suppress(OSError):
                    os.utime(self.folder / key)

    def _remove_left_ones(self) -> None:
        """Remove claims of processes that were killed."""
        with self._locked():
            for path in self.folder.iterdir():
                old = time.time() - path.stat().st_mtime > _FORGOTTEN_S
                if path.name != _LOCK and (old or _is_gone(_read(path), str(self.owner["host"]))):
                    path.unlink()


def _read(path: Path) -> Any:
    """The owner that a claim names, None for a damaged one."""
    try:
        return from_json(path.read_bytes())
    except (OSError, ValueError):
        return None


def _is_gone(owner: Any, host: str) -> bool:
    """Whether an owner was a process of this machine that has ended; of others nobody here can tell."""
    if not isinstance(owner, dict) or owner.get("host") != host or not isinstance(owner.get("pid"), int):
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass
    return _started(owner["pid"]) != owner.get("started")


def _started(pid: int) -> str:
    """When a process began, in the kernel's ticks, "" when it cannot be told or the process is a zombie."""
    try:
        state, *rest = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except (OSError, ValueError):
        return ""
    return "" if state == "Z" else rest[18]


def _host() -> str:
    """This machine and, on Linux, the namespace that its process numbers belong to."""
    with suppress(OSError):
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()
