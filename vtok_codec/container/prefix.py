"""The start of a `.vtk` file: its magic, the version of the format, and the header."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace

from vtok_codec.container.dictionary import FIRST_DICTIONARY, HEADER_DICTIONARY, SECOND_DICTIONARY
from vtok_codec.container.framing import CRC
from vtok_codec.container.header import ID_BYTES, Header
from vtok_codec.container.header_json import header_from_json, header_to_json
from vtok_codec.container.source import ByteSource
from vtok_codec.errors import DamageError, FormatError

MAGIC = b"\x89VTK\r\n\x1a\n"
"""The first 8 bytes of a file. As in PNG, the high bit and the line ends reveal a transfer in text mode."""
VERSION = (2, 2)
"""The major and the minor version of the format in which files are written."""
MAJOR_VERSIONS = (1, 2)
"""The major versions that can be read."""
FIRST_BOUND = (1, 1)
"""The first version of the format whose files have an identifier and a digest of all bytes."""
MAX_HEADER_BYTES = 1 << 16
"""The largest size of the JSON text of the header, in bytes."""
_MAX_DEFLATED_BYTES = MAX_HEADER_BYTES + 1024
"""The largest size of the deflated text, in bytes; what cannot be compressed grows a little."""
_FORMER_DICTIONARIES = {(2, 0): FIRST_DICTIONARY, (2, 1): SECOND_DICTIONARY}
"""What the headers of earlier minor versions refer back to."""
PREFIX = struct.Struct("<8sHHI")
"""The start of a file: magic, major version, minor version, size of the header's text in bytes."""


def header_to_bytes(header: Header, version: tuple[int, int]) -> bytes:
    """Serialize the start of a file, up to the CRC of the header.

    Raises:
        ValueError: The header is larger than `MAX_HEADER_BYTES`.
    """
    if version[0] == 1:
        text, file_id = header_to_json(header), b""
    else:
        text, file_id = header_to_json(replace(header, file_id=b"")), header.file_id
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {len(text)} bytes is over {MAX_HEADER_BYTES}")
    stored = text if version[0] == 1 else deflated(text, version)
    data = PREFIX.pack(MAGIC, *version, len(stored)) + stored + file_id
    return data + CRC.pack(zlib.crc32(data))


def read_header(source: ByteSource) -> tuple[tuple[int, int], Header, bytes]:
    """Read and check the start of a file.

    Returns:
        The version of the format, the header, and the bytes that were read.

    Raises:
        FormatError: The source is not a `.vtk` file that this version can read.
        DamageError: The header is damaged or cut short.
    """
    prefix = source.some(PREFIX.size)
    if not prefix:
        raise FormatError("the input is empty")
    if prefix[: len(MAGIC)] != MAGIC[: len(prefix)]:
        raise FormatError("not a .vtk file")
    if len(prefix) < PREFIX.size:
        raise DamageError("the header is cut short")
    _, major, minor, size = PREFIX.unpack(prefix)
    if major not in MAJOR_VERSIONS:
        known = " and ".join(map(str, MAJOR_VERSIONS))
        raise FormatError(f"format version {major} is not known; this vtok reads versions {known}")
    most, id_bytes = (MAX_HEADER_BYTES, 0) if major == 1 else (_MAX_DEFLATED_BYTES, ID_BYTES)
    if size > most:
        raise DamageError(f"the header declares {size} bytes, more than {most}")
    rest = source.some(size + id_bytes + CRC.size)
    if len(rest) < size + id_bytes + CRC.size:
        raise DamageError("the header is cut short")
    stored, file_id, crc = rest[:size], rest[size : -CRC.size], rest[-CRC.size :]
    if CRC.unpack(crc)[0] != zlib.crc32(prefix + stored + file_id):
        raise DamageError("the header is damaged: its CRC does not match")
    try:
        text = inflated(stored) if file_id else stored
    except FormatError as error:
        newer = "; a newer vtok may read it" if minor > VERSION[1] else ""
        raise FormatError(f"{error}{newer}") from None
    header = header_from_json(text)
    if bool(header.file_id) != (FIRST_BOUND <= (major, minor) < (2, 0)):
        raise FormatError("the header has no file identifier, or one that its version does not have")
    return (major, minor), replace(header, file_id=file_id or header.file_id), prefix + rest


def deflated(text: bytes, version: tuple[int, int] = VERSION) -> bytes:
    """Compress the text of a header to raw deflate data (RFC 1951) that refer back to the dictionary of a version."""
    known = _FORMER_DICTIONARIES.get(version, HEADER_DICTIONARY)
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_DEFAULT_STRATEGY, known)
    return deflater.compress(text) + deflater.flush()


def inflated(data: bytes) -> bytes:
    """Decompress what `deflated` made.

    Raises:
        FormatError: The data are not deflated, do not end where they should, or make more than `MAX_HEADER_BYTES`.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS, HEADER_DICTIONARY)
    try:
        text = inflater.decompress(data, MAX_HEADER_BYTES + 1)
    except zlib.error as error:
        raise FormatError(f"the header is not valid: {error}") from None
    if not inflater.eof or inflater.unused_data or len(text) > MAX_HEADER_BYTES:
        raise FormatError("the header is not valid: its text is cut short, too long, or followed by more")
    return text
