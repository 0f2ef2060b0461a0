"""The inputs of a corpus: its clips and what the user says about them, in `inputs.parquet`, fixed when it begins."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtok_codec.corpus.clip_source import Cell, ClipSource
from vtok_codec.corpus.sources import keys_of
from vtok_codec.errors import InputError, SettingError
from vtok_codec.extras import missing_package
from vtok_codec.files import replacing
from vtok_codec.text import printable

if TYPE_CHECKING:
    import pyarrow as pa

ITEM_FIELDS = ("tokens", "gop_start", "gop_latent", "latent")
"""The names of what a window holds besides its key, which no column may have."""
_INPUTS_NAME = "inputs.parquet"
_SOURCE_FIELDS = ("key", "location", "member", "offset", "size", "part_start_s", "part_end_s")
"""The columns of `inputs.parquet` before those of the user."""


def parquet() -> Any:
    """Import pyarrow's Parquet module.

    Raises:
        PackageError: It is not installed.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise missing_package("pyarrow", "a corpus") from None
    return pq


def inputs_table(clips: Sequence[ClipSource], keep: Sequence[str] | None) -> pa.Table:
    """Return clips as a table with the user's columns to keep, of which None keeps all.

    Raises:
        SettingError: A column to keep does not exist.
        InputError: A name or a column cannot be stored.
    """
    import pyarrow as pa

    from vtok_codec.corpus.index import INDEX_FIELDS

    taken = {*(field.name for field in INDEX_FIELDS), *_SOURCE_FIELDS, *ITEM_FIELDS}
    names = dict.fromkeys(name for clip in clips for name in clip.columns)
    if missing := set(keep or ()) - set(names):
        raise SettingError(
            f"keep {min(missing)}: the clips have no such column; they have {', '.join(names) or 'none'}"
        )
    kept = [name for name in names if keep is None or name in keep]
    columns = {
        "key": pa.array(keys_of(clips)),
        "location": pa.array([_storable(clip.location) for clip in clips]),
        "member": pa.array([clip.member for clip in clips]),
        "offset": pa.array([clip.offset for clip in clips], pa.int64()),
        "size": pa.array([clip.size for clip in clips], pa.int64()),
        "part_start_s": pa.array([clip.start_s for clip in clips], pa.float64()),
        "part_end_s": pa.array([clip.end_s for clip in clips], pa.float64()),
        # The index has columns of its own.
        **{
            f"user_{name}" if name in taken else name: _column([clip.columns.get(name) for clip in clips])
            for name in kept
        },
    }
    return pa.table(columns)


def _column(values: list[Cell]) -> pa.Array:
    """Return values as an array of one type; as text, if they are of several."""
    import pyarrow as pa

    try:
        array = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        array = pa.array([None if value is None else str(value) for value in values])
    return array.cast(pa.string()) if array.type == pa.null() else array


def _storable(location: str) -> str:
    """Return the location of a clip, if Parquet can hold it.

    Raises:
        InputError: It is not UTF-8.
    """
    try:
        location.encode()
    except UnicodeEncodeError:
        raise InputError(f"the name of {printable(location)} is not UTF-8; rename the file") from None
    return location


def write_inputs(folder: Path, table: pa.Table, clips_per_shard: int) -> str:
    """Write the table of `inputs_table` into the folder of a corpus, and return the hash of the file."""
    with replacing(folder / _INPUTS_NAME) as partial:
        # A shard reads only its own row group. From a path, pyarrow guesses whether it is a URL.
        with partial.open("wb") as file:
            parquet().write_table(table, file, row_group_size=clips_per_shard)
        return hashlib.sha256(partial.read_bytes()).hexdigest()


def check_inputs(folder: Path, sha256: str) -> None:
    """Check by their hash that the inputs of a corpus are those that it began with.

    Raises:
        InputError: They have changed, or cannot be read.
    """
    try:
        digest = hashlib.sha256((folder / _INPUTS_NAME).read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {folder / _INPUTS_NAME}: {error.strerror}") from error
    if digest != sha256:
        raise InputError(f"{folder / _INPUTS_NAME} is not the one that the corpus began with; begin another corpus")


def read_inputs(folder: Path, shard: int) -> list[tuple[str, ClipSource]]:
    """Return the keys and the sources of the clips of a shard of a corpus."""
    file = parquet().ParquetFile(folder / _INPUTS_NAME)
    rows = file.read_row_group(shard).to_pylist()
    return [
        (
            row["key"],
            ClipSource(
                row["location"],
                row["member"],
                row["offset"],
                row["size"],
                # A corpus that began before clips could be parts has no such columns.
                row.get("part_start_s", 0.0),
                row.get("part_end_s"),
                columns={name: value for name, value in row.items() if name not in _SOURCE_FIELDS},
            ),
        )
        for row in rows
    ]


def input_names(folder: Path) -> set[str]:
    """Return the names of all clips of a corpus; see `ClipSource.name`."""
    shards = parquet().ParquetFile(folder / _INPUTS_NAME).num_row_groups
    return {source.name for shard in range(shards) for _, source in read_inputs(folder, shard)}


def user_fields(folder: Path) -> list[pa.Field]:
    """Return the columns of the user in a corpus, with their types."""
    schema = parquet().read_schema(folder / _INPUTS_NAME)
    return [field for field in schema if field.name not in _SOURCE_FIELDS]
