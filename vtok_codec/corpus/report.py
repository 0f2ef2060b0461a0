"""Says how far a corpus has come, what it holds, and whether it is whole; and prepares bad clips for another try."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from vtok_codec.corpus.index import OK, ClipRow, read_index, rows_of
from vtok_codec.corpus.journal import Journal, shards_in_work
from vtok_codec.corpus.plan import Plan, check_inputs, index_path, is_done, read_inputs, shard_path
from vtok_codec.errors import FormatError, InputError
from vtok_codec.prior_files import priors_beside
from vtok_codec.stream.unpacking import PriorFinder
from vtok_codec.stream.verifying import verify
from vtok_codec.text import counted


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
        ModelError: The weights or the prior of the plan are missing.
        OSError: A file of the corpus is there and cannot be read, which says nothing about what it holds.
    """
    check_inputs(folder, plan)
    priors = priors_beside(plan.model)
    for shard in range(plan.shards):
        if not index_path(folder, shard).exists():
            yield Fault(shard, " is not done", done=False)
            continue
        try:
            rows = rows_of(read_index(index_path(folder, shard)))
            if [row.key for row in rows] != [key for key, _ in read_inputs(folder, shard)]:
                yield Fault(shard, ": its index has other clips than the plan")
            with shard_path(folder, shard).open("rb") as tar:
                for row in rows:
                    if row.size and (wrong := _wrong(tar, row, priors)):
                        yield Fault(shard, f", {row.key}: {wrong}")
        except (FileNotFoundError, InputError) as error:
            yield Fault(shard, f": {error}")
        on_shard(shard)


def _wrong(tar: io.BufferedReader, row: ClipRow, priors: PriorFinder) -> str | None:
    """Return what is wrong with a clip, or None if it is what the index says."""
    tar.seek(row.offset)
    try:
        summary = verify(io.BytesIO(tar.read(row.size)), priors)
    except FormatError as error:
        return str(error)
    if summary.totals.token_digest.hex() != row.tokens_sha256:
        return "its tokens are not those of the index"
    if summary.totals.frames != row.frames:
        return f"it has {counted(summary.totals.frames, 'frame')}, not {row.frames}"
    return None


def reopen_shards(folder: Path, plan: Plan, statuses: Collection[str]) -> int:
    """Remove the shards that hold clips with certain statuses, so that they are made again.

    Args:
        folder: The folder of the corpus.
        plan: Its plan.
        statuses: The statuses, out of `STATUSES`.

    Returns:
        The number of such clips.
    """
    clips = 0
    for shard, table in _indexes(folder, plan):
        found = sum(status in statuses for status in table["status"].to_pylist())
        clips += found
        if found:
            reopen_shard(folder, shard)
    return clips


def reopen_shard(folder: Path, shard: int) -> None:
    """Remove the index of a shard, so that the shard is made again. The old tar stays until the new one is whole."""
    index_path(folder, shard).unlink(missing_ok=True)
    Journal(folder, shard).remove()


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
