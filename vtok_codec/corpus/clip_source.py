"""Where a clip of a corpus comes from: a file, a part of one, a member of a tar, or a URL."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

from vtok_codec.errors import InputError, VtokError
from vtok_codec.extras import missing_package
from vtok_codec.media.formats import is_clip_name

Cell = str | int | float | bool | None
"""The value of a user's column."""
Problem: TypeAlias = "Callable[[str], None]"
"""Is told what cannot be read and is passed over."""
TAR_SUFFIX = ".tar"
TAR_BLOCK = 512
"""The size in bytes of the blocks of a tar."""
_LARGEST_IN_HEADER = 0o77777777777
"""The largest size in bytes that the header of a file in a tar can hold."""


@dataclass(frozen=True)
class ClipSource:
    """Where a clip comes from, and what the user says about it."""

    location: str
    """The path or URL of a file; for a clip inside a tar, that of the tar."""
    member: str = ""
    """The name of the clip inside a tar."""
    offset: int = 0
    """Where the clip starts in a tar, in bytes."""
    size: int = -1
    """The size of the clip in a tar in bytes; −1 for a file of its own."""
    start_s: float = 0.0
    """Where the clip starts in its video, in seconds."""
    end_s: float | None = None
    """Where the clip ends in its video, in seconds; None for the end of the video."""
    root: str = ""
    """The folder that was searched, which the clip's key leaves out."""
    columns: Mapping[str, Cell] = field(default_factory=dict)
    """The user's columns."""

    @property
    def name(self) -> str:
        """The name of the clip in messages and in the index; a part ends in `#t=START,END` (Media Fragments URI)."""
        whole = f"{self.location}::{self.member}" if self.member else self.location
        if not self.start_s and self.end_s is None:
            return whole
        return f"{whole}#t={self.start_s:.15g}" + ("" if self.end_s is None else f",{self.end_s:.15g}")


def is_url(source: str) -> bool:
    """Return whether a source is a URL rather than a path."""
    return "://" in source


def is_wanted(name: str) -> bool:
    """Return whether a file of a folder or a pattern is a clip or a tar; hidden files are not."""
    base = os.path.basename(name)
    return not base.startswith(".") and (is_clip_name(base) or base.endswith(TAR_SUFFIX))


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn whatever a parser or a file system raises into an `InputError`."""
    try:
        yield
    except VtokError:
        raise
    except Exception as error:
        # File systems and parsers raise many types of exceptions.
        what = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"cannot read {name}: {what}") from error


def require_fsspec() -> Any:
    """Return the package fsspec, which opens URLs.

    Raises:
        PackageError: It is not installed.
    """
    try:
        import fsspec
    except ImportError:
        raise missing_package("fsspec", "a URL") from None
    return fsspec


def opened(clip: ClipSource) -> str | BinaryIO:
    """Return a clip as a source for `VideoReader`: its path, or a stream of its bytes.

    Raises:
        InputError: It cannot be read.
    """
    if clip.size < 0 and not is_url(clip.location):
        return clip.location
    with reading(clip.name):
        url = require_fsspec().open(clip.location, "rb").open() if is_url(clip.location) else None
        if clip.size < 0:
            return cast(BinaryIO, url)
        with url or Path(clip.location).open("rb") as stream:
            stream.seek(max(0, clip.offset - TAR_BLOCK))
            head = stream.read(min(clip.offset, TAR_BLOCK))
            data = stream.read(clip.size)
    if clip.size and not _is_head_of(head, clip):
        raise InputError(f"{clip.name} is not there any more: its tar has changed since the corpus began")
    if len(data) < clip.size:
        raise InputError(f"{clip.name}: its tar is cut short")
    return io.BytesIO(data)


def _is_head_of(head: bytes, clip: ClipSource) -> bool:
    """Return whether the block before the contents of a clip in a tar is its header."""
    try:
        member = tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    # Long names stand elsewhere; the header then has only a part of them, or none that counts.
    long = len(clip.member.encode("utf-8", "surrogateescape")) >= 100 or not clip.member.isascii()
    sized = member.size == clip.size or clip.size > _LARGEST_IN_HEADER
    return sized and (long or member.name == clip.member)
