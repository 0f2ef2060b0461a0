"""How long a file says it is. FFmpeg does not look, so that a recording cut short would pass for a whole one."""

from __future__ import annotations

import struct

HEAD_BYTES = 4096
"""As much of a file's beginning as `announced_size` wants."""

_EBML_HEADER = 0x1A45DFA3
_SEGMENT = 0x18538067
_FLV_SIZE = b"\x00\x08filesize\x00"
"""A property of `onMetaData`: its name with the length before it, then the type of a number."""


def announced_size(head: bytes) -> int | None:
    """The least number of bytes that a file with this beginning has when it is whole.

    Matroska and WebM say it in their Segment (RFC 9559, 5.1), AVI in its RIFF header, FLV in its metadata. None where
    the format or this file does not say: NUT, MPEG, Ogg, y4m; and what was written to a pipe.
    """
    if head.startswith(_EBML_HEADER.to_bytes(4, "big")):
        return _segment_end(head)
    if head.startswith(b"RIFF") and len(head) >= 8:
        (size,) = struct.unpack_from("<I", head, 4)
        # A recorder that was killed leaves 0, or all ones.
        return 8 + size if 0 < size < 0xFFFFFFFF else None
    if head.startswith(b"FLV") and (found := head.find(_FLV_SIZE)) >= 0:
        number = head[found + len(_FLV_SIZE) :][:8]
        size_bytes = struct.unpack(">d", number)[0] if len(number) == 8 else 0.0
        return int(size_bytes) if 0 < size_bytes < 2**53 else None
    return None


def _segment_end(head: bytes) -> int | None:
    """Where the first Segment ends; None where it has no size."""
    at = 0
    while at < len(head):
        identifier, at = _vint(head, at, keep_marker=True)
        size, at = _vint(head, at, keep_marker=False)
        if identifier is None or size is None:
            return None
        if identifier == _SEGMENT:
            return at + size
        at += size
    return None


def _vint(data: bytes, at: int, keep_marker: bool) -> tuple[int | None, int]:
    """A number of EBML (RFC 8794, 4) and where it ends; None where it is cut off or all ones, which is "unknown"."""
    length = 9 - data[at].bit_length() if at < len(data) else 0
    if not 1 <= length <= 8 or at + length > len(data):
        return None, at
    value = int.from_bytes(data[at : at + length], "big")
    if not keep_marker:
        value &= (1 << 7 * length) - 1
        if value == (1 << 7 * length) - 1:
            return None, at + length
    return value, at + length
