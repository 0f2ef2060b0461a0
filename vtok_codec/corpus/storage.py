"""Reads parts of a corpus's files, on a disk or at a URL, with an optional copy on a local disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

from vtok_codec.corpus.clip_source import is_url, reading, require_fsspec
from vtok_codec.errors import InputError
from vtok_codec.files import exclusive, replacing

_RENEWING = Lock()
"""Held while a storage forgets its files, which several threads of a child may ask for at once."""
_OPEN_FILES = 16
"""The most files that stay open at a time in a process."""


class Storage:
    """The files below a folder or a URL. Pickled or forked, it opens its files anew.

    Args:
        root: The folder, or its URL.
        cache: A folder for copies of whole files, which are made when a file with a version is first read; None for no
            copies.
    """

    def __init__(self, root: str, cache: str | None = None) -> None:
        self._root = root.rstrip("/")
        self._cache = Path(cache) if cache else None
        self._renew()

    def _renew(self) -> None:
        """Forget open files: a child of a fork shares their positions with its parent, and may have copied a lock."""
        self._open: dict[str, BinaryIO] = {}
        self._lock = Lock()
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {"_root": self._root, "_cache": self._cache}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._renew()

    def names(self, folder: str, suffix: str) -> list[str]:
        """Return the sorted paths, relative to the root, of the files in a folder whose names end with a suffix.

        Raises:
            InputError: The folder cannot be read.
        """
        with reading(f"{self._root}/{folder}"):
            if is_url(self._root):
                system, path = self._system()
                found = [str(each).rpartition("/")[2] for each in system.ls(f"{path}/{folder}", detail=False)]
            else:
                found = os.listdir(os.path.join(self._root, folder))
        return [f"{folder}/{name}" for name in sorted(found) if name.endswith(suffix) and not name.startswith(".")]

    def read(self, name: str, start: int = 0, size: int = -1, version: str = "") -> bytes:
        """Read a part of a file.

        Args:
            name: The path of the file, relative to the root.
            start: Where the part begins, in bytes.
            size: The size of the part in bytes; −1 for all that follows.
            version: A hash that tells the contents of the file, by which a copy is kept; empty for a file that must not
                be copied.

        Raises:
            InputError: The file cannot be read, or is shorter.
        """
        if self._process != os.getpid():
            with _RENEWING:
                if self._process != os.getpid():
                    self._renew()
        # Threads may share the windows of a corpus.
        with reading(f"{self._root}/{name}"), self._lock:
            stream = self._open.pop(name, None) or self._opened(name, version)
            self._open[name] = stream
            if len(self._open) > _OPEN_FILES:
                self._open.pop(next(iter(self._open))).close()
            stream.seek(start)
            data = stream.read(size)
        if size >= 0 and len(data) < size:
            raise InputError(f"{self._root}/{name} is shorter than its index says")
        return data

    def _opened(self, name: str, version: str) -> BinaryIO:
        if self._cache is None or not version:
            return self._source(name)
        copy = self._cache / f"{version}{Path(name).suffix}"
        if not copy.exists():
            self._copy(name, copy)
        return copy.open("rb")

    def _copy(self, name: str, copy: Path) -> None:
        """Copy a file, unless another process is faster."""
        source = self._source(name)
        try:
            copy.parent.mkdir(parents=True, exist_ok=True)
            with source, exclusive(copy.with_suffix(".lock"), wait=True):
                if copy.exists():
                    return
                with replacing(copy) as partial, partial.open("wb") as target:
                    while piece := source.read(1 << 20):
                        target.write(piece)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
                raise
            raise InputError(f"cannot copy a shard to the cache {self._cache}: {error.strerror}") from error

    def _source(self, name: str) -> BinaryIO:
        if is_url(self._root):
            system, path = self._system()
            opened: BinaryIO = system.open(f"{path}/{name}", "rb")
            return opened
        return open(os.path.join(self._root, name), "rb")

    def _system(self) -> tuple[Any, str]:
        system, path = require_fsspec().core.url_to_fs(self._root)
        return system, path
