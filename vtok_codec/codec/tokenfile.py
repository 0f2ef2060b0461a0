"""A `.vtk` file as tokens: container and unpacking together. Nothing here needs torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, TypeAlias

import numpy as np

from vtok_codec.container.header import Header
from vtok_codec.container.reader import TokenChunk, VtkReader
from vtok_codec.container.records import GopEntry, StoredPacket, Totals
from vtok_codec.errors import DamageError, FormatError, InputError
from vtok_codec.tokens.coders import Coder, CoderId, make_coder
from vtok_codec.tokens.radix import Digits, Tokens, digits_to_tokens


@dataclass(frozen=True)
class FileSummary:
    """What a whole file holds."""

    header: Header
    totals: Totals
    file_bytes: int
    token_bytes: int
    """Bytes of the token records."""
    audio_bytes: int
    latent_positions: int
    """Latent frames times rows times columns, over all chunks."""
    duration_s: float
    """From the first frame's start to the last one's end, as far as its duration is known."""

    @property
    def bits_per_pixel(self) -> float:
        """Of the whole file but its audio packets, over the pixels shown."""
        return 8 * (self.file_bytes - self.audio_bytes) / (self.totals.frames * self.header.width * self.header.height)


@dataclass(frozen=True)
class UnpackedChunk:
    """A chunk of a file with its digits `P t h w`."""

    chunk: TokenChunk
    digits: Digits


@dataclass(frozen=True)
class Gop:
    """What decodes by itself."""

    tokens: Tokens
    """`t h w n`."""
    frames: int
    """Frames that they stand for; the last latent frame may hold more."""


UnpackedEvent: TypeAlias = "UnpackedChunk | list[StoredPacket] | Totals"
"""What a file holds, in order: chunks, audio packets, at last the totals."""


def unpacked_events(reader: VtkReader) -> Iterator[UnpackedEvent]:
    """The reader's events, chunks unpacked.

    Raises:
        DamageError: see `VtkReader.events`; also where the packed digits are not those that belong there.
        FormatError: see there; also for a coder that is unknown.
    """
    unpacker = _Unpacker(reader.header)
    for event in reader.events():
        if isinstance(event, TokenChunk):
            try:
                yield UnpackedChunk(event, unpacker.digits(event))
            except FormatError as error:
                raise type(error)(f"{error} ({reader.progress})") from None
        else:
            yield event


@dataclass(frozen=True)
class Damage:
    """A part of a file that was passed over, from where it was noticed to the next GOP that is whole."""

    reason: str
    most_frames: int | None
    """More cannot have been lost; None where nothing follows."""

    def joined(self, after: Damage) -> Damage:
        """This and the damage right after it, as one."""
        if self.most_frames is None or after.most_frames is None:
            return Damage(self.reason, None)
        return Damage(self.reason, self.most_frames + after.most_frames)


def salvaged_events(reader: VtkReader) -> Iterator[UnpackedEvent | Damage]:
    """Like `unpacked_events`, but damage is an event, after which the next GOP that is whole goes on.

    Raises:
        FormatError: as there.
    """
    while True:
        try:
            for event in unpacked_events(reader):
                yield event
                if isinstance(event, Totals):
                    # What is wrong behind them takes nothing away.
                    return
            return
        except DamageError as error:
            most_frames = reader.skip_damage()
            yield Damage(str(error), most_frames)
            if most_frames is None:
                return


class _Unpacker:
    """Unpacks chunks in their order; it holds the coder of the open GOP."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self._open: tuple[CoderId, Coder] | None = None

    def digits(self, chunk: TokenChunk) -> Digits:
        """The digits `P t h w` of a chunk, which follows the one before or starts a GOP."""
        header = self._header
        if chunk.first:
            self._open = chunk.coder, _coder(header, chunk.coder)
        if self._open is None or self._open[0] != chunk.coder:
            raise DamageError("a chunk has another coder than its GOP began with")
        try:
            return self._open[1].unpack(chunk.packed, (header.planes, *chunk.latent_shape))
        except ValueError as error:
            raise DamageError(f"a chunk cannot be unpacked: {error}") from None


def _coder(header: Header, coder: CoderId) -> Coder:
    try:
        return make_coder(coder, header.model.levels, header.tokens)
    except LookupError as error:
        raise FormatError(f"{error.args[0]} is not known for such tokens; a newer vtok may read it") from None


def token_bytes(tokens: Tokens) -> bytes:
    """What the digest of a file is taken over: uint16 little-endian, `t h w n`."""
    return tokens.astype("<u2", copy=False).tobytes()


def verify(stream: BinaryIO) -> FileSummary:
    """Read a whole file, check every record, and compare its tokens with the digest at its end.

    Raises:
        FormatError, DamageError: the first thing that is wrong, and where.
    """
    reader = VtkReader(stream)
    header = reader.header
    digest = hashlib.sha256()
    token_size = audio_size = positions = 0
    first_pts: int | None = None
    end_pts = 0
    totals: Totals | None = None
    for event in unpacked_events(reader):
        if isinstance(event, UnpackedChunk):
            chunk = event.chunk
            digest.update(token_bytes(digits_to_tokens(event.digits, header.model.levels)))
            token_size += chunk.record_bytes
            positions += event.digits[0].size
            first_pts = chunk.pts[0] if first_pts is None else first_pts
            end_pts = chunk.pts[-1] + chunk.last_duration
        elif isinstance(event, Totals):
            totals = event
        else:
            audio_size += sum(len(packet.data) for packet in event)
    assert totals is not None
    if digest.digest() != totals.token_digest:
        raise DamageError("the tokens do not match the digest at the end of the file")
    duration = float((end_pts - (first_pts or 0)) * header.time_base)
    return FileSummary(header, totals, reader.position, token_size, audio_size, positions, duration)


def read_tokens(stream: BinaryIO, gop: int | None = None) -> Tokens:
    """The tokens `t h w n` of one GOP, or of the whole file, GOP after GOP; see `read_gop` and `read_gops`."""
    reader = VtkReader(stream)
    return np.concatenate([each.tokens for each in read_gops(reader)]) if gop is None else read_gop(reader, gop).tokens


def read_gops(reader: VtkReader) -> Iterator[Gop]:
    """Each GOP from where the reader stands, one in memory at a time.

    Raises:
        FormatError, DamageError: the file cannot be read that far.
    """
    parts: list[Tokens] = []
    frames = 0
    for event in unpacked_events(reader):
        if isinstance(event, UnpackedChunk):
            if event.chunk.first and parts:
                yield Gop(np.concatenate(parts), frames)
                parts, frames = [], 0
            parts.append(digits_to_tokens(event.digits, reader.header.model.levels))
            frames += len(event.chunk.pts)
    if parts:
        yield Gop(np.concatenate(parts), frames)


def read_gop(reader: VtkReader, gop: int) -> Gop:
    """One GOP, by its number.

    Raises:
        InputError: there is no such GOP, or the input cannot seek.
        FormatError, DamageError: the file cannot be read there.
    """
    if not reader.seekable:
        raise InputError("one GOP can be read from a file only: a pipe cannot seek")
    entries = reader.index()
    if not 0 <= gop < len(entries):
        raise InputError(f"there is no GOP {gop}; the file has {len(entries)}")
    reader.seek(gop, entries[gop])
    found = next(read_gops(reader), None)
    if found is None:
        raise DamageError(f"the index points at another place than the start of GOP {gop}")
    return found


def gop_at(entries: list[GopEntry], pts: int) -> int:
    """The last GOP that starts at or before `pts`, or the first."""
    return max((number for number, entry in enumerate(entries) if entry.pts <= pts), default=0)
