"""Reads the tokens of a `.vtk` file: its records, unpacked. Nothing here imports torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO, TypeAlias

import numpy as np

from vtok_codec.container.header import Header
from vtok_codec.container.reader import TokenChunk, VtkReader
from vtok_codec.container.records import GopEntry, StoredPacket, Totals
from vtok_codec.errors import DamageError, FormatError, InputError
from vtok_codec.prior_files import find_prior
from vtok_codec.stream.limits import MAX_TOKEN_BYTES
from vtok_codec.tokens.coders import PRIOR, Coder, CoderId, DigitLayout, make_coder
from vtok_codec.tokens.prior.prior import Prior
from vtok_codec.tokens.radix import Digits, Tokens, digits_to_tokens


@dataclass(frozen=True)
class FileSummary:
    """What a whole file holds."""

    header: Header
    """The header of the file."""
    totals: Totals
    """The totals at the end of the file."""
    file_bytes: int
    """The size of the file in bytes."""
    token_bytes: int
    """The size of the token records in bytes."""
    audio_bytes: int
    """The size of the audio packets in bytes."""
    latent_positions: int
    """The number of latent positions: latent frames times rows times columns, summed over all chunks."""
    window_tokens: int
    """The number of 1D tokens in all chunks."""
    duration_s: float
    """Seconds from the start of the first frame to the end of the last, or to its start if its duration is unknown."""
    steady: bool
    """Whether all frames but the last have the nominal duration, but for one tick of rounding."""

    @property
    def bits_per_pixel(self) -> float:
        """Bits per pixel of the whole file without its audio packets. Padding does not count as pixels."""
        return 8 * (self.file_bytes - self.audio_bytes) / (self.totals.frames * self.header.width * self.header.height)


@dataclass(frozen=True)
class UnpackedChunk:
    """A chunk of a file, unpacked."""

    chunk: TokenChunk
    """The chunk as it was read, with its packed digits."""
    digits: Digits
    """The digits of the chunk, uint8 `P t h w`."""


@dataclass(frozen=True)
class Gop:
    """The tokens of one group of pictures, which can be decoded without any other GOP."""

    tokens: Tokens
    """The tokens, uint16 `t h w n`."""
    frames: int
    """The number of frames that the tokens stand for. It may be less than the last latent frame could hold."""
    steady: bool = True
    """Whether all frames have the nominal duration."""


UnpackedEvent: TypeAlias = "UnpackedChunk | list[StoredPacket] | Totals"
"""One item of a file's content: a chunk, a list of audio packets, or, at the end, the totals."""


PriorFinder: TypeAlias = "Callable[[str], Prior]"
"""Finds a prior by the SHA-256 of its file, or raises a `ModelError`."""


def unpacked_events(
    reader: VtkReader,
    admit: Callable[[TokenChunk], None] = lambda chunk: None,
    priors: PriorFinder = find_prior,
) -> Iterator[UnpackedEvent]:
    """Yield the events of a reader, with each chunk unpacked.

    If the file is read from its first chunk to its end, its tokens are compared with the digest at the end.

    Args:
        reader: The reader of the file.
        admit: Called with each chunk before it is unpacked. It raises an error if the chunk is not wanted.
        priors: Finds the prior that the file names.

    Raises:
        DamageError: A record is damaged (see `VtkReader.events`), a chunk cannot be unpacked, or the tokens do not
            match the digest. All events before the damage have been yielded.
        FormatError: A record has an unknown type that may not be skipped, or the coder is unknown.
        ModelError: The prior that the file names is missing.
    """
    unpacker = _Unpacker(reader.header, priors)
    levels = reader.header.model.levels
    digest = hashlib.sha256()
    for event in reader.events():
        if isinstance(event, TokenChunk):
            admit(event)
            try:
                digits = unpacker.digits(event)
            except FormatError as error:
                raise type(error)(f"{error} ({reader.progress})") from None
            if reader.reads_all:
                digest.update(token_bytes(digits_to_tokens(digits, levels)))
            yield UnpackedChunk(event, digits)
        else:
            if isinstance(event, Totals) and reader.reads_all and digest.digest() != event.token_digest:
                raise DamageError("the tokens do not match the digest at the end of the file")
            yield event


@dataclass(frozen=True)
class Damage:
    """A damaged part of a file, which was skipped: from the record where it was noticed to the next usable GOP."""

    reason: str
    """What is wrong with the file."""
    most_frames: int | None
    """The largest number of frames that can have been lost; None where no usable GOP follows."""

    def joined(self, after: Damage) -> Damage:
        """Join this damage with the next one into one part, which keeps the reason of the first."""
        if self.most_frames is None or after.most_frames is None:
            return Damage(self.reason, None)
        return Damage(self.reason, self.most_frames + after.most_frames)


