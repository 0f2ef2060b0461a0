"""Reads lists of clips with columns: text, CSV, TSV, JSON lines and Parquet."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from vtok_codec.corpus.clip_source import Cell, ClipSource, is_url, reading
from vtok_codec.errors import InputError

LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
"""The suffixes of files that list clips."""
_NAMES = ("path", "file", "filename", "file_name", "filepath", "video", "video_path", "source", "url")
"""The columns that may name the clip of a row, in the order in which they are looked for."""


def clips_in_list(path: Path) -> Iterator[ClipSource]:
    """Yield the clips that a list names. Relative paths start at the folder of the list."""
    with reading(str(path)):
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

        yield from (cells_of(row) for row in pq.read_table(path).to_pylist())
        return
    with path.open(encoding="utf-8-sig", newline="") as lines:
        if suffix in (".csv", ".tsv"):
            yield from map(cells_of, _csv_rows(csv.DictReader(lines, delimiter="," if suffix == ".csv" else "\t")))
        elif suffix in (".jsonl", ".ndjson"):
            yield from (cells_of(_json_line(line, number)) for number, line in enumerate(lines, 1) if line.strip())
        else:
            yield from (cells_of({_NAMES[0]: line.strip()}) for line in lines if line.strip())


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


def cells_of(row: Any) -> dict[str, Cell]:
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
