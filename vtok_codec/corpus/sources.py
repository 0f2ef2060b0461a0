"""Finds the clips of a corpus: folders, globs, lists with columns, WebDataset tars, and URLs."""

from __future__ import annotations

import csv
import glob
import io
import json
import math
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeAlias, cast

from vtok_codec.errors import InputError, SettingError, VtokError
from vtok_codec.extras import missing_package
from vtok_codec.media.formats import is_clip_name, is_image_name

Cell = str | int | float | bool | None
"""The value of a user's column."""
_LISTS = (".txt", ".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
"""The suffixes of files that list clips."""
_NAMES = ("path", "file", "filename", "file_name", "filepath", "video", "video_path", "source", "url")
"""The columns that may name the clip of a row, in the order in which they are looked for."""
_NO_CLIPS = (".json", ".tgz", ".gz", ".zip", ".xz", ".zst")
"""The suffixes of files that are neither clips nor lists, though a user may take them for such."""
_TIMES = {"start", "end", "start_time", "end_time", "time_start", "time_end", "begin"}
"""Columns that probably say which part of a file a row means."""
_TAR = ".tar"
_BLOCK = 512
"""The size in bytes of the blocks of a tar."""
_LARGEST_IN_HEADER = 0o77777777777
"""The largest size in bytes that the header of a file in a tar can hold."""
_SIDECARS = {"json": "", "txt": "text", "cls": "class"}
"""The suffixes of files beside a clip in a tar, and the columns that hold them; JSON has the names of its own."""


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


Problem: TypeAlias = "Callable[[str], None]"
"""Is told what cannot be read and is passed over."""


def find_clips(
    sources: Sequence[str], on_problem: Problem = lambda problem: None, cut: tuple[str, str] | None = None
) -> list[ClipSource]:
    """Find the clips that the sources of a corpus name.

    Args:
        sources: Each a folder, which is searched with its subfolders; a video or an image; a pattern with `*`, `?` or
            `[…]`; a list (`.txt`, `.csv`, `.tsv`, `.jsonl`, `.ndjson`, `.parquet`); a WebDataset tar; or the URL of any
            of these but a list (`s3://…`, `https://…`).
        on_problem: Called with what is wrong with a source that is read all the same.
        cut: The columns that say where in its video a clip starts and ends; see `parse_seconds`. None for clips that
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
        start, end = (parse_seconds(clip.columns.get(name)) for name in cut)
    except ValueError as error:
        raise InputError(f"{clip.name}: {error}") from None
    if end is not None and end <= (start or 0):
        raise InputError(f"{clip.name}: its part ends at {end:g} s, not after its start at {start or 0:g} s")
    return replace(clip, start_s=start or 0.0, end_s=end)


def parse_seconds(cell: Cell) -> float | None:
    """Parse a time in seconds: a number, or text such as `12.5`, `01:30` or `0:01:30.5`. None if there is none.

    Raises:
        ValueError: It is something else.
    """
    if cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell)):
        return None
    if isinstance(cell, int | float) and not isinstance(cell, bool) and 0 <= cell < math.inf:
        return abs(float(cell))
    found = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)", str(cell).strip())
    if isinstance(cell, bool) or not found:
        raise ValueError(f"{cell!r} is no time; give seconds, such as 90.5, or minutes and seconds, such as 1:30.5")
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return 3600 * hours + 60 * minutes + seconds


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
            elif _is_wanted(name):
                yield from _clips_of_file(Path(name), root, on_problem)
    else:
        raise InputError(f"{source}: no such file or folder")


def is_url(source: str) -> bool:
    """Return whether a source is a URL rather than a path."""
    return "://" in source


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
            if _is_wanted(name):
                yield from _clips_of_file(Path(parent, name), root or str(folder), on_problem)


def _is_wanted(name: str) -> bool:
    """Return whether a file of a folder or a pattern is a clip or a tar; hidden files are not."""
    base = os.path.basename(name)
    return not base.startswith(".") and (is_clip_name(base) or base.endswith(_TAR))


def _clips_of_file(path: Path, root: str, on_problem: Problem) -> Iterator[ClipSource]:
    """Yield the clips of a tar or of a list, or a file of any other kind as a clip."""
    suffix = path.suffix.lower()
    if suffix == _TAR:
        with _reading(str(path)), path.open("rb") as stream:
            yield from _clips_in_tar(str(path), stream, on_problem)
    elif suffix in _LISTS:
        yield from _clips_in_list(path)
    elif suffix in _NO_CLIPS:
        raise InputError(f"{path} is no clip; name videos, folders, lists ({', '.join(_LISTS)}) or tars, unpacked")
    else:
        yield ClipSource(str(path), root=root)


def _clips_at_url(url: str, on_problem: Problem) -> Iterator[ClipSource]:
    fsspec = require_fsspec()
    with _reading(url):
        system, path = fsspec.core.url_to_fs(url)
        if glob.has_magic(path):
            paths, root = system.glob(path), path.rpartition("/")[0].split("*")[0]
        elif not _is_wanted(path) and system.isdir(path):
            paths, root = system.find(path), path
        else:
            paths, root = [path], path.rpartition("/")[0]
        for each in sorted(paths):
            location = system.unstrip_protocol(each)
            if not _is_wanted(each):
                continue
            if each.endswith(_TAR):
                with system.open(each, "rb") as stream:
                    yield from _clips_in_tar(location, stream, on_problem)
            else:
                yield ClipSource(location, root=system.unstrip_protocol(root))


def _clips_in_tar(location: str, stream: BinaryIO, on_problem: Problem) -> Iterator[ClipSource]:
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
        elif _is_wanted(base):
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
    while block := stream.read(_BLOCK):
        if any(block):
            return place
        place += len(block)
    return None if place > begin else begin


def _sidecar(stream: BinaryIO, member: tarfile.TarInfo, suffix: str) -> dict[str, Cell]:
    """Return the columns that a file beside a clip holds."""
    stream.seek(member.offset_data)
    text = stream.read(member.size).decode("utf-8", "replace")
    if suffix == "json":
        return _cells(json.loads(text))
    return _cells({_SIDECARS[suffix]: text.strip()})


def _clips_in_list(path: Path) -> Iterator[ClipSource]:
    """Yield the clips that a list names. Relative paths start at the folder of the list."""
    with _reading(str(path)):
        rows = list(_rows(path))
    for row in rows:
        named = next((name for name in _NAMES if name in row), None)
        if named is None or not row[named]:
            raise InputError(f"{path}: a row names no clip; give a column {' or '.join(_NAMES[:2])}")
        where = str(row[named])
        location = where if is_url(where) else os.path.normpath(os.path.join(path.parent, where))
        cells = {name: value for name, value in row.items() if name != named}
        yield ClipSource(location, root="" if is_url(where) else str(path.parent), columns=cells)


def _rows(path: Path) -> Iterator[dict[str, Cell]]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        import pyarrow.parquet as pq

        yield from (_cells(row) for row in pq.read_table(path).to_pylist())
        return
    with path.open(encoding="utf-8-sig", newline="") as lines:
        if suffix in (".csv", ".tsv"):
            yield from map(_cells, _csv_rows(csv.DictReader(lines, delimiter="," if suffix == ".csv" else "\t")))
        elif suffix in (".jsonl", ".ndjson"):
            yield from (_cells(_json_line(line, number)) for number, line in enumerate(lines, 1) if line.strip())
        else:
            yield from (_cells({_NAMES[0]: line.strip()}) for line in lines if line.strip())


def _csv_rows(reader: csv.DictReader[str]) -> Iterator[dict[str, str]]:
    """Yield rows.

    Raises:
        ValueError: A row has more or fewer cells than the header, or that has a name twice.
    """
    names = list(reader.fieldnames or ())
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two columns are called {twice[0]}")
    for row in reader:
        if None in row or None in row.values():
            raise ValueError(f"line {reader.line_num} has not as many cells as the header; quote cells with commas")
        yield row


def _json_line(line: str, number: int) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number}, column {error.colno}: {error.msg}") from None


def _cells(row: Any) -> dict[str, Cell]:
    """Return a row whose values are plain; others become JSON text."""
    if not isinstance(row, Mapping):
        raise ValueError("a row is not an object with names")
    return {str(name): _cell(value) for name, value in row.items()}


def _cell(value: Any) -> Cell:
    if isinstance(value, str):
        # JSON may hold halves of characters, which no file can store.
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, int | float | bool | None):
        return value
    return json.dumps(value, default=str) if isinstance(value, Mapping | Sequence | Set) else str(value)


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn whatever a parser or a file system raises into an `InputError`."""
    try:
        yield
    except VtokError:
        raise
    except Exception as error:
        # File systems and parsers raise many types of exceptions.
        raise InputError(f"cannot read {name}: {str(error) or type(error).__name__}") from error


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
    with _reading(clip.name):
        url = require_fsspec().open(clip.location, "rb").open() if is_url(clip.location) else None
        if clip.size < 0:
            return cast(BinaryIO, url)
        with url or Path(clip.location).open("rb") as stream:
            stream.seek(max(0, clip.offset - _BLOCK))
            head = stream.read(min(clip.offset, _BLOCK))
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
