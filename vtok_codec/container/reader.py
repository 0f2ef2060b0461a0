"""Reads `.vtk` files and pipes without trusting them.

Every size is checked before that many bytes are read, and every CRC before the data are used.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import BinaryIO, TypeAlias

from vtok_codec.container.header import Header
from vtok_codec.container.header_json import header_from_json
from vtok_codec.container.records import (
    AUDIO,
    CRC,
    END,
    FIELDS,
    FOOTER_SIZE,
    GOP_ENTRY_SIZE,
    INDEX,
    MAX_AUDIO_BYTES,
    MAX_INDEX_BYTES,
    MAX_TICKS,
    TOKENS,
    WINDOWS,
    GopEntry,
    Record,
    StoredPacket,
    TokenPayload,
    Totals,
    footer_from_bytes,
    index_from_bytes,
    is_ancillary,
    packets_from_bytes,
    token_payload_limit,
)
from vtok_codec.container.salvage import Salvage
from vtok_codec.container.source import ByteSource
from vtok_codec.container.window_tokens import WindowTokens
from vtok_codec.container.writer import MAGIC, MAX_HEADER_BYTES, PREFIX, VERSION
from vtok_codec.errors import DamageError, FormatError

_BOUND_SINCE = (1, 1)
"""The first version of the format whose files have an identifier and a digest of all bytes."""


@dataclass(frozen=True)
class TokenChunk:
    """A chunk whose digits are still packed, with the times of its frames."""

    gop: int
    """The number of the chunk's GOP, counted from 0."""
    first: bool
    """Whether the chunk is the first of its GOP."""
    pts: tuple[int, ...]
    """The time of each frame, in ticks of the header's time base."""
    last_duration: int
    """The duration of the last frame, in ticks; 0 if it is unknown."""
    latent_shape: tuple[int, int, int]
    """The number of latent frames, rows and columns: the `t h w` of the digits."""
    coder: tuple[int, int]
    """The number and the version of the coder that packed the digits."""
    packed: bytes
    """The packed digits."""
    record_bytes: int
    """The size in the file of the token record and, if there is one, of the record of its 1D tokens, in bytes."""
    window_tokens: WindowTokens | None = None
    """The 1D tokens of the chunk; None if the file has none."""

    def steady(self, frame_ticks: int) -> bool:
        """Return whether all frames, apart from the last, last so many ticks."""
        return all(after - before == frame_ticks for before, after in pairwise(self.pts))


Event: TypeAlias = "TokenChunk | list[StoredPacket] | Totals"
"""A part of a file: a chunk, the audio packets of one record, or, at the end, the totals."""


