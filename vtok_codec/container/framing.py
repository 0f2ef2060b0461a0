"""How records and the footer of a `.vtk` file lie in bytes, as `docs/reference/format.md` specifies it.

Versions 1.x have fields of fixed sizes, versions 2.x numbers of variable length.
"""

from __future__ import annotations

import struct
import zlib
from abc import ABC, abstractmethod
from itertools import pairwise
from typing import ClassVar, NamedTuple

from vtok_codec.container.header import Header
from vtok_codec.container.records import (
    AUDIO,
    END,
    INDEX,
    MAX_INDEX_ENTRIES,
    MAX_TICKS,
    TOKENS,
    WINDOWS,
    GopEntry,
    Record,
    TokenPayload,
    Totals,
    read_ticks,
)
from vtok_codec.container.source import ByteSource
from vtok_codec.container.varint import MAX_VARINT_BYTES, read_varint, write_varint

CRC = struct.Struct("<I")
"""The CRC-32 at the end of the header and of each record."""
FOOTER_MAGIC = b"\x89VTKEND\n"
"""The last 8 bytes of a file."""
_DIGEST_BYTES = 32


class RecordFields(NamedTuple):
    """The fields in front of a record's payload; see `Record`."""

    type: bytes
    """The type of the record."""
    size: int
    """The size of the payload, in bytes."""
    number: int
    """The number of the record."""
    gop: int
    """The number of its GOP."""
    pts: int
    """The time of a token record's first frame, in ticks."""
    frames: int
    """The number of frames or of packets."""
    raw_size: int
    """The number of digits, or of 1D tokens."""


class Framing(ABC):
    """The layout in bytes of everything behind the header of one file.

    Args:
        header: The header of the file.
    """

    footer_size: ClassVar[int]
    """The size of the footer, in bytes."""
    index_entry_bytes: ClassVar[int]
    """The largest size of an entry of the index, in bytes."""
    least_chunk_bytes: ClassVar[int]
    """The smallest size that a token record can have, in bytes."""
    token_mark: ClassVar[bytes]
    """The bytes that every token record begins with."""
    token_payload_bytes: ClassVar[int]
    """The largest size of what stands before the times and the packed digits in a token record, in bytes."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.crc_seed = zlib.crc32(header.file_id)
        """What the CRC of every record starts from, so that a record of another file is noticed."""

    def record_to_bytes(self, record: Record) -> bytes:
        """Serialize a record: its fields, its payload, and the CRC-32 of the file's identifier and both."""
        counts = (record.number, record.gop, record.pts, record.frames, record.raw_size)
        data = self.fields_to_bytes(RecordFields(record.type, len(record.payload), *counts)) + record.payload
        return data + CRC.pack(zlib.crc32(data, self.crc_seed))

    @abstractmethod
    def fields_to_bytes(self, fields: RecordFields) -> bytes:
        """Serialize the fields of a record."""

    @abstractmethod
    def read_fields(self, source: ByteSource) -> tuple[RecordFields, bytes]:
        """Read the fields of a record, and return them and their bytes.

        Raises:
            ValueError: The file ends within them, or one is out of range.
        """

    @abstractmethod
    def token_payload_to_bytes(self, payload: TokenPayload) -> bytes:
        """Serialize the payload of a token record."""

    @abstractmethod
    def token_payload_from_bytes(self, data: bytes, frames: int) -> TokenPayload:
        """Parse the payload of a token record of `frames` frames.

        Raises:
            ValueError: The payload is cut short, has times for another number of frames, or has times out of range.
        """

    @abstractmethod
    def index_to_bytes(self, entries: list[GopEntry]) -> bytes:
        """Serialize the entries of all GOPs, in order, as the payload of the index record."""

    def index_from_bytes(self, payload: bytes, most: int = MAX_INDEX_ENTRIES) -> list[GopEntry]:
        """Parse the payload of the index record.

        Args:
            payload: The payload.
            most: The largest number of entries to accept.

        Raises:
            ValueError: The payload is not a whole number of entries, or has more than `most`; the offsets, times or
                frames of the entries do not increase; or one is out of range.
        """
        entries = self._entries(payload, most)
        for before, after in pairwise(entries):
            if after.offset <= before.offset or after.pts <= before.pts or after.first_frame <= before.first_frame:
                raise ValueError("the entries of the index do not grow")
        if any(abs(entry.pts) > MAX_TICKS or min(entry[::2]) < 0 for entry in (*entries[:1], *entries[-1:])):
            raise ValueError("a place or a time of the index is out of range")
        return entries

    @abstractmethod
    def _entries(self, payload: bytes, most: int) -> list[GopEntry]:
        """Parse at most so many entries of the index, without checking them."""

    @abstractmethod
    def totals_to_bytes(self, totals: Totals) -> bytes:
        """Serialize the totals as the payload of the END record."""

    @abstractmethod
    def totals_from_bytes(self, payload: bytes) -> Totals:
        """Parse the payload of the END record.

        Raises:
            ValueError: The payload has the wrong size.
        """

    @abstractmethod
    def footer_to_bytes(self, index_offset: int, footer_offset: int) -> bytes:
        """Serialize the footer of a file whose index record and footer stand at these offsets, in bytes."""

    @abstractmethod
    def footer_from_bytes(self, data: bytes, footer_offset: int) -> int:
        """Parse the footer.

        Args:
            data: The bytes of the footer.
            footer_offset: Where it stands in the file.

        Returns:
            The offset of the index record in the file, in bytes.

        Raises:
            ValueError: The bytes are not a footer, or one of another place, or the footer is damaged.
        """


