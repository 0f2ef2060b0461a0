"""Keeps results on disk under everything that they depend on, so that an interrupted evaluation can be resumed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vtok_codec.files import write_whole

_DIGITS = 24
"""Hexadecimal digits of a hash that are used."""
_PACKAGES = ("av", "constriction", "imageio-ffmpeg", "numpy", "pytorch-msssim", "scipy", "torch", "zstandard")
"""The packages whose versions a result depends on."""


def default_folder() -> Path:
    """Return the folder in which results are kept by default: `vtok/eval` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "vtok" / "eval"


@cache
def code_identity() -> str:
    """Return a hash of the source code of vtok and of the versions of the packages that results depend on."""
    digest = hashlib.sha256()
    package = Path(__file__).resolve().parent.parent
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    for name in _PACKAGES:
        digest.update(f"{name} {version(name)}".encode())
    return digest.hexdigest()[:_DIGITS]


class ResultCache:
    """A folder of JSON objects, each stored under a mapping of strings as its key.

    A damaged entry counts as missing. A folder that cannot be written to keeps nothing, without an error.

    Args:
        folder: Where to keep the entries; None to keep nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self.found = 0
        """How many entries were found so far."""

    def get(self, key: Mapping[str, str]) -> dict[str, Any] | None:
        """Return the entry that is stored under a key, or None if there is none."""
        if self._folder is None:
            return None
        try:
            entry = json.loads(self._path(self._folder, key).read_text(encoding="utf-8"))
            if entry["key"] != dict(key):
                return None
            self.found += 1
            return dict(entry["value"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: Mapping[str, str], value: Mapping[str, Any]) -> None:
        """Store an entry under a key."""
        if self._folder is None:
            return
        entry = json.dumps({"key": dict(key), "value": dict(value)})
        # A result that cannot be kept is still valid.
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._path(self._folder, key), entry.encode())

    @staticmethod
    def _path(folder: Path, key: Mapping[str, str]) -> Path:
        text = json.dumps(dict(key), sort_keys=True)
        return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]}.json"