class VtkReader:
    """Reads a `.vtk` file from a binary stream: the header at creation, then one record at a time.

    Raises:
        FormatError: The stream is not a `.vtk` file that this version can read.
        DamageError: The header is damaged or cut short.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._source = ByteSource(stream)
        self._digest = hashlib.sha256()
        """The digest of all bytes that were read before the END record."""
        self.header = self._read_header()
        """The header of the file."""
        self._seed = zlib.crc32(self.header.file_id)
        """What the CRC of every record starts from."""
        self._number = 0
        self._gop = -1
        self._open_chunk = False
        self._latents_in_gop = 0
        self._frames = self._chunks = self._packets = 0
        self.reads_all = True
        """Whether all records are read from the first one on, so that they can be checked against the totals."""
        self._gops: list[GopEntry] = []
        """Where the GOPs read so far start, to compare with the index."""
        self._index_offset = 0
        """The offset of the index record; 0 until it has been read."""
        self._last_pts: int | None = None
        self._record_start = 0
        """The offset of the record that is being read."""
        self._salvage: Salvage | None = None

    @property
    def seekable(self) -> bool:
        """Whether the stream can seek, as `index`, `seek` and `skip_damage` require."""
        return self._source.seekable

    @property
    def position(self) -> int:
        """The offset of the next byte to read from the start of the file, in bytes."""
        return self._source.position

    @property
    def progress(self) -> str:
        """A phrase for messages that says how far reading came: the last whole chunk and the time of its last frame."""
        if self._last_pts is None:
            return "before the first chunk"
        seconds = float(self._last_pts * self.header.time_base)
        return f"after chunk {self._chunks} (GOP {self._gop}, {seconds:.2f} s)"

    def events(self) -> Iterator[Event]:
        """Yield the chunks and audio packets from the current position on, and the totals at the end.

        Raises:
            DamageError: A record is damaged, cut short, missing or out of order. All records before it have been
                yielded.
            FormatError: A record has an unknown type that must not be skipped.
        """
        try:
            while True:
                self._record_start = self._source.position
                record = self._read_record()
                if self._index_offset and (record is None or record.type != END):
                    raise DamageError("a record stands behind the index")
                if record:
                    self._note_place(record)
                event = self._event(record) if record else None
                if isinstance(event, TokenChunk) and self.header.windows:
                    try:
                        event = self._with_window_tokens(event)
                    except (FormatError, ValueError):
                        # The chunk itself is whole.
                        yield event
                        raise
                if event is not None:
                    yield event
                if isinstance(event, Totals):
                    self._check_footer()
                    return
        except FormatError as error:
            raise type(error)(f"{error} ({self.progress})") from None
        except ValueError as error:
            raise DamageError(f"{error} ({self.progress})") from None

    def index(self) -> list[GopEntry]:
        """Read the index, which says where the GOPs start.

        The stream must be seekable. The position of the reader does not change.

        Raises:
            DamageError: The footer or the index is missing, damaged or too large.
        """
        source = self._source
        position = source.position
        try:
            end = source.size()
            source.seek(max(0, end - FOOTER_SIZE))
            index_offset, footer_offset = footer_from_bytes(source.some(FOOTER_SIZE))
            if footer_offset != end - FOOTER_SIZE or index_offset >= footer_offset:
                raise ValueError("the footer does not fit the file's size")
            source.seek(index_offset)
            entries = index_from_bytes(self._read_index_record(footer_offset - index_offset))
            if not entries or entries[-1].offset >= index_offset:
                raise ValueError("an entry of the index points past the records")
            return entries
        except ValueError as error:
            raise DamageError(f"no usable index: {error}") from None
        finally:
            source.seek(position)

    def seek(self, gop: int, entry: GopEntry) -> None:
        """Continue reading at the start of a GOP. From then on, counts are not checked against the totals.

        Args:
            gop: The number of the GOP, counted from 0.
            entry: The entry of the GOP in the index.
        """
        self._source.seek(entry.offset)
        self.reads_all = False
        self._index_offset = 0
        self._number = -1
        self._gop = gop - 1
        self._open_chunk = False

    def skip_damage(self) -> int | None:
        """Continue reading, after `events` raised a `DamageError`, at the next GOP that starts with a whole record.

        The index says where GOPs start. If it is missing or damaged, the rest of the file is searched for one. The
        stream must be seekable.

        Returns:
            An upper limit of the number of frames skipped, or None if no such GOP is left.
        """
        if self._salvage is None:
            self._salvage = Salvage(self._source, self.header, self._known_offsets())
        found = self._salvage.next_gop(self._record_start, self._gop)
        if found is None:
            return None
        self.seek(found.gop, GopEntry(found.offset, 0, 0))
        return found.most_lost_frames

    def _known_offsets(self) -> list[int]:
        """Return the offsets of the GOPs from the index, or nothing if the index is missing or damaged."""
        try:
            return [entry.offset for entry in self.index()]
        except DamageError:
            return []

    def _read_header(self) -> Header:
        """Read and check the header."""
        prefix = self._source.some(PREFIX.size)
        if not prefix:
            raise FormatError("the input is empty")
        if prefix[: len(MAGIC)] != MAGIC[: len(prefix)]:
            raise FormatError("not a .vtk file")
        if len(prefix) < PREFIX.size:
            raise DamageError("the header is cut short")
        _, major, minor, size = PREFIX.unpack(prefix)
        if major != VERSION[0]:
            raise FormatError(f"format version {major} is not known; this vtok reads version {VERSION[0]}")
        if size > MAX_HEADER_BYTES:
            raise DamageError(f"the header declares {size} bytes, more than {MAX_HEADER_BYTES}")
        text = self._source.some(size)
        crc = self._source.some(CRC.size)
        if len(text) < size or len(crc) < CRC.size:
            raise DamageError("the header is cut short")
        if CRC.unpack(crc)[0] != zlib.crc32(prefix + text):
            raise DamageError("the header is damaged: its CRC does not match")
        self._digest.update(prefix + text + crc)
        header = header_from_json(text)
        if bool(header.file_id) != ((major, minor) >= _BOUND_SINCE):
            raise FormatError("the header has no file identifier, or one that its version does not have")
        return header

    def _read_record(self) -> Record | None:
        """Read the next record and check its CRC; skip an ancillary record of unknown type and return None for it."""
        data = self._source.exactly(FIELDS.size)
        type_, size, number, gop, pts, frames, raw_size = FIELDS.unpack(data)
        limit = self._payload_limit(type_, gop, frames, raw_size)
        if limit is not None and size > limit:
            raise DamageError(f"a record declares {size} bytes; at most {limit} are allowed")
        crc = zlib.crc32(data, self._seed)
        pieces = []
        read = self._digest.copy() if type_ == END else self._digest
        read.update(data)
        for piece in self._source.pieces(size):
            crc = zlib.crc32(piece, crc)
            read.update(piece)
            if limit is not None:
                pieces.append(piece)
        # If the file ends within the payload, this read fails.
        stored = self._source.exactly(CRC.size)
        read.update(stored)
        if CRC.unpack(stored)[0] != crc:
            raise DamageError("a record is damaged, or of another file: its CRC does not match")
        if self._number < 0:
            self._number = number
        if number != self._number:
            raise DamageError(f"record {number} was found instead of record {self._number}")
        self._number += 1
        if limit is None:
            if not is_ancillary(type_):
                raise FormatError(f"a record of unknown type {type_!r} cannot be skipped; a newer vtok may read it")
            return None
        return Record(type_, number, gop, pts, frames, raw_size, b"".join(pieces))

    def _payload_limit(self, type_: bytes, gop: int, frames: int, raw_size: int) -> int | None:
        """Return the largest payload of a record with these fields, in bytes, or None if its type is unknown."""
        if type_ == TOKENS:
            return token_payload_limit(self.header, gop != self._gop, frames, raw_size)
        if type_ == WINDOWS and self.header.windows:
            return self.header.windows.most_bytes(self._windows)
        if type_ == AUDIO:
            return MAX_AUDIO_BYTES
        if type_ == INDEX:
            return GOP_ENTRY_SIZE * len(self._gops) if self.reads_all else MAX_INDEX_BYTES
        if type_ == END:
            return 256
        return None

    def _event(self, record: Record) -> Event | None:
        """Parse a record, check it against the records before, and return its event, if its type has one."""
        if record.type == TOKENS:
            return self._token_chunk(record)
        if record.type == AUDIO:
            packets = packets_from_bytes(record.payload, record.frames, len(self.header.audio))
            self._packets += len(packets)
            return packets
        if record.type == WINDOWS:
            raise DamageError("1D tokens do not follow the chunk that they belong to")
        if record.type == INDEX:
            if index_from_bytes(record.payload) != self._gops and self.reads_all:
                raise DamageError("the index does not match the records")
            return None
        if not self._index_offset:
            raise DamageError("the index is missing")
        totals = Totals.from_bytes(record.payload, bound=bool(self.header.file_id))
        counted = (self._frames, self._chunks, self._gop + 1, self._packets)
        if not self._chunks and self.reads_all:
            raise DamageError("the file holds no frame")
        if self.reads_all and counted != (totals.frames, totals.chunks, totals.gops, totals.audio_packets):
            raise DamageError("the totals do not match the records")
        if self.reads_all and totals.file_digest and totals.file_digest != self._digest.digest():
            raise DamageError("the header, the times or the audio do not match the digest at the end of the file")
        return totals

    @cached_property
    def _windows(self) -> int:
        """The number of windows of 1D tokens that a chunk has."""
        header = self.header
        return header.windows.count(header.model.layout, header.height, header.width) if header.windows else 0

    def _with_window_tokens(self, chunk: TokenChunk) -> TokenChunk:
        """Return a chunk with its 1D tokens, which the next record holds."""
        record, described = self._read_record(), self.header.windows
        if record is None or record.type != WINDOWS or record.gop != chunk.gop:
            raise DamageError("the 1D tokens of a chunk are missing")
        assert described
        tokens = WindowTokens.from_bytes(record.payload, described, self._windows)
        if record.raw_size != tokens.tokens.size:
            raise DamageError(f"a chunk declares {record.raw_size} 1D tokens instead of {tokens.tokens.size}")
        size = chunk.record_bytes + FIELDS.size + len(record.payload) + CRC.size
        return replace(chunk, window_tokens=tokens, record_bytes=size)

    def _note_place(self, record: Record) -> None:
        """Note where GOPs and the index start."""
        if record.type == TOKENS and record.gop != self._gop:
            self._gops.append(GopEntry(self._record_start, record.pts, self._frames))
        elif record.type == INDEX:
            self._index_offset = self._record_start

    def _token_chunk(self, record: Record) -> TokenChunk:
        """Parse a token record, check that it may follow the chunk before, and return its chunk."""
        first = record.gop != self._gop
        if record.gop != self._gop + first:
            raise DamageError(f"GOP {record.gop} follows GOP {self._gop}")
        if not first and self._open_chunk:
            raise DamageError("a chunk follows the last one of its GOP")
        payload = TokenPayload.from_bytes(record.payload, record.frames)
        ticks = payload.ticks or (self.header.frame_ticks,) * record.frames
        if abs(record.pts) > MAX_TICKS:
            raise DamageError(f"a chunk starts at {record.pts} ticks, outside the range")
        if self._last_pts is not None and record.pts <= self._last_pts:
            raise DamageError(f"a chunk starts at {record.pts} ticks, not after {self._last_pts}")
        if not all(ticks[:-1]):
            raise DamageError("a chunk has no times for its frames")
        pts = [record.pts]
        for tick in ticks[:-1]:
            pts.append(pts[-1] + tick)
        shape = self.header.chunk_latent_shape(record.frames, first)
        self._latents_in_gop = (0 if first else self._latents_in_gop) + self.header.model.layout.time_steps(
            shape[0], first
        )
        if self._latents_in_gop > self.header.gop_latents:
            raise DamageError(f"GOP {record.gop} is longer than the {self.header.gop_latents} latent frames allowed")
        self._gop = record.gop
        self._open_chunk = record.frames < self.header.max_chunk_frames(first)
        self._frames += record.frames
        self._chunks += 1
        self._last_pts = pts[-1]
        return TokenChunk(
            gop=record.gop,
            first=first,
            pts=tuple(pts),
            last_duration=ticks[-1],
            latent_shape=shape,
            coder=(payload.coder, payload.coder_version),
            packed=payload.packed,
            record_bytes=FIELDS.size + len(record.payload) + CRC.size,
        )

    def _check_footer(self) -> None:
        """Read the footer, and check that it is right and that nothing follows it."""
        offset = self._source.position
        places = footer_from_bytes(self._source.some(FOOTER_SIZE))
        if self.reads_all and places != (self._index_offset, offset):
            raise DamageError("the footer does not match the records")
        if self._source.some(1):
            raise DamageError("there are bytes after the end of the file")

    def _read_index_record(self, size: int) -> bytes:
        """Read the index record at the current position and return its payload, which is at most `size` bytes."""
        fields = FIELDS.unpack(self._source.exactly(FIELDS.size))
        if fields[0] != INDEX or fields[1] > min(size, MAX_INDEX_BYTES):
            raise ValueError("the footer does not point at an index that fits")
        payload = self._source.exactly(fields[1])
        (crc,) = CRC.unpack(self._source.exactly(CRC.size))
        if crc != zlib.crc32(payload, zlib.crc32(FIELDS.pack(*fields), self._seed)):
            raise ValueError("the index is damaged, or of another file: its CRC does not match")
        return payload
