"""Puts the checksums of a changed `.vtk` file right, so that the code behind them is reached."""

from __future__ import annotations

import io
import zlib

from vtok_codec.container.framing import CRC, framing_of
from vtok_codec.container.header import ID_BYTES
from vtok_codec.container.prefix import PREFIX, read_header
from vtok_codec.container.records import END
from vtok_codec.container.source import ByteSource
from vtok_codec.errors import FormatError


def with_checksums(data: bytes) -> bytes:
    """Return the data with correct checksums wherever their lengths say that one stands."""
    whole = bytearray(data)
    if len(whole) < PREFIX.size:
        return data
    _, major, _, size = PREFIX.unpack_from(whole)
    _seal(whole, 0, PREFIX.size + size + (ID_BYTES if major > 1 else 0), 0)
    source = ByteSource(io.BytesIO(bytes(whole)))
    try:
        version, header, _ = read_header(source)
    except FormatError:
        return bytes(whole)
    framing = framing_of(version, header)
    while True:
        start = source.position
        try:
            fields, _ = framing.read_fields(source)
        except ValueError:
            return bytes(whole)
        end = source.position + fields.size
        _seal(whole, start, end, framing.crc_seed)
        if fields.type == END:
            return bytes(whole)
        source.seek(end + CRC.size)


def _seal(whole: bytearray, start: int, end: int, seed: int) -> None:
    """Put the CRC at `end` right, if there is room for one."""
    if end + CRC.size <= len(whole):
        CRC.pack_into(whole, end, zlib.crc32(whole[start:end], seed))