_FIXED_FIELDS = struct.Struct("<4sIIIqII")
_FIXED_TOKEN_FIELDS = struct.Struct("<BBI")
_FIXED_ENTRY = struct.Struct("<QqQ")
_FIXED_TOTALS = struct.Struct("<QQQQ32s")
_FIXED_FOOTER = struct.Struct("<QQI8s")


class FixedFraming(Framing):
    """The layout of versions 1.x, whose numbers have fixed sizes."""

    footer_size = _FIXED_FOOTER.size
    index_entry_bytes = _FIXED_ENTRY.size
    least_chunk_bytes = _FIXED_FIELDS.size + CRC.size
    token_mark = TOKENS
    token_payload_bytes = _FIXED_TOKEN_FIELDS.size

    def fields_to_bytes(self, fields: RecordFields) -> bytes:
        """See `Framing.fields_to_bytes`."""
        return _FIXED_FIELDS.pack(*fields)

    def read_fields(self, source: ByteSource) -> tuple[RecordFields, bytes]:
        """See `Framing.read_fields`."""
        data = source.exactly(_FIXED_FIELDS.size)
        return RecordFields(*_FIXED_FIELDS.unpack(data)), data

    def token_payload_to_bytes(self, payload: TokenPayload) -> bytes:
        """See `Framing.token_payload_to_bytes`."""
        timing = b"".join(map(write_varint, payload.ticks))
        return _FIXED_TOKEN_FIELDS.pack(payload.coder, payload.coder_version, len(timing)) + timing + payload.packed

    def token_payload_from_bytes(self, data: bytes, frames: int) -> TokenPayload:
        """See `Framing.token_payload_from_bytes`."""
        if len(data) < _FIXED_TOKEN_FIELDS.size:
            raise ValueError("a token record is cut short")
        coder, version, size = _FIXED_TOKEN_FIELDS.unpack_from(data)
        return _token_payload(data, _FIXED_TOKEN_FIELDS.size, size, (coder, version), frames)

    def index_to_bytes(self, entries: list[GopEntry]) -> bytes:
        """See `Framing.index_to_bytes`."""
        return b"".join(_FIXED_ENTRY.pack(entry.offset, entry.pts, entry.first_frame) for entry in entries)

    def _entries(self, payload: bytes, most: int) -> list[GopEntry]:
        if len(payload) % _FIXED_ENTRY.size or len(payload) > most * _FIXED_ENTRY.size:
            raise ValueError(f"the index is not a whole number of entries up to {most}")
        return [GopEntry(*fields) for fields in _FIXED_ENTRY.iter_unpack(payload)]

    def totals_to_bytes(self, totals: Totals) -> bytes:
        """See `Framing.totals_to_bytes`."""
        return _FIXED_TOTALS.pack(*totals.counts, totals.token_digest) + totals.file_digest

    def totals_from_bytes(self, payload: bytes) -> Totals:
        """See `Framing.totals_from_bytes`. A file without an identifier has no digest of all its bytes."""
        if len(payload) != _FIXED_TOTALS.size + (_DIGEST_BYTES if self.header.file_id else 0):
            raise ValueError("the END record has a wrong size")
        frames, chunks, gops, packets, token_digest = _FIXED_TOTALS.unpack_from(payload)
        return Totals(frames, chunks, gops, packets, token_digest, payload[_FIXED_TOTALS.size :])

    def footer_to_bytes(self, index_offset: int, footer_offset: int) -> bytes:
        """See `Framing.footer_to_bytes`."""
        crc = zlib.crc32(struct.pack("<QQ", index_offset, footer_offset))
        return _FIXED_FOOTER.pack(index_offset, footer_offset, crc, FOOTER_MAGIC)

    def footer_from_bytes(self, data: bytes, footer_offset: int) -> int:
        """See `Framing.footer_from_bytes`."""
        if len(data) != self.footer_size:
            raise ValueError("the footer is cut short")
        index_offset, own_offset, crc, magic = _FIXED_FOOTER.unpack(data)
        if magic != FOOTER_MAGIC or crc != zlib.crc32(data[:16]):
            raise ValueError("the footer is damaged")
        if own_offset != footer_offset:
            raise ValueError("the footer does not stand where it says")
        return int(index_offset)


