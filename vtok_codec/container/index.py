"""Finds the index of a `.vtk` file by the footer, and reads records by themselves, outside the order of the file."""

from __future__ import annotations

import zlib

from vtok_codec.container.framing import CRC, Framing, RecordFields
from vtok_codec.container.records import INDEX, MAX_INDEX_ENTRIES, GopEntry
from vtok_codec.container.source import ByteSource
from vtok_codec.errors import DamageError


def index_offset(source: ByteSource, framing: Framing) -> int:
    """Return where the index record starts, as the footer says, in bytes. The position of the source changes.

    Raises:
        ValueError: The footer is missing, damaged, or of another file.
    """
    footer_offset = max(0, source.size() - framing.footer_size)
    source.seek(footer_offset)
    return framing.footer_from_bytes(source.some(framing.footer_size), footer_offset)


def read_index(source: ByteSource, framing: Framing) -> list[GopEntry]:
    """Read the index of a file that can seek. The position of the source does not change.

    Raises:
        DamageError: The footer or the index is missing, damaged or too large.
    """
    position = source.position
    try:
        offset = index_offset(source, framing)
        room = max(0, source.size() - framing.footer_size) - offset
        if room <= 0:
            raise ValueError("the footer does not fit the file's size")
        source.seek(offset)
        fields, data = framing.read_fields(source)
        if fields.type != INDEX or fields.size > min(room, framing.index_entry_bytes * MAX_INDEX_ENTRIES):
            raise ValueError("the footer does not point at an index that fits")
        entries = framing.index_from_bytes(read_payload(source, framing, fields, data))
        if not entries or entries[-1].offset >= offset:
            raise ValueError("an entry of the index points past the records")
        return entries
    except ValueError as error:
        raise DamageError(f"no usable index: {error}") from None
    finally:
        source.seek(position)


def read_payload(source: ByteSource, framing: Framing, fields: RecordFields, data: bytes) -> bytes:
    """Read the payload of a record whose fields have been read, and check its CRC.

    Args:
        source: The file, at the payload.
        framing: The framing of its version.
        fields: The fields. Their size has been checked.
        data: The bytes of the fields.

    Raises:
        ValueError: The record is damaged, of another file, or cut short.
    """
    payload = source.exactly(fields.size)
    (crc,) = CRC.unpack(source.exactly(CRC.size))
    if crc != zlib.crc32(payload, zlib.crc32(data, framing.crc_seed)):
        raise ValueError("a record is damaged, or of another file: its CRC does not match")
    return payload
