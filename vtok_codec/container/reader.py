"""Reads a `.vtk` file or pipe, trusting nothing: every size is checked before it is read, every CRC before use."""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, TypeAlias

from vtok_codec.container.header import Header, header_from_json
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
    GopEntry,
    Record,
    StoredPacket,
    TokenPayload,
    Totals,
    footer_from_bytes,
    index_from_bytes,
    max_packed_bytes,
    max_token_payload_bytes,
    packets_from_bytes,
)
from vtok_codec.container.writer import MAGIC, MAX_HEADER_BYTES, PREFIX, VERSION
from vtok_codec.errors import DamageError, FormatError

_SEARCH_EFFORT = 8
"""How many times a file's size a search for whole records may read in all."""
_PIECE = 1 << 20
"""Most bytes asked of a stream at once, so that a lying length allocates nothing."""


@dataclass(frozen=True)
class TokenChunk:
    """A chunk of latent frames, still packed, with the times of its frames."""

    gop: int
    first: bool
    """Whether it starts its GOP."""
    pts: tuple[int, ...]
    """Of each frame, in ticks of the header's time base."""
    last_duration: int
    """Ticks that the last frame lasts; 0 where unknown."""
    latent_shape: tuple[int, int, int]
    """Latent frames, rows, columns."""
    coder: tuple[int, int]
    packed: bytes
    record_bytes: int
    """Size of the whole record in the file."""


Event: TypeAlias = "TokenChunk | list[StoredPacket] | Totals"
"""What a file holds, in order: chunks, audio packets, at last the totals."""


