"""Finds the clips of a corpus: folders, globs, lists with columns, WebDataset tars, and URLs."""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from vtok_codec.corpus.clip_source import (
    TAR_SUFFIX,
    Cell,
    ClipSource,
    Problem,
    is_url,
    is_wanted,
    reading,
    require_fsspec,
)
from vtok_codec.corpus.lists import LIST_SUFFIXES, clips_in_list
from vtok_codec.corpus.tars import clips_in_tar
from vtok_codec.errors import InputError, SettingError
from vtok_codec.times import parse_seconds

_NO_CLIPS = (".json", ".tgz", ".gz", ".zip", ".xz", ".zst")
"""The suffixes of files that are neither clips nor lists, though a user may take them for such."""
_TIMES = {"start", "end", "start_time", "end_time", "time_start", "time_end", "begin"}
"""Columns that probably say which part of a file a row means."""


def find_clips(
    sources: Sequence[str], on_problem: Problem = lambda problem: None, cut: tuple[str, str] | None = None
) -> list[ClipSource]:
    """Find the clips that the sources of a corpus name.

    Args:
        sources: Each a folder, which is searched with its subfolders; a video or an image; a pattern with `*`, `?` or
            `[…]`; a list (`.txt`, `.csv`, `.tsv`, `.jsonl`, `.ndjson`, `.parquet`); a WebDataset tar; or the URL of any
            of these but a list (`s3://…`, `https://…`).
        on_problem: Called with what is wrong with a source that is read all the same.
        cut: The columns that say where in its video a clip starts and ends; see `vtok_codec.times`. None for clips that
            are whole files.

    Returns:
        The clips, sorted by file and start, without repetitions. What cannot be read of a tar is a clip as well, which
        turns out to be unreadable.

    Raises:
        InputError: A source does not exist, cannot be read, or names no clip; a clip is listed twice with different
            columns; or a clip ends before it starts.
        SettingError: No clip has one of the columns of `cut`.
    """
    found: dict[str, ClipSource] = {}
    for source in sources:
        count = 0
        # Workers may run in another folder.
        for whole in _clips_of(source if is_url(source) else os.path.abspath(source), on_problem):
            clip = _part_of(whole, cut) if cut else whole
            known = found.get(clip.name)
            if known is None or not known.columns:
                known = found[clip.name] = clip
            if known.columns != clip.columns and known.columns and clip.columns:
                raise InputError(
                    f"{source}: {clip.name} is listed twice, with other columns; if its rows are parts of it, name the "
                    "columns of their start and end (--cut start,end)"
                )
            count += 1
        if not count:
            raise InputError(f"{source} has no video or image; name a folder, a list or a tar with some")
    if cut and (missing := [name for name in cut if not any(name in clip.columns for clip in found.values())]):
        raise SettingError(f"cut {missing[0]}: no clip has such a column")
    if not cut and (times := sorted(_TIMES & {name for clip in found.values() for name in clip.columns})):
        on_problem(f"clips are whole files, though there are columns {', '.join(times)}; --cut START,END cuts by them")
    return sorted(found.values(), key=lambda clip: (clip.location, clip.member, clip.start_s, clip.end_s or math.inf))


def _part_of(clip: ClipSource, cut: tuple[str, str]) -> ClipSource:
    """Return the part of a clip between the times in two of its columns."""
    try:
        start, end = (_seconds_in(clip.columns.get(name)) for name in cut)
    except ValueError as error:
        raise InputError(f"{clip.name}: {error}") from None
    if end is not None and end <= (start or 0):
        raise InputError(f"{clip.name}: its part ends at {end:g} s, not after its start at {start or 0:g} s")
    return replace(clip, start_s=start or 0.0, end_s=end)


def _seconds_in(cell: Cell) -> float | None:
    """Return the time in a cell, in seconds; None if it is empty.

    Raises:
        ValueError: It holds something else.
    """
    if cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell)):
        return None
    try:
        return abs(parse_seconds(str(cell)))
    except ValueError:
        hint = "give seconds, such as 90.5, or minutes and seconds, such as 1:30.5"
        raise ValueError(f"{cell!r} is no time; {hint}") from None


