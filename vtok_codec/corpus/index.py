"""The index of a shard: a Parquet file with one row per clip, which says what became of it and where its tokens lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from vtok_codec.corpus.clip_source import Cell
from vtok_codec.errors import InputError
from vtok_codec.files import replacing

OK: Final = "ok"
UNREADABLE: Final = "unreadable"
TRUNCATED: Final = "truncated"
TOO_LARGE: Final = "too_large"
TIMEOUT: Final = "timeout"
CRASHED: Final = "crashed"
STATUSES: dict[str, str] = {
    OK: "the whole clip is there",
    UNREADABLE: "nothing of it can be read as a video",
    TRUNCATED: "it is cut short or damaged; the frames that can be decoded are there",
    TOO_LARGE: "its pictures have more pixels than the corpus allows",
    TIMEOUT: "it took longer than the time limit, each time it was tried",
    CRASHED: "its worker died each time it was tried",
}
"""What can become of a clip."""


@dataclass(frozen=True)
class ClipRow:
    """The row of a clip in the index of its shard."""

    key: str
    """The name of the clip in the tar, where its tokens are `KEY.vtk`."""
    source: str
    """Where the clip came from."""
    status: str
    """One of `STATUSES`."""
    error: str
    """What is wrong with the clip; empty for a whole one."""
    offset: int = 0
    """Where the `.vtk` file starts in the tar, in bytes."""
    size: int = 0
    """The size of the `.vtk` file in bytes; 0 if there is none."""
    tokens_sha256: str = ""
    """The SHA-256 of all tokens, as the file itself has it."""
    width: int = 0
    """The width of the video in pixels."""
    height: int = 0
    """The height of the video in pixels."""
    rows: int = 0
    """The rows of the latent grid."""
    columns: int = 0
    """The columns of the latent grid."""
    tokens_per_position: int = 0
    """The number of tokens per latent position."""
    rate: float = 0.0
    """Frames per second; 0 for a still image."""
    frames: int = 0
    """The number of frames."""
    latents: int = 0
    """The number of latent frames."""
    gop_latents: tuple[int, ...] = ()
    """The number of latent frames of each GOP."""
    gop_frames: tuple[int, ...] = ()
    """The number of frames of each GOP."""
    gop_offsets: tuple[int, ...] = ()
    """Where each GOP starts in the `.vtk` file, in bytes."""
    bits_per_pixel: float = 0.0
    """Bits per pixel of the `.vtk` file."""
    seconds: float = 0.0
    """The duration of the video."""

    @property
    def tokens(self) -> int:
        """The number of tokens."""
        return self.latents * self.rows * self.columns * self.tokens_per_position


_TYPES: Mapping[str, pa.DataType] = {
    "str": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "tuple[int, ...]": pa.list_(pa.int64()),
}
INDEX_FIELDS: list[pa.Field] = [pa.field(name, _TYPES[str(kind)]) for name, kind in ClipRow.__annotations__.items()]
"""The columns of an index before those of the user."""
_NAMES = [field.name for field in INDEX_FIELDS]


def write_index(
    path: Path, rows: Sequence[ClipRow], users: Sequence[Mapping[str, Cell]], fields: Sequence[pa.Field]
) -> None:
    """Write the index of a shard.

    Args:
        path: The file.
        rows: A row per clip.
        users: The user's columns of each clip.
        fields: The user's columns, with their types.
    """
    schema = pa.schema([*INDEX_FIELDS, *fields])
    whole = [{**asdict(row), **user} for row, user in zip(rows, users, strict=True)]
    # From a path, pyarrow guesses whether it is a URL.
    with replacing(path) as partial, partial.open("wb") as file:
        pq.write_table(pa.Table.from_pylist(whole, schema), file, write_page_checksum=True)


def read_index(source: Path | Any, name: str = "") -> pa.Table:
    """Read the index of a shard from a path or an open file.

    Args:
        source: The path or the file.
        name: The name of an open file, for messages.

    Raises:
        InputError: It is no index, or lacks a column.
        OSError: The file cannot be read.
    """
    try:
        if isinstance(source, Path):
            with source.open("rb") as file:
                return read_index(pa.BufferReader(file.read()), str(source))
        table = pq.read_table(source, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        # Of damaged contents, too, pyarrow raises the former, but without a number.
        if isinstance(error, OSError) and error.errno:
            raise
        raise InputError(f"cannot read the index {name or source}: {error}") from error
    if missing := set(_NAMES) - set(table.column_names):
        raise InputError(f"the index {name or source} has no column {min(missing)}")
    return table


def rows_of(table: pa.Table) -> list[ClipRow]:
    """Return the rows of an index without the user's columns."""
    return [
        ClipRow(**{**row, **{name: tuple(row[name]) for name in ("gop_latents", "gop_frames", "gop_offsets")}})
        for row in table.select(_NAMES).to_pylist()
    ]
