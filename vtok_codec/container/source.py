"""Reads the bytes of a file or pipe in pieces of limited size, so that a false length cannot exhaust the memory."""

from __future__ import annotations

import select
from collections.abc import Iterator
from typing import BinaryIO

from vtok_codec.errors import InputError

PIECE_BYTES = 1 << 20
"""The largest number of bytes to read from a stream at once."""


class ByteSource:
    """A stream of bytes. Position 0 is where the stream stood when the source was created."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.seekable = stream.seekable()
        """Whether the stream can seek, as `size` and `seek` require."""
        self._start = stream.tell() if self.seekable else 0
        self._position = 0

    @property
    def position(self) -> int:
        """The position of the next byte to read."""
        return self._position

    def size(self) -> int:
        """Return the number of bytes from position 0 to the end of the stream. The position does not change."""
        end = self._stream.seek(0, 2)
        self.seek(self._position)
        return end - self._start

    def seek(self, position: int) -> None:
        """Continue reading at `position`."""
        self._stream.seek(self._start + position)
        self._position = position

    def some(self, size: int) -> bytes:
        """Read `size` bytes, or fewer if the stream ends before. A pipe is read until it has delivered them."""
        return b"".join(self.pieces(size))

    def exactly(self, size: int) -> bytes:
        """Read exactly `size` bytes.

        Raises:
            ValueError: The stream ends before.
        """
        data = self.some(size)
        if len(data) < size:
            raise ValueError("the file is cut short")
        return data

    def pieces(self, size: int) -> Iterator[bytes]:
        """Read up to `size` bytes like `some`, but yield them in pieces of at most `PIECE_BYTES`.

        Raises:
            InputError: The disk or the network fails.
        """
        while size > 0:
            try:
                piece: bytes | None = self._stream.read(min(size, PIECE_BYTES))
            except OSError as error:
                raise InputError(f"cannot read the file any further: {error.strerror or error}") from error
            if piece is None:
                # A pipe that does not block has nothing yet.
                select.select([self._stream], [], [])
                continue
            if not piece:
                return
            size -= len(piece)
            self._position += len(piece)
            yield piece
