"""What the records of a `.vtk` file hold, whichever version of the format it has; `framing` lays it out in bytes.

A lower-case first letter of a record's type marks an ancillary record, which a reader skips if it does not know the
type.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from vtok_codec.audio import AudioPacket
from vtok_codec.container.header import Header
from vtok_codec.container.varint import MAX_VARINT_BYTES, read_varint, write_varint
from vtok_codec.errors import DamageError

TOKENS = b"TOKN"
"""The type of a token record, which holds one chunk."""
WINDOWS = b"wtok"
"""The type of the record with the 1D tokens of the chunk before it."""
AUDIO = b"audi"
"""The type of an audio record, which holds packets of the audio tracks."""
INDEX = b"indx"
"""The type of the index record, which says where the GOPs start."""
END = b"TEND"
"""The type of the END record, which holds the totals and comes last."""

MAX_TICKS = 1 << 61
"""The largest absolute value of a time, in ticks, so that sums of times fit 64 bits."""
MAX_AUDIO_BYTES = 1 << 24
"""The largest payload of an audio record, in bytes."""
MAX_AUDIO_PACKETS = 1 << 16
"""The largest number of packets in an audio record."""

MAX_INDEX_ENTRIES = 1 << 20
"""The largest number of entries of an index that is loaded to seek by, which take about 200 MB of memory.

A file with more GOPs can only be read from its start.
"""


@dataclass(frozen=True)
class Record:
    """A record. The meaning of `pts`, `frames` and `raw_size` depends on its type."""

    type: bytes
    """The type of the record: four ASCII letters, or one for a type of versions 2.x that is not known here."""
    number: int
    """The number of the record, counted from 0, which reveals missing and repeated records."""
    gop: int
    """The number of the GOP that the record belongs to, counted from 0."""
    pts: int
    """The time of a token record's first frame, in ticks of the header's time base; 0 for other types."""
    frames: int
    """The number of frames in a token record, or of packets in an audio record; 0 for other types."""
    raw_size: int
    """The number of digits in a token record, which is their size in bytes when unpacked, or of 1D tokens in a record
    of those; 0 for other types. In files of versions 2.x, digits are counted in latent frames ("contents")."""
    payload: bytes
    """The contents of the record, which depend on its type."""


@dataclass(frozen=True)
class TokenPayload:
    """The payload of a token record: the times of its frames and its packed digits."""

    ticks: tuple[int, ...]
    """The ticks from each frame to the next, then the duration of the last frame; empty if all are `frame_ticks`."""
    coder: int
    """The number of the coder that packed the digits."""
    coder_version: int
    """The version of the coder that packed the digits."""
    packed: bytes
    """The packed digits of the chunk."""


def read_ticks(timing: bytes, frames: int) -> tuple[int, ...]:
    """Parse and check the ticks of a token record of `frames` frames.

    Raises:
        ValueError: There are times for another number of frames, or they are out of range.
    """
    ticks, position = [], 0
    for _ in range(frames):
        value, position = read_varint(timing, position)
        ticks.append(value)
    if position != len(timing):
        raise ValueError(f"a token record has more times than its {frames} frames")
    if min(ticks[:-1], default=1) < 1 or ticks[-1] < 0 or sum(ticks) > MAX_TICKS:
        raise ValueError("the times of a token record do not increase, or are out of range")
    return tuple(ticks)


def is_ancillary(type_: bytes) -> bool:
    """Return whether a reader skips records of this type if it does not know the type."""
    return type_[:1].islower()


def max_packed_bytes(digits: int, planes: int) -> int:
    """Return the largest size in bytes that a coder may pack a chunk of `digits` digits in `planes` planes into."""
    return 3 * digits + 64 * (planes + 1)


def check_token_record(header: Header, first: bool, frames: int, raw_size: int) -> int:
    """Check what a token record declares, so that a false size is noticed before reading.

    Args:
        header: The header of the file.
        first: Whether the chunk is the first of its GOP.
        frames: The number of frames that the record declares.
        raw_size: The number of digits that the record declares.

    Returns:
        The largest size in bytes that its times and its packed digits can have.

    Raises:
        DamageError: No chunk of this file can have that many frames, or its frames do not have that many digits.
    """
    if not 0 < frames <= header.max_chunk_frames(first):
        raise DamageError(f"a chunk declares {frames} frames, which no chunk of this file can have")
    shape = header.chunk_latent_shape(frames, first)
    digits = header.planes * shape[0] * shape[1] * shape[2]
    if raw_size != digits:
        raise DamageError(f"a chunk declares {raw_size} digits instead of {digits}")
    return frames * MAX_VARINT_BYTES + max_packed_bytes(digits, header.planes)


_HAS_PTS, _HAS_DTS = 1, 2


def packets_to_bytes(packets: list[AudioPacket]) -> bytes:
    """Serialize audio packets as the payload of an audio record."""
    out = []
    for packet in packets:
        known = (_HAS_PTS if packet.pts is not None else 0) | (_HAS_DTS if packet.dts is not None else 0)
        out.append(bytes([packet.track, known]))
        out += [write_varint(value) for value in (packet.pts, packet.dts) if value is not None]
        out += [write_varint(packet.duration), write_varint(len(packet.data)), packet.data]
    return b"".join(out)


def packets_from_bytes(payload: bytes, count: int, tracks: int) -> list[AudioPacket]:
    """Parse the payload of an audio record.

    Args:
        payload: The payload.
        count: The number of packets that the record declares.
        tracks: The number of audio tracks in the header.

    Raises:
        ValueError: The payload does not hold exactly `count` packets, or a packet has a track or a time out of range.
    """
    if count > MAX_AUDIO_PACKETS:
        raise ValueError(f"an audio record declares {count} packets; at most {MAX_AUDIO_PACKETS} are allowed")
    packets: list[AudioPacket] = []
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
        packets.append(AudioPacket(track, pts, dts, duration, payload[position : position + size]))
        position += size
    if position != len(payload):
        raise ValueError(f"an audio record holds more than the {count} packets that it declares")
    return packets


class GopEntry(NamedTuple):
    """An entry of the index, which says where a GOP starts."""

    offset: int
    """The offset of the GOP's first token record from the start of the file, in bytes."""
    pts: int
    """The time of the GOP's first frame, in ticks of the header's time base."""
    first_frame: int
    """The number of the GOP's first frame, counted from 0 at the start of the file."""


@dataclass(frozen=True)
class Totals:
    """The totals of a file, as stored in its END record."""

    frames: int
    """The number of frames in the file."""
    chunks: int
    """The number of chunks in the file."""
    gops: int
    """The number of GOPs in the file."""
    audio_packets: int
    """The number of audio packets in the file."""
    token_digest: bytes
    """The SHA-256 of all tokens, little-endian uint16 `t h w n`, chunk after chunk."""
    file_digest: bytes = b""
    """The SHA-256 of all bytes of the file before the END record; empty in format 1.0."""

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """The numbers of frames, chunks, GOPs and audio packets."""
        return self.frames, self.chunks, self.gops, self.audio_packets