def _clips_of(source: str, on_problem: Problem) -> Iterator[ClipSource]:
    if is_url(source):
        yield from _clips_at_url(source, on_problem)
        return
    path = Path(source)
    if path.is_dir():
        yield from _clips_in_folder(path, on_problem)
    elif path.exists():
        yield from _clips_of_file(path, str(path.parent), on_problem)
    elif glob.has_magic(source):
        root = _fixed_part(source)
        for name in sorted(glob.glob(source, recursive=True)):
            if Path(name).is_dir():
                yield from _clips_in_folder(Path(name), on_problem, root)
            elif is_wanted(name):
                yield from _clips_of_file(Path(name), root, on_problem)
    else:
        raise InputError(f"{source}: no such file or folder")


def _fixed_part(pattern: str) -> str:
    """Return the folders of a pattern before its first wildcard."""
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return str(Path(*parts[:fixed])) if fixed else "."


def _clips_in_folder(folder: Path, on_problem: Problem, root: str | None = None) -> Iterator[ClipSource]:
    def refuse(error: OSError) -> None:
        raise InputError(f"cannot read the folder {error.filename}: {error.strerror}") from error

    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        # A link may lead back to a folder above.
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in sorted(names):
            if is_wanted(name):
                yield from _clips_of_file(Path(parent, name), root or str(folder), on_problem)


def _clips_of_file(path: Path, root: str, on_problem: Problem) -> Iterator[ClipSource]:
    """Yield the clips of a tar or of a list, or a file of any other kind as a clip."""
    suffix = path.suffix.lower()
    if suffix == TAR_SUFFIX:
        with reading(str(path)), path.open("rb") as stream:
            yield from clips_in_tar(str(path), stream, on_problem)
    elif suffix in LIST_SUFFIXES:
        yield from clips_in_list(path)
    elif suffix in _NO_CLIPS:
        raise InputError(
            f"{path} is no clip; name videos, folders, lists ({', '.join(LIST_SUFFIXES)}) or tars, unpacked"
        )
    else:
        yield ClipSource(str(path), root=root)


def _clips_at_url(url: str, on_problem: Problem) -> Iterator[ClipSource]:
    fsspec = require_fsspec()
    with reading(url):
        system, path = fsspec.core.url_to_fs(url)
        if glob.has_magic(path):
            paths, root = system.glob(path), path.rpartition("/")[0].split("*")[0]
        elif not is_wanted(path) and system.isdir(path):
            paths, root = system.find(path), path
        else:
            paths, root = [path], path.rpartition("/")[0]
        for each in sorted(paths):
            location = system.unstrip_protocol(each)
            if not is_wanted(each):
                continue
            if each.endswith(TAR_SUFFIX):
                with system.open(each, "rb") as stream:
                    yield from clips_in_tar(location, stream, on_problem)
            else:
                yield ClipSource(location, root=system.unstrip_protocol(root))


def keys_of(clips: Iterable[ClipSource]) -> list[str]:
    """Return a key for each clip: its name below the searched folder, without what WebDataset does not allow.

    Letters, digits, `-`, `_` and `/` are kept. Equal keys get a number.
    """
    taken: dict[str, int] = {}
    keys = []
    for clip in clips:
        name = clip.member or clip.location
        if clip.root and not clip.member:
            name = name.removeprefix(clip.root) if is_url(name) else os.path.relpath(name, clip.root)
        parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..")]
        base = "/".join(map(_clean, [*parts[:-1], PurePosixPath(parts[-1]).stem] if parts else []))
        base = base or "clip"
        key = base
        while key in taken:
            taken[base] += 1
            key = f"{base}-{taken[base]}"
        taken[key] = 1
        keys.append(key)
    return keys


def _clean(part: str) -> str:
    return "".join(sign if sign.isalnum() or sign in "-_" else "_" for sign in part)
