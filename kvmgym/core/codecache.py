"""Compiled functions as files: one a signature, written whole, checked before it is read.

numba's own cache keeps an index beside the data, which two processes can tear apart, unpickles whatever it finds and
does without a folder that it cannot write. Here a file's name tells function, types, processor and sources.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from numba.core.caching import _Cache
from numba.core.serialize import dumps

from kvmgym.core import inner
from kvmgym.core.cachedir import SUFFIX
from kvmgym.core.notes import tell

_HEAD = b"kvmgym code 1\n"
_SUM = hashlib.sha256().digest_size


class CodeCache(_Cache):  # type: ignore[misc]
    """The files of one function in `folder`; None: nothing is kept. name: a word at the head of its files' names.
    stamp: called when it is first needed, what the code depends on beyond what the folder's name tells."""

    def __init__(self, folder: Path | None, name: str, stamp: Callable[[], bytes]) -> None:
        self.folder, self.name, self.stamp = folder, name, stamp
        self._on = True

    @property
    def cache_path(self) -> str | None:
        """The folder."""
        return None if self.folder is None else str(self.folder)

    def enable(self) -> None:
        """Use it."""
        self._on = True

    def disable(self) -> None:
        """Do without it."""
        self._on = False

    def flush(self) -> None:
        """Nothing: files of other sources have other names."""

    def path(self, signature: Any, codegen: Any) -> Path | None:
        """The file of one signature; None when nothing is kept."""
        if self.folder is None or not self._on:
            return None
        parts = (self.name, repr(signature), repr(codegen.magic_tuple()), self.stamp())
        key = hashlib.sha256(repr(parts).encode()).hexdigest()[:20]
        plain = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in self.name)
        return self.folder / f"{plain[-60:]}-{key}{SUFFIX}"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The CompileResult of a signature, or None when it has to be compiled."""
        target_context.refresh()
        path = self.path(sig, target_context.codegen())
        if path is None:
            return None
        try:
            data = path.read_bytes()
        except OSError:
            return None
        try:
            return inner.rebuild(target_context, pickle.loads(_checked(data)))
        except Exception:  # whatever is wrong with it, it can be made again
            tell(f"compiled code in {path.parent} was damaged and is compiled again")
            with suppress(OSError):
                path.unlink()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a CompileResult; where it cannot be written it is not kept."""
        path = self.path(sig, data.codegen)
        if path is None or data.library.has_dynamic_globals or any(not lifted.can_cache for lifted in data.lifted):
            return
        payload = dumps(data._reduce())
        part = path.with_name(f".{uuid.uuid4().hex}.part")
        try:
            part.write_bytes(_HEAD + hashlib.sha256(payload).digest() + payload)
            os.replace(part, path)
        except OSError:
            with suppress(OSError):
                part.unlink()


def _checked(data: bytes) -> bytes:
    """The payload of a file. ValueError when it is not what was written."""
    start = len(_HEAD) + _SUM
    payload = data[start:]
    if data[: len(_HEAD)] != _HEAD or hashlib.sha256(payload).digest() != data[len(_HEAD) : start]:
        raise ValueError("not a file of compiled code, or a part of one")
    return payload
