"""Says how far a corpus has come, what it holds, and whether it is whole; and prepares bad clips for another try."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from vtok_codec.corpus.index import OK, read_index, rows_of
from vtok_codec.corpus.inputs import check_inputs, read_inputs, user_fields
from vtok_codec.corpus.journal import Journal, shards_in_work
from vtok_codec.corpus.plan import Plan, index_path, is_done, priors_of_corpus, shard_path
from vtok_codec.corpus.shard_tar import EncodedClip, ShardWriter, wrong_with
from vtok_codec.errors import InputError
from vtok_codec.stream.unpacking import PriorFinder


@dataclass(frozen=True)
class Status:
    """How far a corpus has come."""

    clips: int
    """All clips."""
    shards: int
    """All shards."""
    shards_done: int
    """The shards that are done."""
    in_work: dict[str, str | None]
    """The shards that are in work or were interrupted, each with the clip that is or was under way."""
    statuses: dict[str, int]
    """The clips of the shards that are done, by status."""


def status_of(folder: Path, plan: Plan) -> Status:
    """Return how far a corpus has come."""
    statuses: Counter[str] = Counter()
    done = 0
    for _, table in _indexes(folder, plan):
        statuses.update(table["status"].to_pylist())
        done += 1
    begun = [shard for shard in sorted(shards_in_work(folder)) if not is_done(folder, shard)]
    under_way = {f"{shard:06d}": Journal(folder, shard).state().under_way for shard in begun}
    return Status(plan.clips, plan.shards, done, under_way, dict(statuses.most_common()))


@dataclass(frozen=True)
class Stats:
    """What the done shards of a corpus hold."""

    clips: int
    """The clips that have tokens."""
    frames: int
    """Their frames."""
    hours: float
    """Their duration in hours."""
    tokens: int
    """Their tokens."""
    bytes: int
    """The size of their `.vtk` files in bytes."""
    bits_per_pixel: float
    """Bits per pixel of all clips together."""
    bytes_per_token: float
    """The mean size of a token in the files."""
    grids: dict[str, int]
    """The number of clips for each latent grid, as rows x columns."""
    longest_latents: int
    """The latent frames of the longest clip."""
    shards_done: int
    """The shards that these clips are in."""
    shards: int
    """All shards."""


def stats_of(folder: Path, plan: Plan) -> Stats:
    """Return what the done shards hold.

    Raises:
        InputError: No clip is done yet.
    """
    tables = [table for _, table in _indexes(folder, plan)]
    rows = [row for table in tables for row in rows_of(table) if row.size]
    if not rows:
        raise InputError(f"{folder} has no clip yet")
    size, tokens = sum(row.size for row in rows), sum(row.tokens for row in rows)
    pixels = sum(row.frames * row.width * row.height for row in rows)
    return Stats(
        clips=len(rows),
        frames=sum(row.frames for row in rows),
        hours=sum(row.seconds for row in rows) / 3600,
        tokens=tokens,
        bytes=size,
        bits_per_pixel=8 * size / pixels,
        bytes_per_token=size / tokens,
        grids=dict(Counter(f"{row.rows}x{row.columns}" for row in rows).most_common()),
        longest_latents=max(row.latents for row in rows),
        shards_done=len(tables),
        shards=plan.shards,
    )


@dataclass(frozen=True)
class Fault:
    """Something that is wrong with a corpus."""

    shard: int
    """The number of the shard."""
    text: str
    """What is wrong."""
    done: bool = True
    """Whether the shard was ever made."""

    def __str__(self) -> str:
        return f"shard {self.shard:06d}{self.text}"


def check_corpus(folder: Path, plan: Plan, on_shard: Callable[[int], None] = lambda shard: None) -> Iterator[Fault]:
    """Read all done shards, compare every clip with the index, and the index with the plan.

    Args:
        folder: The folder of the corpus.
        plan: Its plan.
        on_shard: Called with the number of each shard that has been read.

    Yields:
        A fault for each shard that is missing or not readable, and for each clip that is not what the index says.

    Raises:
        InputError: The inputs are not those of the plan.
        ModelError: The prior with which a clip was packed is missing.
        OSError: A file of the corpus is there and cannot be read, which says nothing about what it holds.
    """
    check_inputs(folder, plan.inputs_sha256)
    priors = priors_of_corpus(plan.model)
    for shard in range(plan.shards):
        if not index_path(folder, shard).exists():
            yield Fault(shard, " is not done", done=False)
            continue
        try:
            for text in _faults_of(folder, shard, priors):
                yield Fault(shard, text)
        except (FileNotFoundError, InputError) as error:
            yield Fault(shard, f": {error}")
        on_shard(shard)


def _faults_of(folder: Path, shard: int, priors: PriorFinder) -> Iterator[str]:
    """Yield what is wrong with a done shard."""
    table = read_index(index_path(folder, shard))
    rows, inputs = rows_of(table), read_inputs(folder, shard)
    if [row.key for row in rows] != [key for key, _ in inputs]:
        yield ": its index has other clips than the plan"
        return
    users = table.select([field.name for field in user_fields(folder)]).to_pylist()
    whole = True
    with shard_path(folder, shard).open("rb") as tar:
        same = _Comparison(tar)
        with closing(ShardWriter(cast(BinaryIO, same))) as writer:
            for row, user, (_, source) in zip(rows, users, inputs, strict=True):
                tar.seek(row.offset)
                data = tar.read(row.size)
                wrong = wrong_with(data, row, priors) if row.size else None
                if not wrong and not _equal(user, source.columns):
                    wrong = "its columns are not those of the plan"
                if wrong:
                    whole = False
                    yield f", {row.key}: {wrong}"
                writer.add(EncodedClip(row, data), source.columns)
        # A fault of a clip has been told.
        if whole and not same.is_whole():
            yield ": its tar holds something else than its clips"


def _equal(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    """Return whether two rows have the same values, where NaN equals NaN."""
    return one.keys() == other.keys() and all(one[key] == other[key] or one[key] != one[key] for key in one)


class _Comparison:
    """A stream to write to, which compares what is written with a file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._place, self._same = file, 0, True

    def tell(self) -> int:
        return self._place

    def write(self, data: bytes) -> int:
        self._file.seek(self._place)
        self._same = self._same and self._file.read(len(data)) == data
        self._place += len(data)
        return len(data)

    def is_whole(self) -> bool:
        """Return whether all that was written is what the file holds, to its end."""
        self._file.seek(self._place)
        return self._same and not self._file.read(1)


