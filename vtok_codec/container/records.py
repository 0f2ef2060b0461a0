"""Records: the parts of a `.vtk` file after its header. See `docs/format.md`.

A record is 32 bytes of fields, a payload, and a CRC-32 of both. Its type is four ASCII letters; a lower-case first
letter marks an ancillary record, which a reader that does not know it skips.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise

from vtok_codec.container.header import Header
from vtok_codec.container.varint import MAX_VARINT_BYTES, read_varint, write_varint
from vtok_codec.errors import DamageError

TOKENS = b"TOKN"
AUDIO = b"audi"
INDEX = b"indx"
END = b"TEND"

MAX_TICKS = 1 << 61
"""Bound of every time, in ticks, so that sums of them fit 64 bits."""
MAX_AUDIO_BYTES = 1 << 24
"""Largest payload of an audio record."""
MAX_AUDIO_PACKETS = 1 << 16
"""Most packets of an audio record."""

FIELDS = struct.Struct("<4sIIIqII")
"""Type, payload bytes, number of the record, GOP, first pts, frames, raw bytes."""
CRC = struct.Struct("<I")


@dataclass(frozen=True)
class Record:
    """One record. What `pts`, `frames` and `raw_size` mean depends on the type."""

    type: bytes
    number: int
    """Records are numbered from 0, so that one that is missing or stands twice is noticed."""
    gop: int
    pts: int
    """Of the first frame, in ticks of the header's time base; 0 where the type has none."""
    frames: int
    """Frames of a token record, packets of an audio record, else 0."""
    raw_size: int
    """Bytes of digits after unpacking a token record, else 0."""
    payload: bytes

    def to_bytes(self) -> bytes:
        """The record as it stands in a file."""
        fields = FIELDS.pack(self.type, len(self.payload), self.number, self.gop, self.pts, self.frames, self.raw_size)
        return fields + self.payload + CRC.pack(zlib.crc32(self.payload, zlib.crc32(fields)))


@dataclass(frozen=True)
class TokenPayload:
    """What a token record carries: the times of its frames and its packed digits."""

    ticks: tuple[int, ...]
    """Ticks from each frame to the next, the last one's being its duration; empty: all are the header's."""
    coder: int
    coder_version: int
    packed: bytes

    def to_bytes(self) -> bytes:
        timing = b"".join(map(write_varint, self.ticks))
        return _TOKEN_FIELDS.pack(self.coder, self.coder_version, len(timing)) + timing + self.packed

    @classmethod
    def from_bytes(cls, payload: bytes, frames: int) -> TokenPayload:
        """Parse a payload of `frames` frames.

        Raises:
            ValueError: it is cut short, or has times for another number of frames.
        """
        if len(payload) < _TOKEN_FIELDS.size:
            raise ValueError("a token record is cut short")
        coder, version, timing_size = _TOKEN_FIELDS.unpack_from(payload)
        end = _TOKEN_FIELDS.size + timing_size
        timing, packed = payload[_TOKEN_FIELDS.size : end], payload[end:]
        return cls(_read_ticks(timing, frames) if timing else (), coder, version, packed)


_TOKEN_FIELDS = struct.Struct("<BBI")


def _read_ticks(timing: bytes, frames: int) -> tuple[int, ...]:
    ticks, position = [], 0
    for _ in range(frames):
        value, position = read_varint(timing, position)
        ticks.append(value)
    if position != len(timing):
        raise ValueError(f"a token record has more times than its {frames} frames")
    if min(ticks[:-1], default=1) < 1 or ticks[-1] < 0 or sum(ticks) > MAX_TICKS:
        raise ValueError("the times of a token record do not grow, or leave their range")
    return tuple(ticks)


def is_ancillary(type_: bytes) -> bool:
    """Whether a reader that does not know a record of this type passes over it."""
    return type_[:1].islower()


def max_packed_bytes(digits: int, planes: int) -> int:
    """No coder may need more bytes for so many digits, one byte each before coding."""
    return 3 * digits + 64 * (planes + 1)


def token_payload_limit(header: Header, first: bool, frames: int, raw_size: int) -> int:
    """Most bytes of a token record's payload, from what the header allows and the record's fields declare.

    Raises:
        DamageError: no chunk of this file has so many frames, or so many digits.
    """
    if not 0 < frames <= header.max_chunk_frames(first):
        raise DamageError(f"a chunk declares {frames} frames")
    shape = header.chunk_latent_shape(frames, first)
    digits = header.planes * shape[0] * shape[1] * shape[2]
    if raw_size != digits:
        raise DamageError(f"a chunk declares {raw_size} digits where {digits} belong")
    return _TOKEN_FIELDS.size + frames * MAX_VARINT_BYTES + max_packed_bytes(digits, header.planes)


@dataclass(frozen=True)
class StoredPacket:
    """A coded audio packet; times in its track's time base. `pts` and `dts` may be unknown."""

    track: int
    pts: int | None
    dts: int | None
    duration: int
    data: bytes


_HAS_PTS, _HAS_DTS = 1, 2


