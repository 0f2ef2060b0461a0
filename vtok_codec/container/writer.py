"""Writes a `.vtk` file front to back; nothing is patched afterwards, so a pipe is as good as a file."""

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
"""The high bit and the line ends are what a text-mode copy breaks (after PNG)."""
VERSION = (1, 0)
MAX_HEADER_BYTES = 1 << 16
PREFIX = struct.Struct("<8sHHI")
"""Magic, major and minor version, bytes of the JSON header."""


class VtkWriter:
    """Writes header, records, index, totals and footer to a binary stream that need not seek."""

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
        return self._offset

    def write_tokens(
        self, gop: int, pts: int, frames: int, payload: TokenPayload, raw_size: int, tokens: bytes
    ) -> None:
        """Write a chunk. `tokens` are those of the chunk, uint16 little-endian `t h w n`, for the digest."""
        if gop != self._gop:
            self._gop = gop
            self._index.append(GopEntry(self._offset, pts, self._frames))
        self._digest.update(tokens)
        self._frames += frames
        self._chunks += 1
        self._record(TOKENS, payload.to_bytes(), pts, frames, raw_size)
        # A chunk is of use as soon as it is whole.
        self._stream.flush()

    def write_audio(self, packets: Sequence[StoredPacket]) -> None:
        """Write audio packets, in their order."""
        self._packets += len(packets)
        self._record(AUDIO, packets_to_bytes(list(packets)), frames=len(packets))

    def finish(self) -> None:
        """Write index, totals and footer. Without them the file counts as cut short."""
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
