"""Reads `.vtk` files and pipes without trusting them.

Every size is checked before that many bytes are read, and every CRC before the data are used.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import BinaryIO, TypeAlias

from vtok_codec.audio import AudioPacket
from vtok_codec.container.framing import CRC, RecordFields, framing_of
from vtok_codec.container.index import index_offset, read_index, read_payload
from vtok_codec.container.prefix import read_header
from vtok_codec.container.records import (
    AUDIO,
    END,
    INDEX,
    MAX_AUDIO_BYTES,
    MAX_INDEX_ENTRIES,
    MAX_TICKS,
    TOKENS,
    WINDOWS,
    GopEntry,
    Record,
    Totals,
    check_token_record,
    is_ancillary,
    packets_from_bytes,
)
from vtok_codec.container.salvage import Salvage
from vtok_codec.container.source import ByteSource
from vtok_codec.container.window_tokens import WindowTokens
from vtok_codec.errors import DamageError, FormatError


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


Event: TypeAlias = "TokenChunk | list[AudioPacket] | Totals"
"""A part of a file: a chunk, the audio packets of one record, or, at the end, the totals."""


class VtkReader:
    """Reads a `.vtk` file from a binary stream: the header at creation, then one record at a time.

    Raises:
        FormatError: The stream is not a `.vtk` file that this version can read.
        DamageError: The header is damaged or cut short.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._source = ByteSource(stream)
        self.version, self.header, data = read_header(self._source)
        """The major and the minor version of the format, and the header of the file."""
        self._digest = hashlib.sha256(data)
        """The digest of all bytes that were read before the END record."""
        self._framing = framing_of(self.version, self.header)
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
        self._lost: tuple[int, int] | None = None
        """The offset behind the record of sound that turned out to be damaged, and its number."""
        self._in_record = False
        """Whether a record is being read, rather than compared with others."""
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
            return "before the first chunk" if self.reads_all else f"in GOP {self._gop + 1}"
        return f"after {self._last_chunk(self._last_pts)}"

    def in_chunk(self, chunk: TokenChunk) -> str:
        """Return a phrase for messages that names the chunk that was read last, with its GOP and time."""
        return f"in {self._last_chunk(chunk.pts[0])}"

    def _last_chunk(self, pts: int) -> str:
        """Name the last chunk. After a seek, nobody knows how many there are before it."""
        seconds = float(pts * self.header.time_base)
        number = f"chunk {self._chunks}" if self.reads_all else "a chunk"
        return f"{number} (GOP {self._gop}, {seconds:.2f} s)"

    def events(self) -> Iterator[Event]:
        """Yield the chunks and audio packets from the current position on, and the totals at the end.

        Raises:
            DamageError: A record is damaged, cut short, missing or out of order. All records before it have been
                yielded.
            FormatError: A record has an unknown type that must not be skipped.
        """
        try:
            while True:
                self._record_start, self._lost = self._source.position, None
                self._in_record = True
                record = self._read_record()
                self._in_record = False
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
        return read_index(self._source, self._framing)

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
        self._last_pts = None

    @property
    def is_past_video(self) -> bool:
        """Whether the damage that `events` raised is that of a record behind all chunks, so that none is lost.

        A whole record that contradicts the records before it does not count.
        """
        if not self._in_record:
            return False
        if self._index_offset or not self.seekable:
            return self._index_offset > 0
        position = self._source.position
        try:
            # Behind an index that is whole, the offset of the index is known already.
            return self._record_start == index_offset(self._source, self._framing)
        except ValueError:
            return False
        finally:
            self._source.seek(position)

    def skip_damage(self) -> int | None:
        """Continue reading, after `events` raised a `DamageError`, at the next GOP that starts with a whole record.

        Behind a damaged record of sound, reading continues within the GOP if the next record is whole. Otherwise the
        index says where GOPs start. If it is missing or damaged, the rest of the file is searched for one. The stream
        must be seekable.

        Returns:
            An upper limit of the number of frames skipped, or None if no such GOP is left.
        """
        if self._lost and self._goes_on_behind(*self._lost):
            return 0
        if self._salvage is None:
            self._salvage = Salvage(self._source, self._framing, self._known_offsets())
        found = self._salvage.next_gop(self._record_start, self._gop)
        if found is None:
            return None
        last_pts = self._last_pts
        self.seek(found.gop, GopEntry(found.offset, 0, 0))
        self._last_pts = last_pts
        return found.most_lost_frames

    def _goes_on_behind(self, offset: int, number: int) -> bool:
        """Continue behind a damaged record of sound, if the record there is whole and the next one."""
        self._source.seek(offset)
        try:
            fields, data = self._framing.read_fields(self._source)
            limit = self._payload_limit(fields)
            if fields.number != number + 1 or limit is None or fields.size > limit:
                return False
            read_payload(self._source, self._framing, fields, data)
        except (ValueError, FormatError):
            return False
        self._source.seek(offset)
        self._lost = None
        self._number = number + 1
        self.reads_all = False
        return True

    def _known_offsets(self) -> list[int]:
        """Return the offsets of the GOPs from the index, or nothing if the index is missing or damaged."""
        try:
            return [entry.offset for entry in self.index()]
        except DamageError:
            return []

    def _read_record(self) -> Record | None:
        """Read the next record and check its CRC; skip an ancillary record of unknown type and return None for it."""
        fields, data = self._framing.read_fields(self._source)
        limit = self._payload_limit(fields)
        if limit is not None and fields.size > limit:
            raise DamageError(f"a record declares {fields.size} bytes; at most {limit} are allowed")
        crc = zlib.crc32(data, self._framing.crc_seed)
        pieces = []
        read = self._digest.copy() if fields.type == END else self._digest
        read.update(data)
        for piece in self._source.pieces(fields.size):
            crc = zlib.crc32(piece, crc)
            read.update(piece)
            if limit is not None:
                pieces.append(piece)
        # If the file ends within the payload, this read fails.
        stored = self._source.exactly(CRC.size)
        read.update(stored)
        if CRC.unpack(stored)[0] != crc:
            expected = self._number if self._number >= 0 else fields.number
            if fields.type == AUDIO and fields.number == expected:
                self._lost = self._source.position, fields.number
            raise DamageError("a record is damaged, or of another file: its CRC does not match")
        if self._number < 0:
            self._number = fields.number
        if fields.number != self._number:
            raise DamageError(f"record {fields.number} was found instead of record {self._number}")
        self._number += 1
        if limit is None:
            if not is_ancillary(fields.type):
                kind = fields.type.decode("ascii", "backslashreplace")
                raise FormatError(f"a record of unknown type {kind} cannot be skipped; a newer vtok may read it")
            return None
        return Record(fields.type, *fields[2:], payload=b"".join(pieces))

    def _payload_limit(self, fields: RecordFields) -> int | None:
        """Return the largest payload of a record with these fields, in bytes, or None if its type is unknown."""
        type_, framing = fields.type, self._framing
        if type_ == TOKENS:
            contents = check_token_record(self.header, fields.gop != self._gop, fields.frames, fields.raw_size)
            return framing.token_payload_bytes + contents
        if type_ == WINDOWS and self.header.windows:
            return self.header.windows.most_bytes(self._windows)
        if type_ == AUDIO:
            return MAX_AUDIO_BYTES
        if type_ == INDEX:
            return framing.index_entry_bytes * (len(self._gops) if self.reads_all else MAX_INDEX_ENTRIES)
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
            most = len(self._gops) if self.reads_all else MAX_INDEX_ENTRIES
            if self._framing.index_from_bytes(record.payload, most) != self._gops and self.reads_all:
                raise DamageError("the index does not match the records")
            return None
        if not self._index_offset:
            raise DamageError("the index is missing")
        totals = self._framing.totals_from_bytes(record.payload)
        counted = (self._frames, self._chunks, self._gop + 1, self._packets)
        if not self._chunks and self.reads_all:
            raise DamageError("the file holds no frame")
        if self.reads_all and counted != totals.counts:
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
        return replace(chunk, window_tokens=tokens, record_bytes=self._source.position - self._record_start)

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
        payload = self._framing.token_payload_from_bytes(record.payload, record.frames)
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
            raise DamageError(f"GOP {record.gop} is longer than the {self.header.gop_latents} time steps allowed")
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
            record_bytes=self._source.position - self._record_start,
        )

    def _check_footer(self) -> None:
        """Read the footer, and check that it is right and that nothing follows it."""
        offset = self._source.position
        index_offset = self._framing.footer_from_bytes(self._source.some(self._framing.footer_size), offset)
        if self.reads_all and index_offset != self._index_offset:
            raise DamageError("the footer does not match the records")
        if self._source.some(1):
            raise DamageError("there are bytes after the end of the file")