def packets_to_bytes(packets: list[StoredPacket]) -> bytes:
    """The payload of an audio record."""
    out = []
    for packet in packets:
        known = (_HAS_PTS if packet.pts is not None else 0) | (_HAS_DTS if packet.dts is not None else 0)
        out.append(bytes([packet.track, known]))
        out += [write_varint(value) for value in (packet.pts, packet.dts) if value is not None]
        out += [write_varint(packet.duration), write_varint(len(packet.data)), packet.data]
    return b"".join(out)


def packets_from_bytes(payload: bytes, count: int, tracks: int) -> list[StoredPacket]:
    """The `count` packets of an audio record's payload.

    Raises:
        ValueError: the payload does not hold exactly these, or names a track past the last.
    """
    if count > MAX_AUDIO_PACKETS:
        raise ValueError(f"an audio record declares {count} packets; at most {MAX_AUDIO_PACKETS} are allowed")
    packets: list[StoredPacket] = []
    position = 0
    while len(packets) < count:
        if position + 2 > len(payload):
            raise ValueError("an audio record is cut short")
        track, known = payload[position], payload[position + 1]
        position += 2
        pts = dts = None
        if known & _HAS_PTS:
            pts, position = read_varint(payload, position)
        if known & _HAS_DTS:
            dts, position = read_varint(payload, position)
        duration, position = read_varint(payload, position)
        size, position = read_varint(payload, position)
        if track >= tracks or known > (_HAS_PTS | _HAS_DTS) or not 0 <= size <= len(payload) - position:
            raise ValueError("an audio packet has a track or a size out of range")
        if any(abs(ticks) > MAX_TICKS for ticks in (pts or 0, dts or 0, duration)):
            raise ValueError("an audio packet has a time out of range")
        packets.append(StoredPacket(track, pts, dts, duration, payload[position : position + size]))
        position += size
    if position != len(payload):
        raise ValueError(f"an audio record holds more than the {count} packets that it declares")
    return packets


@dataclass(frozen=True)
class GopEntry:
    """Where a GOP starts."""

    offset: int
    """Bytes from the start of the file to its first record."""
    pts: int
    first_frame: int
    """Frames of the file before it."""


_GOP_ENTRY = struct.Struct("<QqQ")
GOP_ENTRY_SIZE = _GOP_ENTRY.size
MAX_INDEX_BYTES = GOP_ENTRY_SIZE << 20
"""Of an index that is read by itself: a million GOPs, 200 MB while they are held. With more, a file is read from its
front."""


def index_to_bytes(entries: list[GopEntry]) -> bytes:
    """The payload of the index record: one entry a GOP, in order."""
    return b"".join(_GOP_ENTRY.pack(entry.offset, entry.pts, entry.first_frame) for entry in entries)


def index_from_bytes(payload: bytes) -> list[GopEntry]:
    """The entries of an index record.

    Raises:
        ValueError: the payload is no whole number of entries, or their offsets, times or frames do not grow or leave
            their range.
    """
    if len(payload) % _GOP_ENTRY.size:
        raise ValueError("the index is no whole number of entries")
    entries = [GopEntry(*fields) for fields in _GOP_ENTRY.iter_unpack(payload)]
    for before, after in pairwise(entries):
        if after.offset <= before.offset or after.pts <= before.pts or after.first_frame <= before.first_frame:
            raise ValueError("the entries of the index do not grow")
    if any(abs(entry.pts) > MAX_TICKS for entry in (*entries[:1], *entries[-1:])):
        raise ValueError("a time of the index is out of range")
    return entries


@dataclass(frozen=True)
class Totals:
    """What the END record says of the whole file."""

    frames: int
    chunks: int
    gops: int
    audio_packets: int
    token_digest: bytes
    """SHA-256 of all tokens, uint16 little-endian in `t h w n` order, chunk after chunk."""

    def to_bytes(self) -> bytes:
        return _TOTALS.pack(self.frames, self.chunks, self.gops, self.audio_packets, self.token_digest)

    @classmethod
    def from_bytes(cls, payload: bytes) -> Totals:
        """Parse the payload of an END record.

        Raises:
            ValueError: it has another size.
        """
        if len(payload) != _TOTALS.size:
            raise ValueError("the END record has a wrong size")
        return cls(*_TOTALS.unpack(payload))


_TOTALS = struct.Struct("<QQQQ32s")

FOOTER_MAGIC = b"\x89VTKEND\n"
_FOOTER = struct.Struct("<QQI8s")
FOOTER_SIZE = _FOOTER.size


def footer_to_bytes(index_offset: int, footer_offset: int) -> bytes:
    """The last bytes of a file: where the index record stands, where this footer does, a CRC-32 of both, a magic."""
    places = struct.pack("<QQ", index_offset, footer_offset)
    return _FOOTER.pack(index_offset, footer_offset, zlib.crc32(places), FOOTER_MAGIC)


def footer_from_bytes(data: bytes) -> tuple[int, int]:
    """The index's offset and the footer's own.

    Raises:
        ValueError: the bytes are no footer, or a damaged one.
    """
    if len(data) != FOOTER_SIZE:
        raise ValueError("the footer is cut short")
    index_offset, footer_offset, crc, magic = _FOOTER.unpack(data)
    if magic != FOOTER_MAGIC or crc != zlib.crc32(data[:16]):
        raise ValueError("the footer is damaged")
    return index_offset, footer_offset