def try_damaged_again(folder: Path, shard: int) -> None:
    """Ask for the damaged clips of a shard to be made again; the others are kept."""
    Journal(folder, shard).ask_again(())


def try_again(folder: Path, plan: Plan, statuses: Collection[str]) -> int:
    """Ask for clips with certain statuses to be tried again. Until that has happened, their shards stay as they are.

    Args:
        folder: The folder of the corpus.
        plan: Its plan.
        statuses: The statuses, out of `STATUSES`.

    Returns:
        The number of such clips.
    """
    clips = 0
    for shard, table in _indexes(folder, plan):
        rows = zip(table["key"].to_pylist(), table["status"].to_pylist(), strict=True)
        if keys := [key for key, status in rows if status in statuses]:
            Journal(folder, shard).ask_again(keys)
        clips += len(keys)
    return clips


def bad_clips(folder: Path, plan: Plan) -> Iterator[tuple[str, str, str]]:
    """Yield the source, the status and the error of every clip of the done shards that is not whole."""
    for _, table in _indexes(folder, plan):
        for row in table.select(["source", "status", "error"]).to_pylist():
            if row["status"] != OK:
                yield row["source"], row["status"], row["error"]


def _indexes(folder: Path, plan: Plan) -> Iterator[tuple[int, pa.Table]]:
    for shard in range(plan.shards):
        if is_done(folder, shard):
            yield shard, read_index(index_path(folder, shard))
