"""Bytes of a file or pipe, a bounded piece at a time, so that a length that lies allocates nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

PIECE_BYTES = 1 << 20
"""Most bytes asked of a stream at once."""


class ByteSource:
    """A stream, read from where it stands at first: that place is position 0."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.seekable = stream.seekable()
        """Whether `size` and `seek` can be used."""
        self._start = stream.tell() if self.seekable else 0
        self._position = 0

    @property
    def position(self) -> int:
        """Of the next byte."""
        return self._position

    def size(self) -> int:
        """Bytes of the whole stream. The position is kept."""
        end = self._stream.seek(0, 2)
        self.seek(self._position)
        return end - self._start

    def seek(self, position: int) -> None:
        """Go to a place."""
        self._stream.seek(self._start + position)
        self._position = position

    def some(self, size: int) -> bytes:
        """Up to `size` bytes: fewer only where the stream ends, whatever one read of a pipe gives."""
        return b"".join(self.pieces(size))

    def exactly(self, size: int) -> bytes:
        """`size` bytes.

        Raises:
            ValueError: the stream ends before.
        """
        data = self.some(size)
        if len(data) < size:
            raise ValueError("the file is cut short")
        return data

    def pieces(self, size: int) -> Iterator[bytes]:
        """As `some`, piece by piece."""
        while size > 0:
            piece = self._stream.read(min(size, PIECE_BYTES))
            if not piece:
                return
            size -= len(piece)
            self._position += len(piece)
            yield piece