def salvaged_events(reader: VtkReader, priors: PriorFinder = find_prior) -> Iterator[UnpackedEvent | Damage]:
    """Yield the events of a reader like `unpacked_events`, but go on after damage.

    Damage is yielded as an event. The events after it start with the next GOP whose first record is intact.

    Raises:
        FormatError: A record has an unknown type that may not be skipped, or the coder is unknown.
        ModelError: The prior that the file names is missing.
    """
    while True:
        try:
            for event in unpacked_events(reader, priors=priors):
                yield event
                if isinstance(event, Totals):
                    # All content has been read, so damage after the totals does not matter.
                    return
            return
        except DamageError as error:
            most_frames = reader.skip_damage()
            yield Damage(str(error), most_frames)
            if most_frames is None:
                return


class _Unpacker:
    """Unpacks chunks in order. It holds the coder of the current GOP."""

    def __init__(self, header: Header, priors: PriorFinder) -> None:
        self._header, self._priors = header, priors
        self._open: tuple[CoderId, Coder] | None = None

    def digits(self, chunk: TokenChunk) -> Digits:
        """Unpack the digits `P t h w` of the next chunk, or of any chunk that starts a GOP."""
        header = self._header
        if chunk.first:
            self._open = chunk.coder, self._coder(chunk.coder)
        if self._open is None or self._open[0] != chunk.coder:
            raise DamageError("a chunk has another coder than its GOP began with")
        try:
            return self._open[1].unpack(chunk.packed, (header.planes, *chunk.latent_shape))
        except ValueError as error:
            raise DamageError(f"a chunk cannot be unpacked: {error}") from None

    def _coder(self, coder: CoderId) -> Coder:
        """Return a new coder. The prior is looked up for the coder that needs it, so that others do without."""
        name = self._header.prior_sha256
        prior = self._priors(name) if name and coder == PRIOR.id else None
        try:
            return make_coder(coder, digit_layout(self._header, prior))
        except LookupError as error:
            raise FormatError(f"{error.args[0]} is not known for such tokens; a newer vtok may read it") from None


def digit_layout(header: Header, prior: Prior | None) -> DigitLayout:
    """Return what a coder must know about the digits of a file."""
    model = header.model
    grid = model.layout.grid(header.height, header.width)
    return DigitLayout(model.levels, header.tokens_per_position, model.layout.phases, prior, grid)


def token_bytes(tokens: Tokens) -> bytes:
    """Return tokens as the bytes over which the digest of a file is taken: little-endian uint16 in `t h w n` order."""
    return tokens.astype("<u2", copy=False).tobytes()


def verify(stream: BinaryIO, priors: PriorFinder = find_prior) -> FileSummary:
    """Read a whole file, check every record, and compare its tokens with the digest at its end.

    Args:
        stream: The file.
        priors: Finds the prior that the file names.

    Raises:
        FormatError, DamageError: The file is not valid. The message says what is wrong first, and where.
        ModelError: The prior that the file names is missing.
    """
    reader = VtkReader(stream)
    header = reader.header
    token_size = audio_size = positions = window_tokens = 0
    first_pts: int | None = None
    last_pts: int | None = None
    end_pts, steady = 0, True
    totals: Totals | None = None
    for event in unpacked_events(reader, priors=priors):
        if isinstance(event, UnpackedChunk):
            chunk = event.chunk
            times = chunk.pts if last_pts is None else (last_pts, *chunk.pts)
            steady = steady and all(abs(end - begin - header.frame_ticks) <= 1 for begin, end in pairwise(times))
            last_pts = chunk.pts[-1]
            token_size += chunk.record_bytes
            positions += event.digits[0].size
            window_tokens += len(chunk.window_tokens.tokens) if chunk.window_tokens else 0
            first_pts = chunk.pts[0] if first_pts is None else first_pts
            end_pts = chunk.pts[-1] + chunk.last_duration
        elif isinstance(event, Totals):
            totals = event
        else:
            audio_size += sum(len(packet.data) for packet in event)
    assert totals is not None
    duration = float((end_pts - (first_pts or 0)) * header.time_base)
    return FileSummary(
        header, totals, reader.position, token_size, audio_size, positions, window_tokens, duration, steady
    )


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
    return InputError("the tokens take more memory than allowed; read single GOPs, or raise the limit (--max-mib)")


