"""Finds the clips in WebDataset tars, whole or damaged."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from vtok_codec.corpus.clip_source import TAR_BLOCK, Cell, ClipSource, Problem, is_wanted
from vtok_codec.corpus.lists import cells_of
from vtok_codec.media.formats import is_image_name

_SIDECARS = {"json": "", "txt": "text", "cls": "class"}
"""The suffixes of files beside a clip in a tar, and the columns that hold them; JSON has the names of its own."""


def clips_in_tar(location: str, stream: BinaryIO, on_problem: Problem) -> Iterator[ClipSource]:
    """Yield the clips in a WebDataset tar, with the columns from the `.json`, `.txt` and `.cls` files of the same key.

    A picture beside a video of the same key is its thumbnail, and no clip.
    """
    clips: list[tuple[str, tarfile.TarInfo]] = []
    columns: dict[str, dict[str, Cell]] = {}
    moving: set[str] = set()
    lost: int | None = None
    for member in _members(stream):
        if isinstance(member, int):
            lost = member
            break
        # The key of a WebDataset member ends at the first dot of its base name.
        folder, _, base = member.name.rpartition("/")
        key, _, suffix = base.partition(".")
        key = f"{folder}/{key}"
        if suffix in _SIDECARS:
            try:
                columns.setdefault(key, {}).update(_sidecar(stream, member, suffix))
            except (ValueError, OSError) as error:
                on_problem(f"{location}::{member.name} is left out: {error}")
        elif is_wanted(base):
            clips.append((key, member))
            if not is_image_name(base):
                moving.add(key)
    for key, member in clips:
        if member.issparse():
            on_problem(f"{location}::{member.name} is stored as a sparse file, which vtok does not read; unpack it")
            yield ClipSource(location, member.name, member.offset_data, 0, columns=columns.get(key, {}))
        elif key not in moving or not is_image_name(member.name):
            yield ClipSource(location, member.name, member.offset_data, member.size, columns=columns.get(key, {}))
    if lost is not None:
        on_problem(f"{location} is damaged or cut short at byte {lost}; what follows counts as one unreadable clip")
        yield ClipSource(location, f"(from byte {lost} on)", lost, 0)


def _members(stream: BinaryIO) -> Iterator[tarfile.TarInfo | int]:
    """Yield the files of a tar, or of several one after the other.

    Where it is damaged or cut short, its place in bytes is yielded last; `tarfile` itself ends there without a word.
    """
    place = 0
    while True:
        stream.seek(place)
        try:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                for member in tar:
                    place = max(place, tar.offset)
                    if member.isfile():
                        yield member
                place = max(place, tar.offset)
        except (tarfile.TarError, OSError):
            yield place
            return
        after = _end_of_zeros(stream, place)
        if after is None:
            return
        if after == place:
            yield place
            return
        place = after


def _end_of_zeros(stream: BinaryIO, place: int) -> int | None:
    """Return where blocks of zeros end, as they do behind a tar; None if nothing but zeros follows, and some do."""
    stream.seek(place)
    begin = place
    while block := stream.read(TAR_BLOCK):
        if any(block):
            return place
        place += len(block)
    return None if place > begin else begin


def _sidecar(stream: BinaryIO, member: tarfile.TarInfo, suffix: str) -> dict[str, Cell]:
    """Return the columns that a file beside a clip holds."""
    stream.seek(member.offset_data)
    text = stream.read(member.size).decode("utf-8", "replace")
    if suffix == "json":
        return cells_of(json.loads(text))
    return cells_of({_SIDECARS[suffix]: text.strip()})
