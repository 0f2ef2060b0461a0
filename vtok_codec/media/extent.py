"""Reads the size that a video file declares. FFmpeg ignores it, so a truncated file would pass for a whole one."""

from __future__ import annotations

import struct

HEAD_BYTES = 4096
"""The number of bytes from the start of a file that `announced_size` needs."""

_EBML_HEADER = 0x1A45DFA3
_SEGMENT = 0x18538067
_FLV_SIZE = b"\x00\x08filesize\x00"
"""The start of the file size in the `onMetaData` of FLV: length of the name, name, and the type for numbers."""


def announced_size(head: bytes) -> int | None:
    """Return the smallest size that a complete file can have, in bytes, or None if the file does not declare it.

    Matroska and WebM declare it in their Segment (RFC 9559, section 5.1), AVI in its RIFF header, and FLV in its
    metadata. Other formats, such as NUT, MPEG, Ogg and y4m, do not declare it, nor do files written to a pipe.

    Args:
        head: The first `HEAD_BYTES` bytes of the file.
    """
    if head.startswith(_EBML_HEADER.to_bytes(4, "big")):
        return _segment_end(head)
    if head.startswith(b"RIFF") and len(head) >= 8:
        (size,) = struct.unpack_from("<I", head, 4)
        # A recorder that is killed leaves the size at 0 or at all ones.
        return 8 + size if 0 < size < 0xFFFFFFFF else None
    if head.startswith(b"FLV") and (found := head.find(_FLV_SIZE)) >= 0:
        number = head[found + len(_FLV_SIZE) :][:8]
        size_bytes = struct.unpack(">d", number)[0] if len(number) == 8 else 0.0
        return int(size_bytes) if 0 < size_bytes < 2**53 else None
    return None


def _segment_end(head: bytes) -> int | None:
    """Return the offset of the end of the first Segment, in bytes, or None if the Segment declares no size."""
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
    """Parse a variable-length number of EBML (RFC 8794, section 4) at index `at` of the data.

    Returns:
        The number, and the index after it. The number is None if it is cut off, or if it is a size of all ones, which
        means that the size is unknown.
    """
    length = 9 - data[at].bit_length() if at < len(data) else 0
    if not 1 <= length <= 8 or at + length > len(data):
        return None, at
    value = int.from_bytes(data[at : at + length], "big")
    if not keep_marker:
        value &= (1 << 7 * length) - 1
        if value == (1 << 7 * length) - 1:
            return None, at + length
    return value, at + length
