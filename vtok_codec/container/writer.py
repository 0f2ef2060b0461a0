"""Writes `.vtk` files from front to back and never goes back to change bytes, so the output may be a pipe."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import BinaryIO

from vtok_codec.audio import AudioPacket
from vtok_codec.container.framing import framing_of
from vtok_codec.container.header import ID_BYTES, Header
from vtok_codec.container.header_json import header_to_json
from vtok_codec.container.prefix import FIRST_BOUND, VERSION, header_to_bytes
from vtok_codec.container.records import (
    AUDIO,
    END,
    INDEX,
    TOKENS,
    WINDOWS,
    GopEntry,
    Record,
    TokenPayload,
    Totals,
    packets_to_bytes,
)
from vtok_codec.container.window_tokens import WindowTokens

_MAX_WAITING = 8
"""The most audio records that wait for the first chunk."""


class VtkWriter:
    """Writes a `.vtk` file to a binary stream, which need not be seekable.

    If the header has no file identifier, the file gets one that follows from the header and the first chunk, so that
    the same contents always make the same file. The header is then written with the first chunk, otherwise at once.

    Args:
        stream: The stream.
        header: The header.
        version: The version of the format. Files of version 1.0 have no identifier.

    Raises:
        ValueError: The header is larger than `MAX_HEADER_BYTES`, or has an identifier that its version does not know.
    """

    def __init__(self, stream: BinaryIO, header: Header, version: tuple[int, int] = VERSION) -> None:
        self._stream = stream
        self._header = header
        self._version = version
        self._offset = 0
        self._number = 0
        self._gop = -1
        self._frames = self._chunks = self._packets = 0
        self.audio_bytes = 0
        """The size of the audio records written so far."""
        self._index: list[GopEntry] = []
        self._digest = hashlib.sha256()
        self._file_digest = hashlib.sha256()
        if header.file_id and version < FIRST_BOUND:
            raise ValueError("files of version 1.0 have no identifier")
        # A header that is too large is refused here, before any work.
        header_to_bytes(replace(header, file_id=bytes(ID_BYTES)), version)
        self._framing = framing_of(version, header)
        self._waiting: list[Record] | None = None if header.file_id or version < FIRST_BOUND else []
        """The audio records before the first chunk, while the identifier is not known yet."""
        if self._waiting is None:
            self._write(header_to_bytes(header, version))

    def _identify(self, first: Record) -> None:
        """Give the file its identifier, if it has none yet, and write what waited for it.

        Args:
            first: The record of the first chunk; another one if too many records of sound stand before it,
                or if there is no chunk.
        """
        if self._waiting is None:
            return
        waiting, self._waiting = self._waiting, None
        contents = hashlib.sha256(header_to_json(self._header) + first.payload)
        self._header = replace(self._header, file_id=contents.digest()[:ID_BYTES])
        self._framing = framing_of(self._version, self._header)
        self._write(header_to_bytes(self._header, self._version))
        for record in waiting:
            self._put(record)

    @property
    def bytes_written(self) -> int:
        """The number of bytes written so far."""
        return self._offset

    def write_tokens(
        self,
        gop: int,
        pts: int,
        frames: int,
        payload: TokenPayload,
        raw_size: int,
        tokens: bytes,
        window_tokens: WindowTokens | None = None,
    ) -> None:
        """Write a chunk as a token record, and flush the stream.

        Args:
            gop: The number of the chunk's GOP, counted from 0.
            pts: The time of the first frame, in ticks of the header's time base.
            frames: The number of frames in the chunk.
            payload: The times of the frames and the packed digits.
            raw_size: The number of digits in the chunk.
            tokens: The tokens of the chunk, little-endian uint16 `t h w n`, for the digest in the END record.
            window_tokens: The 1D tokens of the chunk, if it has some; they follow in a record of their own.
        """
        starts, self._gop = gop != self._gop, gop
        record = self._numbered(TOKENS, self._framing.token_payload_to_bytes(payload), pts, frames, raw_size)
        self._identify(record)
        if starts:
            self._index.append(GopEntry(self._offset, pts, self._frames))
        self._digest.update(tokens)
        self._frames += frames
        self._chunks += 1
        self._put(record)
        if window_tokens:
            data, count = window_tokens.to_bytes(), window_tokens.tokens.size
            self._put(self._numbered(WINDOWS, data, raw_size=count))
        # A reader at the other end of a pipe can decode the chunk right away.
        self._stream.flush()

    def write_audio(self, packets: Sequence[AudioPacket]) -> None:
        """Write audio packets, in the given order, as one audio record."""
        self._packets += len(packets)
        record = self._numbered(AUDIO, packets_to_bytes(list(packets)), frames=len(packets))
        if self._waiting is not None and len(self._waiting) < _MAX_WAITING:
            self._waiting.append(record)
        else:
            self._identify(record)
            self._put(record)

    def finish(self) -> None:
        """Write the index, the totals and the footer. A file without them counts as cut short."""
        index = self._numbered(INDEX, self._framing.index_to_bytes(self._index))
        self._identify(index)
        index_offset = self._offset
        self._put(index)
        file_digest = self._file_digest.digest() if self._header.file_id else b""
        totals = Totals(self._frames, self._chunks, len(self._index), self._packets, self._digest.digest(), file_digest)
        self._put(self._numbered(END, self._framing.totals_to_bytes(totals)))
        self._write(self._framing.footer_to_bytes(index_offset, self._offset))
        self._stream.flush()

    def _numbered(self, type_: bytes, payload: bytes, pts: int = 0, frames: int = 0, raw_size: int = 0) -> Record:
        """Return the next record."""
        self._number += 1
        return Record(type_, self._number - 1, max(self._gop, 0), pts, frames, raw_size, payload)

    def _put(self, record: Record) -> None:
        data = self._framing.record_to_bytes(record)
        if record.type == AUDIO:
            self.audio_bytes += len(data)
        self._write(data)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            # A raw stream may take only a part; other objects may return nothing.
            taken = self._stream.write(rest)
            if taken == 0:
                raise OSError(errno.EIO, "the output takes no more")
            rest = rest[taken:] if taken else rest[:0]
        self._file_digest.update(data)
        self._offset += len(data)
