"""A `.vtk` file of any version taken apart into its header and its records, to be changed and put together."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from vtok_codec.container.framing import CRC, Framing, RecordFields, framing_of
from vtok_codec.container.header import Header
from vtok_codec.container.prefix import header_to_bytes, read_header
from vtok_codec.container.records import END, INDEX, TOKENS
from vtok_codec.container.source import ByteSource


@dataclass
class FilePart:
    """A record and where it stands."""

    fields: RecordFields
    """Its fields."""
    payload: bytes
    """Its payload."""
    start: int
    """Where it starts in the file, in bytes."""
    payload_start: int
    """Where its payload starts."""
    end: int
    """Where the next record starts."""


@dataclass
class FileParts:
    """A whole file in parts."""

    version: tuple[int, int]
    """The version of its format."""
    header: Header
    """Its header."""
    records: list[FilePart] = field(default_factory=list)
    """Its records."""

    @property
    def framing(self) -> Framing:
        """How the records lie in bytes."""
        return framing_of(self.version, self.header)

    def of_type(self, type_: bytes) -> list[FilePart]:
        """The records of a type."""
        return [record for record in self.records if record.fields.type == type_]

    def joined(self) -> bytes:
        """The file of these parts, with right sizes and CRCs, and with a footer that points at its index."""
        framing, data, index = self.framing, header_to_bytes(self.header, self.version), 0
        for record in self.records:
            index = len(data) if record.fields.type == INDEX else index
            content = framing.fields_to_bytes(record.fields._replace(size=len(record.payload))) + record.payload
            data += content + CRC.pack(zlib.crc32(content, framing.crc_seed))
        return data + framing.footer_to_bytes(index, len(data))


def parts_of(data: bytes) -> FileParts:
    """Take a whole file apart."""
    source = ByteSource(io.BytesIO(data))
    version, header, _ = read_header(source)
    parts = FileParts(version, header)
    while not parts.records or parts.records[-1].fields.type != END:
        start = source.position
        fields, _ = parts.framing.read_fields(source)
        payload_start = source.position
        payload = source.exactly(fields.size)
        source.exactly(CRC.size)
        parts.records.append(FilePart(fields, payload, start, payload_start, source.position))
    return parts


def changed(data: bytes, change: Callable[[FileParts], None]) -> bytes:
    """A file with some parts changed, and with right sizes and CRCs, but not with right digests."""
    parts = parts_of(data)
    change(parts)
    return parts.joined()


def header_end(data: bytes) -> int:
    """Where the header of a file ends, in bytes."""
    return parts_of(data).records[0].start


def chunk_starts(data: bytes) -> list[int]:
    """Where the token records of a file start, in bytes."""
    return [record.start for record in parts_of(data).of_type(TOKENS)]
