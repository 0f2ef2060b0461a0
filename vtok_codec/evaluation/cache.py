"""Keeps results by all that they depend on, so that an interrupted evaluation goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

_DIGITS = 24
_PACKAGES = ("av", "constriction", "imageio-ffmpeg", "numpy", "pytorch-msssim", "scipy", "torch", "zstandard")
"""What a figure depends on beside our own code."""


def default_folder() -> Path:
    """Where results are kept: `vtok/eval` of the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "vtok" / "eval"


@cache
def code_identity() -> str:
    """A digest of our own sources and of the versions of the packages that they measure with."""
    digest = hashlib.sha256()
    package = Path(__file__).resolve().parent.parent
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    for name in _PACKAGES:
        digest.update(f"{name} {version(name)}".encode())
    return digest.hexdigest()[:_DIGITS]


class ResultCache:
    """JSON values under a key of strings. A damaged entry counts as none; a folder that cannot be written, likewise."""

    def __init__(self, folder: Path | None) -> None:
        """`folder` None keeps nothing."""
        self._folder = folder

    def get(self, key: Mapping[str, str]) -> dict[str, Any] | None:
        if self._folder is None:
            return None
        try:
            entry = json.loads(self._path(self._folder, key).read_text(encoding="utf-8"))
            return dict(entry["value"]) if entry["key"] == dict(key) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: Mapping[str, str], value: Mapping[str, Any]) -> None:
        if self._folder is None:
            return
        path = self._path(self._folder, key)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps({"key": dict(key), "value": dict(value)}), encoding="utf-8")
            os.replace(partial, path)
        except OSError:
            # Measured all the same; only not kept.
            partial.unlink(missing_ok=True)

    @staticmethod
    def _path(folder: Path, key: Mapping[str, str]) -> Path:
        text = json.dumps(dict(key), sort_keys=True)
        return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]}.json"