def read_tokens(stream: BinaryIO, gop: int | None = None, max_bytes: int = MAX_TOKEN_BYTES) -> Tokens:
    """Read the tokens of one GOP or of a whole file.

    Args:
        stream: The file.
        gop: The number of the GOP; None for all GOPs.
        max_bytes: The largest size of the array in bytes.

    Returns:
        The tokens, uint16 `t h w n`. Those of several GOPs follow one another along the first axis.

    Raises:
        InputError: There is no such GOP, or one GOP is asked for and the stream cannot seek, or the array is too large.
        FormatError, DamageError: The file cannot be read.
    """
    reader = VtkReader(stream)
    if gop is not None:
        return read_gop(reader, gop, max_bytes).tokens
    return np.concatenate([each.tokens for each in read_all_gops(reader, max_bytes)])


def read_all_gops(reader: VtkReader, max_bytes: int = MAX_TOKEN_BYTES, priors: PriorFinder = find_prior) -> list[Gop]:
    """Read all GOPs from the current position of the reader on.

    Args:
        reader: The reader of the file.
        max_bytes: The largest size of the tokens of all GOPs together, in bytes.
        priors: Finds the prior that the file names.

    Raises:
        InputError: The tokens are too large.
        FormatError, DamageError: The file cannot be read any further.
    """
    gops: list[Gop] = []
    # The limit of the generator is per GOP, so the sum is counted here, before the next GOP is read.
    for gop in read_gops(reader, max_bytes, priors):
        gops.append(gop)
        max_bytes -= gop.tokens.nbytes
        if max_bytes < 0:
            raise _too_large()
    return gops


def read_gops(
    reader: VtkReader, max_bytes: int = MAX_TOKEN_BYTES, priors: PriorFinder = find_prior, first_frames: int = 0
) -> Iterator[Gop]:
    """Yield the GOPs from the current position of the reader on. Only one GOP is in memory at a time.

    Args:
        reader: The reader of the file.
        max_bytes: The largest size of the tokens of a GOP in bytes.
        priors: Finds the prior that the file names.
        first_frames: The number of frames of the first GOP, if it is known. Once they are read, an error behind them
            does not keep back the GOP.

    Raises:
        InputError: The tokens of a GOP are too large.
        FormatError, DamageError: The file cannot be read any further.
    """
    parts: list[Tokens] = []
    frames, steady = 0, True
    budget = _Budget(reader.header, max_bytes)

    def admit(chunk: TokenChunk) -> None:
        if chunk.first:
            budget.used_bytes = 0
        budget.admit(chunk)

    try:
        for event in unpacked_events(reader, admit, priors):
            if isinstance(event, UnpackedChunk):
                if event.chunk.first and parts:
                    yield Gop(np.concatenate(parts), frames, steady)
                    parts, frames, steady, first_frames = [], 0, True, 0
                parts.append(digits_to_tokens(event.digits, reader.header.model.levels))
                frames += len(event.chunk.pts)
                steady = steady and event.chunk.steady(reader.header.frame_ticks)
    except (FormatError, InputError):
        if not first_frames or frames != first_frames:
            raise
        yield Gop(np.concatenate(parts), frames, steady)
        raise
    if parts:
        yield Gop(np.concatenate(parts), frames, steady)


def read_latents(reader: VtkReader, count: int, max_bytes: int = MAX_TOKEN_BYTES) -> Tokens:
    """Read the tokens of at least some latent frames from the current position of the reader on.

    It stops with the chunk that completes them, so what follows may be missing.

    Args:
        reader: The reader of the file.
        count: The number of latent frames.
        max_bytes: The largest size of the tokens in bytes.

    Returns:
        The tokens, `t h w n` with t of at least `count`; fewer only at the end of the file.

    Raises:
        InputError: The tokens are too large.
        FormatError, DamageError: The file cannot be read that far.
    """
    parts: list[Tokens] = []
    for event in unpacked_events(reader, _Budget(reader.header, max_bytes).admit):
        if isinstance(event, UnpackedChunk):
            parts.append(digits_to_tokens(event.digits, reader.header.model.levels))
            count -= len(parts[-1])
            if count <= 0:
                break
    return np.concatenate(parts)


def read_gop(reader: VtkReader, gop: int, max_bytes: int = MAX_TOKEN_BYTES) -> Gop:
    """Read one GOP by its number, counted from 0.

    Args:
        reader: The reader of the file.
        gop: The number of the GOP.
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
    found = next(read_gops(reader, max_bytes, first_frames=frames), None)
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