class VtkReader:
    """Reads the header at once, then the records one by one.

    Raises (from the constructor):
        FormatError: the stream holds no `.vtk` file that this version may read.
        DamageError: its header is cut short or altered.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.bytes_read = 0
        self.header = self._read_header()
        self._number = 0
        self._gop = -1
        self._open_chunk = False
        self._latents_in_gop = 0
        self._frames = self._chunks = self._packets = 0
        self._whole = True
        self._gops: list[GopEntry] = []
        """Where those that were read started, to compare with the index."""
        self._index_offset = 0
        self._last_pts: int | None = None
        self._record_start = 0
        """Where the record stands that is being read, in a stream that seeks."""
        self._offsets: list[int] | None = None
        self._effort = 0
        """Bytes that `skip_damage` has looked at, over all its calls."""

    @property
    def seekable(self) -> bool:
        """Whether `index` and `seek` can be used."""
        return self._stream.seekable()

    @property
    def progress(self) -> str:
        """How far reading came, for messages: the last whole chunk and its time."""
        if self._last_pts is None:
            return "before the first chunk"
        seconds = float(self._last_pts * self.header.time_base)
        return f"after chunk {self._chunks} (GOP {self._gop}, {seconds:.2f} s)"

    def events(self) -> Iterator[Event]:
        """Chunks and audio packets from where the reader stands, and the totals at the end.

        Raises:
            DamageError: a record is cut short, altered, missing or out of order. All before it were delivered.
            FormatError: a record of an unknown kind that may not be skipped.
        """
        try:
            while True:
                offset = self.bytes_read
                self._record_start = self._stream.tell() if self.seekable else 0
                record = self._read_record()
                if record:
                    self._note_place(record, offset)
                event = self._event(record) if record else None
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
        """Where the GOPs start. The stream must seek; its position is kept.

        Raises:
            DamageError: the footer or the index are missing or altered.
        """
        position = self._stream.tell()
        try:
            end = self._stream.seek(0, 2)
            self._stream.seek(max(0, end - FOOTER_SIZE))
            index_offset, footer_offset = footer_from_bytes(self._stream.read(FOOTER_SIZE))
            if footer_offset != end - FOOTER_SIZE or index_offset >= footer_offset:
                raise ValueError("the footer does not fit the file's size")
            self._stream.seek(index_offset)
            entries = index_from_bytes(self._read_index_record(footer_offset - index_offset))
            if not entries or entries[-1].offset >= index_offset:
                raise ValueError("an entry of the index points past the records")
            return entries
        except ValueError as error:
            raise DamageError(f"no usable index: {error}") from None
        finally:
            self._stream.seek(position)

    def seek(self, gop: int, entry: GopEntry) -> None:
        """Go to the start of a GOP. From then on counts are not checked against the totals."""
        self._stream.seek(entry.offset)
        self._whole = False
        self._number = -1
        self._gop = gop - 1
        self._open_chunk = False

    def skip_damage(self) -> int | None:
        """After a `DamageError` of `events`, go to the next GOP that starts with a whole record.

        It gives the most frames that may have stood in between, or None where no such GOP is left. The stream must
        seek. The index tells where GOPs start; without a usable one the rest of the file is searched.
        """
        offsets = self._known_offsets()
        most_effort = _SEARCH_EFFORT * self._stream.seek(0, 2)
        searched = not offsets
        starts: Iterable[int] = offsets[bisect_right(offsets, self._record_start) :]
        for offset in self._record_like_places(self._record_start + 1) if searched else starts:
            gop, effort = self._gop_starting_at(offset, searched)
            self._effort += effort
            if gop is not None:
                # No record is shorter than its fields, so that a gap cannot claim more than its bytes could hold.
                lost_records = (offset - self._record_start) // (FIELDS.size + CRC.size) + 1
                self.seek(gop, GopEntry(offset, 0, 0))
                return lost_records * self.header.max_chunk_frames(False)
            if self._effort > most_effort:
                # Crafted to look like records everywhere.
                break
        return None

    def _known_offsets(self) -> list[int]:
        """Where GOPs start, by the index; nothing without a usable one. Read once."""
        if self._offsets is None:
            try:
                self._offsets = [entry.offset for entry in self.index()]
            except DamageError:
                self._offsets = []
        return self._offsets

    def _gop_starting_at(self, offset: int, searched: bool) -> tuple[int | None, int]:
        """The number of the GOP whose first chunk is a whole record at `offset`, or None; and the bytes looked at."""
        self._stream.seek(offset)
        try:
            type_, size, _, gop, _, frames, raw_size = FIELDS.unpack(self._exactly(FIELDS.size))
            if type_ != TOKENS or gop <= self._gop:
                return None, FIELDS.size
            limit = self._payload_limit(type_, gop, frames, raw_size)
            if limit is None or size > limit:
                return None, FIELDS.size
            self._stream.seek(offset)
            crc = zlib.crc32(self._exactly(FIELDS.size + size))
            whole = CRC.unpack(self._exactly(CRC.size))[0] == crc
            certain = not searched or self._starts_a_gop(frames) or self._goes_on(gop)
            return gop if whole and certain else None, FIELDS.size + size
        except (ValueError, DamageError):
            return None, FIELDS.size

    def _starts_a_gop(self, frames: int) -> bool:
        """Whether a chunk of so many frames, with the digits of a first one, cannot be a later one of its GOP."""
        header = self.header
        return header.chunk_latent_shape(frames, True) != header.chunk_latent_shape(frames, False)

    def _goes_on(self, gop: int) -> bool:
        """Whether a chunk of the same GOP follows where the stream stands. Then the one before it was a whole chunk."""
        data = self._read_some(FIELDS.size)
        if len(data) < FIELDS.size:
            return False
        type_, _, _, next_gop, _, _, _ = FIELDS.unpack(data)
        return bool(type_ == TOKENS and next_gop == gop)

    def _record_like_places(self, start: int) -> Iterator[int]:
        """Every place from `start` on where the type of a token record stands."""
        tail, place = b"", start
        while True:
            self._stream.seek(place)
            piece = self._stream.read(_PIECE)
            if not piece:
                return
            text, first = tail + piece, place - len(tail)
            found = text.find(TOKENS)
            while found >= 0:
                yield first + found
                found = text.find(TOKENS, found + 1)
            tail, place = text[1 - len(TOKENS) :], place + len(piece)

    def _read_header(self) -> Header:
        prefix = self._read_some(PREFIX.size)
        if not prefix:
            raise FormatError("the input is empty")
        if prefix[: len(MAGIC)] != MAGIC[: len(prefix)]:
            raise FormatError("not a .vtk file")
        if len(prefix) < PREFIX.size:
            raise DamageError("the header is cut short")
        _, major, _, size = PREFIX.unpack(prefix)
        if major != VERSION[0]:
            raise FormatError(f"format version {major} is not known; this is vtok for version {VERSION[0]}")
        if size > MAX_HEADER_BYTES:
            raise DamageError(f"the header declares {size} bytes, more than {MAX_HEADER_BYTES}")
        text = self._read_some(size)
        crc = self._read_some(CRC.size)
        if len(text) < size or len(crc) < CRC.size:
            raise DamageError("the header is cut short")
        if CRC.unpack(crc)[0] != zlib.crc32(prefix + text):
            raise DamageError("the header is damaged: its CRC does not match")
        return header_from_json(text)

    def _read_record(self) -> Record | None:
        """The next record, its CRC checked; None for one of an unknown ancillary type, which is passed over."""
        data = self._read_some(FIELDS.size)
        if len(data) < FIELDS.size:
            raise DamageError("the file is cut short")
        type_, size, number, gop, pts, frames, raw_size = FIELDS.unpack(data)
        limit = self._payload_limit(type_, gop, frames, raw_size)
        if limit is not None and size > limit:
            raise DamageError(f"a record declares {size} bytes where at most {limit} belong")
        crc = zlib.crc32(data)
        pieces = []
        for piece in self._pieces(size):
            crc = zlib.crc32(piece, crc)
            if limit is not None:
                pieces.append(piece)
        stored = self._read_some(CRC.size)
        if len(stored) < CRC.size:
            raise DamageError("the file is cut short")
        if CRC.unpack(stored)[0] != crc:
            raise DamageError("a record is damaged: its CRC does not match")
        if self._number < 0:
            self._number = number
        if number != self._number:
            raise DamageError(f"record {number} stands where record {self._number} belongs")
        self._number += 1
        if limit is None:
            if type_[:1].isupper():
                raise FormatError(f"a record of type {type_!r} is needed and not known; a newer vtok may read it")
            return None
        return Record(type_, number, gop, pts, frames, raw_size, b"".join(pieces))

    def _payload_limit(self, type_: bytes, gop: int, frames: int, raw_size: int) -> int | None:
        """Most bytes that a record of known type may have, from the header alone; None for an unknown type."""
        header = self.header
        if type_ == TOKENS:
            first = gop != self._gop
            if not 0 < frames <= header.max_chunk_frames(first):
                raise DamageError(f"a chunk declares {frames} frames")
            shape = header.chunk_latent_shape(frames, first)
            size = header.planes * shape[0] * shape[1] * shape[2]
            if raw_size != size:
                raise DamageError(f"a chunk declares {raw_size} digits where {size} belong")
            return max_token_payload_bytes(frames, max_packed_bytes(size, header.planes))
        if type_ == AUDIO:
            return MAX_AUDIO_BYTES
        if type_ == INDEX:
            return GOP_ENTRY_SIZE * len(self._gops) if self._whole else MAX_INDEX_BYTES
        if type_ == END:
            return 256
        return None

    def _event(self, record: Record) -> Event | None:
        if record.type == TOKENS:
            return self._token_chunk(record)
        if record.type == AUDIO:
            packets = packets_from_bytes(record.payload, record.frames, len(self.header.audio))
            self._packets += len(packets)
            return packets
        if record.type == INDEX:
            if index_from_bytes(record.payload) != self._gops and self._whole:
                raise DamageError("the index does not match the records")
            return None
        totals = Totals.from_bytes(record.payload)
        counted = (self._frames, self._chunks, self._gop + 1, self._packets)
        if not self._chunks and self._whole:
            raise DamageError("the file holds no frame")
        if self._whole and counted != (totals.frames, totals.chunks, totals.gops, totals.audio_packets):
            raise DamageError("the totals do not match the records")
        return totals

    def _note_place(self, record: Record, offset: int) -> None:
        if record.type == TOKENS and record.gop != self._gop:
            self._gops.append(GopEntry(offset, record.pts, self._frames))
        elif record.type == INDEX:
            self._index_offset = offset

    def _token_chunk(self, record: Record) -> TokenChunk:
        first = record.gop != self._gop
        if record.gop != self._gop + first:
            raise DamageError(f"GOP {record.gop} follows GOP {self._gop}")
        if not first and self._open_chunk:
            raise DamageError("a chunk follows the last one of its GOP")
        payload = TokenPayload.from_bytes(record.payload, record.frames)
        ticks = payload.ticks or (self.header.frame_ticks,) * record.frames
        if abs(record.pts) > MAX_TICKS:
            raise DamageError(f"a chunk starts at {record.pts} ticks, outside the range")
        pts = [record.pts]
        for tick in ticks[:-1]:
            pts.append(pts[-1] + tick)
        shape = self.header.chunk_latent_shape(record.frames, first)
        self._latents_in_gop = shape[0] + (-self.header.model.extra_phases if first else self._latents_in_gop)
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
        offset = self.bytes_read
        places = footer_from_bytes(self._read_some(FOOTER_SIZE))
        if self._whole and places != (self._index_offset, offset):
            raise DamageError("the footer does not match the records")
        if self._stream.read(1):
            raise DamageError("something stands after the end of the file")

    def _read_index_record(self, size: int) -> bytes:
        """The payload of the index record where the stream stands, which is at most `size` bytes before the footer."""
        fields = FIELDS.unpack(self._exactly(FIELDS.size))
        if fields[0] != INDEX or fields[1] > min(size, MAX_INDEX_BYTES):
            raise ValueError("the footer does not point at an index that fits")
        payload = self._exactly(fields[1])
        (crc,) = CRC.unpack(self._exactly(CRC.size))
        if crc != zlib.crc32(payload, zlib.crc32(FIELDS.pack(*fields))):
            raise ValueError("the index is damaged: its CRC does not match")
        return payload

    def _exactly(self, size: int) -> bytes:
        data = self._read_some(size)
        if len(data) < size:
            raise ValueError("the file is cut short")
        return data

    def _read_some(self, size: int) -> bytes:
        """Up to `size` bytes: fewer only where the stream ends, whatever one read of a pipe gives."""
        return b"".join(self._pieces(size, cut_short=False))

    def _pieces(self, size: int, cut_short: bool = True) -> Iterator[bytes]:
        while size > 0:
            piece = self._stream.read(min(size, _PIECE))
            if not piece:
                if cut_short:
                    raise DamageError("the file is cut short")
                return
            size -= len(piece)
            self.bytes_read += len(piece)
            yield piece
