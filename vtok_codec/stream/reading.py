"""Reads the tokens of a `.vtk` file as arrays: of one GOP, of all of them, or of some latent frames.

Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from vtok_codec.container.header import Header
from vtok_codec.container.reader import TokenChunk, VtkReader
from vtok_codec.container.records import GopEntry
from vtok_codec.errors import DamageError, InputError
from vtok_codec.stream.limits import MAX_TOKEN_BYTES
from vtok_codec.stream.steadiness import Steadiness
from vtok_codec.stream.unpacking import PriorFinder, UnpackedChunk, unpacked_events
from vtok_codec.tokens.radix import Tokens, digits_to_tokens


@dataclass(frozen=True)
class Gop:
    """The tokens of one group of pictures, which can be decoded without any other GOP."""

    tokens: Tokens
    """The tokens, uint16 `t h w n`."""
    frames: int
    """The number of frames that the tokens stand for. It may be less than the last latent frame could hold."""
    steady: bool = True
    """Whether all frames, and the last one before them, have the nominal duration up to a tick."""


class _Budget:
    """Refuses chunks that would make an array of tokens larger than it may be, before they are unpacked."""

    def __init__(self, header: Header, most_bytes: int) -> None:
        self._header, self._most_bytes = header, most_bytes
        self.used_bytes = 0

    def admit(self, chunk: TokenChunk) -> None:
        """Count a chunk.

        Raises:
            InputError: The array would be too large.
        """
        self.used_bytes += 2 * math.prod(chunk.latent_shape) * self._header.tokens_per_position
        if self.used_bytes > self._most_bytes:
            raise _too_large()


def _too_large() -> InputError:
    return InputError(
        "the tokens take more memory than allowed; read single GOPs, or raise the limit (--max-mib, max_bytes)"
    )


def read_tokens(
    stream: BinaryIO, priors: PriorFinder, gop: int | None = None, max_bytes: int = MAX_TOKEN_BYTES
) -> Tokens:
    """Read the tokens of one GOP or of a whole file.

    Args:
        stream: The file.
        priors: Finds the prior that the file names.
        gop: The number of the GOP; None for all GOPs.
        max_bytes: The largest size of the array in bytes.

    Returns:
        The tokens, uint16 `t h w n`. Those of several GOPs follow one another along the first axis.

    Raises:
        InputError: There is no such GOP, or one GOP is asked for and the stream cannot seek, or the array is too large.
        FormatError, DamageError: The file cannot be read.
    """
    return tokens_of(VtkReader(stream), priors, gop, max_bytes)


def tokens_of(reader: VtkReader, priors: PriorFinder, gop: int | None, max_bytes: int) -> Tokens:
    """Read the tokens of a file of which only the header has been read; see `read_tokens`."""
    if gop is not None:
        return read_gop(reader, gop, priors, max_bytes).tokens
    return np.concatenate([each.tokens for each in read_all_gops(reader, priors, max_bytes)])


def read_all_gops(reader: VtkReader, priors: PriorFinder, max_bytes: int = MAX_TOKEN_BYTES) -> list[Gop]:
    """Read all GOPs from the current position of the reader on.

    Args:
        reader: The reader of the file.
        priors: Finds the prior that the file names.
        max_bytes: The largest size of the tokens of all GOPs together, in bytes.

    Raises:
        InputError: The tokens are too large.
        FormatError, DamageError: The file cannot be read any further.
    """
    gops: list[Gop] = []
    # The limit of the generator is per GOP, so the sum is counted here, before the next GOP is read.
    for gop in read_gops(reader, priors, max_bytes):
        gops.append(gop)
        max_bytes -= gop.tokens.nbytes
        if max_bytes < 0:
            raise _too_large()
    return gops


def read_gops(
    reader: VtkReader, priors: PriorFinder, max_bytes: int = MAX_TOKEN_BYTES, first_frames: int = 0
) -> Iterator[Gop]:
    """Yield the GOPs from the current position of the reader on. Only one GOP is in memory at a time.

    Args:
        reader: The reader of the file.
        priors: Finds the prior that the file names.
        max_bytes: The largest size of the tokens of a GOP in bytes.
        first_frames: The number of frames of the first GOP; 0 if it is not known. With it, nothing behind that GOP is
            read before it is yielded.

    Raises:
        InputError: The tokens of a GOP are too large.
        FormatError, DamageError: The file cannot be read any further.
    """
    parts: list[Tokens] = []
    frames, steadiness = 0, Steadiness(reader.header.frame_ticks)
    budget = _Budget(reader.header, max_bytes)

    def admit(chunk: TokenChunk) -> None:
        if chunk.first:
            budget.used_bytes = 0
        budget.admit(chunk)

    def ended() -> Gop:
        nonlocal parts, frames, first_frames
        gop = Gop(np.concatenate(parts), frames, steadiness.steady)
        parts, frames, first_frames, steadiness.steady = [], 0, 0, True
        return gop

    for event in unpacked_events(reader, priors, admit):
        if isinstance(event, UnpackedChunk):
            if event.chunk.first and parts:
                yield ended()
            parts.append(digits_to_tokens(event.digits, reader.header.model.levels))
            frames += len(event.chunk.pts)
            steadiness.add(event.chunk.pts)
            if frames == first_frames:
                yield ended()
    if parts:
        yield ended()


def read_first_tokens(reader: VtkReader, latents: int, priors: PriorFinder) -> Tokens:
    """Read the tokens of at least some latent frames from the current position of the reader on.

    It stops with the chunk that completes them, so what follows may be missing.

    Args:
        reader: The reader of the file.
        latents: The number of latent frames.
        priors: Finds the prior that the file names.

    Returns:
        The tokens, `t h w n` with t of at least `latents`; fewer only at the end of the file.

    Raises:
        InputError: The tokens are too large.
        FormatError, DamageError: The file cannot be read that far.
    """
    parts: list[Tokens] = []
    for event in unpacked_events(reader, priors, _Budget(reader.header, MAX_TOKEN_BYTES).admit):
        if isinstance(event, UnpackedChunk):
            parts.append(digits_to_tokens(event.digits, reader.header.model.levels))
            latents -= len(parts[-1])
            if latents <= 0:
                break
    return np.concatenate(parts)


def read_gop(reader: VtkReader, gop: int, priors: PriorFinder, max_bytes: int = MAX_TOKEN_BYTES) -> Gop:
    """Read one GOP by its number, counted from 0.

    Args:
        reader: The reader of the file.
        gop: The number of the GOP.
        priors: Finds the prior that the file names.
        max_bytes: The largest size of its tokens in bytes.

    Raises:
        InputError: There is no such GOP, the input cannot seek, or the tokens are too large.
        FormatError, DamageError: The GOP or the index of the file cannot be read.
    """
    if not reader.seekable:
        raise InputError("one GOP can be read from a file only: a pipe cannot seek")
    entries = reader.index()
    if not 0 <= gop < len(entries):
        raise InputError(f"there is no GOP {gop}; the file has {len(entries)}")
    reader.seek(gop, entries[gop])
    frames = entries[gop + 1].first_frame - entries[gop].first_frame if gop + 1 < len(entries) else 0
    found = next(read_gops(reader, priors, max_bytes, first_frames=frames), None)
    if found is None:
        raise DamageError(f"the index points at another place than the start of GOP {gop}")
    return found


def gop_at(entries: list[GopEntry], pts: int) -> int:
    """Find the GOP in which a time lies.

    Args:
        entries: The index of the file.
        pts: A time in ticks of the header's time base.

    Returns:
        The number of the last GOP that starts at or before `pts`; 0 if `pts` lies before the first.
    """
    return max((number for number, entry in enumerate(entries) if entry.pts <= pts), default=0)
