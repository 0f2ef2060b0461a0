"""Writes `.vtk` files from front to back and never goes back to change bytes, so the output may be a pipe."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from typing import BinaryIO

from vtok_codec.container.header import Header, header_to_json
from vtok_codec.container.records import (
    AUDIO,
    END,
    INDEX,
    TOKENS,
    GopEntry,
    Record,
    StoredPacket,
    TokenPayload,
    Totals,
    footer_to_bytes,
    index_to_bytes,
    packets_to_bytes,
)

MAGIC = b"\x89VTK\r\n\x1a\n"
"""The first 8 bytes of a file. As in PNG, the high bit and the line ends reveal a transfer in text mode."""
VERSION = (1, 0)
"""The major and the minor version of the format."""
MAX_HEADER_BYTES = 1 << 16
"""The largest size of the JSON text of the header, in bytes."""
PREFIX = struct.Struct("<8sHHI")
"""The start of a file: magic, major version, minor version, size of the JSON text in bytes."""


class VtkWriter:
    """Writes a `.vtk` file to a binary stream, which need not be seekable. Creating the writer writes the header.

    Raises:
        ValueError: The header is larger than `MAX_HEADER_BYTES`.
    """

    def __init__(self, stream: BinaryIO, header: Header) -> None:
        self._stream = stream
        self._offset = 0
        self._number = 0
        self._gop = -1
        self._frames = self._chunks = self._packets = 0
        self._index: list[GopEntry] = []
        self._digest = hashlib.sha256()
        text = header_to_json(header)
        if len(text) > MAX_HEADER_BYTES:
            raise ValueError(f"a header of {len(text)} bytes is over {MAX_HEADER_BYTES}")
        prefix = PREFIX.pack(MAGIC, *VERSION, len(text)) + text
        self._write(prefix + struct.pack("<I", zlib.crc32(prefix)))

    @property
    def bytes_written(self) -> int:
        """The number of bytes written so far."""
        return self._offset

    def write_tokens(
        self, gop: int, pts: int, frames: int, payload: TokenPayload, raw_size: int, tokens: bytes
    ) -> None:
        """Write a chunk as a token record, and flush the stream.

        Args:
            gop: The number of the chunk's GOP, counted from 0.
            pts: The time of the first frame, in ticks of the header's time base.
            frames: The number of frames in the chunk.
            payload: The times of the frames and the packed digits.
            raw_size: The number of digits in the chunk.
            tokens: The tokens of the chunk, little-endian uint16 `t h w n`, for the digest in the END record.
        """
        if gop != self._gop:
            self._gop = gop
            self._index.append(GopEntry(self._offset, pts, self._frames))
        self._digest.update(tokens)
        self._frames += frames
        self._chunks += 1
        self._record(TOKENS, payload.to_bytes(), pts, frames, raw_size)
        # A reader at the other end of a pipe can decode the chunk right away.
        self._stream.flush()

    def write_audio(self, packets: Sequence[StoredPacket]) -> None:
        """Write audio packets, in the given order, as one audio record."""
        self._packets += len(packets)
        self._record(AUDIO, packets_to_bytes(list(packets)), frames=len(packets))

    def finish(self) -> None:
        """Write the index, the totals and the footer. A file without them counts as cut short."""
        index_offset = self._offset
        self._record(INDEX, index_to_bytes(self._index))
        totals = Totals(self._frames, self._chunks, len(self._index), self._packets, self._digest.digest())
        self._record(END, totals.to_bytes())
        self._write(footer_to_bytes(index_offset, self._offset))
        self._stream.flush()

    def _record(self, type_: bytes, payload: bytes, pts: int = 0, frames: int = 0, raw_size: int = 0) -> None:
        self._write(Record(type_, self._number, max(self._gop, 0), pts, frames, raw_size, payload).to_bytes())
        self._number += 1

    def _write(self, data: bytes) -> None:
        self._stream.write(data)
        self._offset += len(data)