_MAX_FIELD = (1 << 32) - 1
_LETTERS = {TOKENS: b"T", WINDOWS: b"w", AUDIO: b"a", INDEX: b"i", END: b"E"}
_TYPES = {letter: type_ for type_, letter in _LETTERS.items()}
_COMPACT_FOOTER = struct.Struct("<II8s")


class CompactFraming(Framing):
    """The layout of versions 2.x, whose numbers are varints, and whose types of records are one letter each."""

    footer_size = _COMPACT_FOOTER.size
    index_entry_bytes = 3 * MAX_VARINT_BYTES
    # Its letter, six numbers, coder and version, the length of the times, a word of digits, and the CRC.
    least_chunk_bytes = 18
    token_mark = _LETTERS[TOKENS]
    token_payload_bytes = 2 + MAX_VARINT_BYTES

    def __init__(self, header: Header) -> None:
        super().__init__(header)
        rows, columns = header.model.layout.grid(header.height, header.width)
        self._latent_digits = header.planes * rows * columns
        """The number of digits of a latent frame."""

    def fields_to_bytes(self, fields: RecordFields) -> bytes:
        """See `Framing.fields_to_bytes`. The digits of a token record are counted in latent frames.

        Raises:
            ValueError: A field is out of range, or the digits are no whole number of latent frames.
        """
        unit = self._latent_digits if fields.type == TOKENS else 1
        raw_size, rest = divmod(fields.raw_size, unit)
        counts = (fields.size, fields.number, fields.gop, fields.frames, raw_size)
        if rest or not all(0 <= count <= _MAX_FIELD for count in counts):
            raise ValueError(f"a record cannot hold these fields: {fields}")
        numbers = (fields.size, fields.number, fields.gop, fields.pts, fields.frames, raw_size)
        return _LETTERS.get(fields.type, fields.type) + b"".join(map(write_varint, numbers))

    def read_fields(self, source: ByteSource) -> tuple[RecordFields, bytes]:
        """See `Framing.read_fields`."""
        letter = source.exactly(1)
        numbers, data = [], letter
        for _ in range(6):
            number = _next_varint(source)
            data += number
            numbers.append(read_varint(number, 0)[0])
        size, record, gop, pts, frames, raw_size = numbers
        if not all(0 <= number <= _MAX_FIELD for number in (size, record, gop, frames, raw_size)):
            raise ValueError("a field of a record is out of range")
        if letter == self.token_mark:
            raw_size *= self._latent_digits
        return RecordFields(_TYPES.get(letter, letter), size, record, gop, pts, frames, raw_size), data

    def token_payload_to_bytes(self, payload: TokenPayload) -> bytes:
        """See `Framing.token_payload_to_bytes`."""
        timing = b"".join(map(write_varint, payload.ticks))
        coder = bytes([payload.coder, payload.coder_version])
        return coder + write_varint(len(timing)) + timing + payload.packed

    def token_payload_from_bytes(self, data: bytes, frames: int) -> TokenPayload:
        """See `Framing.token_payload_from_bytes`."""
        if len(data) < 3:
            raise ValueError("a token record is cut short")
        size, begin = read_varint(data, 2)
        return _token_payload(data, begin, size, (data[0], data[1]), frames)

    def index_to_bytes(self, entries: list[GopEntry]) -> bytes:
        """See `Framing.index_to_bytes`. Each number is the difference to that of the entry before."""
        steps = (_difference(entry, before) for before, entry in pairwise([GopEntry(0, 0, 0), *entries]))
        return b"".join(write_varint(step) for entry in steps for step in entry)

    def _entries(self, payload: bytes, most: int) -> list[GopEntry]:
        entries: list[GopEntry] = []
        offset = pts = first_frame = position = 0
        while position < len(payload):
            if len(entries) == most:
                raise ValueError(f"the index has more than {most} entries")
            steps = []
            for _ in range(3):
                step, position = read_varint(payload, position)
                steps.append(step)
            offset, pts, first_frame = offset + steps[0], pts + steps[1], first_frame + steps[2]
            entries.append(GopEntry(offset, pts, first_frame))
        return entries

    def totals_to_bytes(self, totals: Totals) -> bytes:
        """See `Framing.totals_to_bytes`."""
        return b"".join(map(write_varint, totals.counts)) + totals.token_digest + totals.file_digest

    def totals_from_bytes(self, payload: bytes) -> Totals:
        """See `Framing.totals_from_bytes`."""
        counts: list[int] = []
        position = 0
        for _ in range(4):
            count, position = read_varint(payload, position)
            counts.append(count)
        if len(payload) != position + 2 * _DIGEST_BYTES or min(counts) < 0:
            raise ValueError("the END record has a wrong size, or a count below 0")
        end = position + _DIGEST_BYTES
        frames, chunks, gops, packets = counts
        return Totals(frames, chunks, gops, packets, payload[position:end], payload[end:])

    def footer_to_bytes(self, index_offset: int, footer_offset: int) -> bytes:
        """See `Framing.footer_to_bytes`."""
        back = footer_offset - index_offset
        return _COMPACT_FOOTER.pack(back, self._footer_crc(back, footer_offset), FOOTER_MAGIC)

    def footer_from_bytes(self, data: bytes, footer_offset: int) -> int:
        """See `Framing.footer_from_bytes`."""
        if len(data) != self.footer_size:
            raise ValueError("the footer is cut short")
        back, crc, magic = _COMPACT_FOOTER.unpack(data)
        if magic != FOOTER_MAGIC or crc != self._footer_crc(back, footer_offset):
            raise ValueError("the footer is damaged, or of another place or file")
        if back > footer_offset:
            raise ValueError("the footer points before the file")
        return int(footer_offset - back)

    def _footer_crc(self, back: int, footer_offset: int) -> int:
        """Return the CRC of the footer, which covers where it stands and which file it is of."""
        return zlib.crc32(struct.pack("<QI", footer_offset, back), self.crc_seed)


def framing_of(version: tuple[int, int], header: Header) -> Framing:
    """Return the layout of a file of a version of the format."""
    return FixedFraming(header) if version[0] == 1 else CompactFraming(header)


def _token_payload(data: bytes, begin: int, size: int, coder: tuple[int, int], frames: int) -> TokenPayload:
    """Parse the times, `size` bytes from `begin` on, and take what follows as the packed digits."""
    if not 0 <= size <= len(data) - begin:
        raise ValueError("the times of a token record are cut short")
    end = begin + size
    return TokenPayload(read_ticks(data[begin:end], frames) if size else (), *coder, data[end:])


def _next_varint(source: ByteSource) -> bytes:
    """Read the bytes of a varint."""
    data = b""
    while len(data) < MAX_VARINT_BYTES:
        data += source.exactly(1)
        if data[-1] < 0x80:
            break
    return data


def _difference(entry: GopEntry, before: GopEntry) -> tuple[int, int, int]:
    return entry.offset - before.offset, entry.pts - before.pts, entry.first_frame - before.first_frame
