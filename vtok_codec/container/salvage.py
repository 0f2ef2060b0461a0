"""Finds the next whole GOP after damage: through the index if it is usable, else by searching the whole file."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from vtok_codec.container.framing import CRC, Framing
from vtok_codec.container.index import read_payload
from vtok_codec.container.records import TOKENS, check_token_record, is_ancillary
from vtok_codec.container.source import PIECE_BYTES, ByteSource
from vtok_codec.errors import DamageError

_SEARCH_EFFORT = 8
"""The number of bytes that searches may read to check possible records, as a multiple of the file size."""
_FIELDS_EFFORT = 64
"""What reading the fields of a possible record counts for, in bytes."""


@dataclass(frozen=True)
class FoundGop:
    """A GOP that starts with a whole record."""

    offset: int
    """The offset of the GOP's first token record from the start of the file, in bytes."""
    gop: int
    """The number of the GOP, counted from 0."""
    most_lost_frames: int
    """An upper limit of the number of frames between the damage and this GOP."""


class Salvage:
    """Searches one file for whole GOPs. All searches together read a limited number of bytes."""

    def __init__(self, source: ByteSource, framing: Framing, gop_offsets: Sequence[int]) -> None:
        self._source = source
        self._framing, self._header = framing, framing.header
        self._offsets = gop_offsets
        """The offsets of the GOPs according to the index; empty if there is no usable index."""
        self._bytes_looked_at = 0
        """The number of bytes read so far to check possible records."""
        self._sure_start = -1
        """An offset where a GOP is sure to start, because the whole chunk before it belongs to the previous GOP."""

    def next_gop(self, damage: int, gop: int) -> FoundGop | None:
        """Find the next GOP that starts with a whole record.

        Args:
            damage: The offset of the damaged record, in bytes. The search starts after it.
            gop: The number of the last GOP before the damage. Only later GOPs are considered.

        Returns:
            The GOP, or None if no such GOP is left or the search has read as much as it may.
        """
        most_bytes = _SEARCH_EFFORT * self._source.size()
        indexed: Iterable[int] = self._offsets[bisect_right(self._offsets, damage) :]
        for offset in indexed if self._offsets else self._record_like_places(damage + 1):
            found = self._gop_starting_at(offset, gop)
            if found is not None:
                # The least size of a chunk limits how many were lost.
                lost_chunks = (offset - damage) // self._framing.least_chunk_bytes + 1
                return FoundGop(offset, found, lost_chunks * self._header.max_chunk_frames(False))
            if self._bytes_looked_at > most_bytes:
                # Only a file crafted to look like records everywhere takes this many reads.
                return None
        return None

    def _gop_starting_at(self, offset: int, after_gop: int) -> int | None:
        """Return the number of the GOP whose first chunk is a whole record at `offset`, or None if there is none."""
        source = self._source
        source.seek(offset)
        self._bytes_looked_at += _FIELDS_EFFORT
        try:
            fields, data = self._framing.read_fields(source)
            if fields.type != TOKENS or fields.gop <= after_gop:
                return None
            contents = check_token_record(self._header, True, fields.frames, fields.raw_size)
            if fields.size > contents + self._framing.token_payload_bytes:
                return None
            self._bytes_looked_at += fields.size
            read_payload(source, self._framing, fields, data)
            if self._offsets:
                return fields.gop
            certain = offset == self._sure_start or self._starts_a_gop(fields.frames)
            place, next_gop = self._next_chunk(source.position)
            if next_gop == fields.gop + 1:
                self._sure_start = place
            # A later chunk with this few frames would be the last of its GOP. If one more follows, this is the first.
            return fields.gop if certain or next_gop == fields.gop else None
        except (ValueError, DamageError):
            return None

    def _starts_a_gop(self, frames: int) -> bool:
        """Return whether a chunk of `frames` frames that has the digits of a first one cannot be a later one."""
        header = self._header
        latents = header.chunk_latent_shape(header.max_chunk_frames(True), True)[0]
        if header.model.layout.time_steps(latents, True) >= header.gop_latents:
            # A GOP has a single chunk.
            return True
        return header.chunk_latent_shape(frames, True) != header.chunk_latent_shape(frames, False)

    def _next_chunk(self, place: int) -> tuple[int, int | None]:
        """Skip ancillary records from `place` on.

        Returns:
            The offset of the record after them, and its GOP; None as the GOP if that record is not a token record.
        """
        while True:
            self._source.seek(place)
            try:
                fields, data = self._framing.read_fields(self._source)
            except ValueError:
                return place, None
            self._bytes_looked_at += _FIELDS_EFFORT
            if fields.type == TOKENS:
                return place, fields.gop
            if not is_ancillary(fields.type):
                return place, None
            place += len(data) + fields.size + CRC.size

    def _record_like_places(self, start: int) -> Iterator[int]:
        """Yield every offset from `start` on at which the mark of a token record appears."""
        mark = self._framing.token_mark
        tail, place = b"", start
        while True:
            self._source.seek(place)
            piece = self._source.some(PIECE_BYTES)
            if not piece:
                return
            text, first = tail + piece, place - len(tail)
            found = text.find(mark)
            while found >= 0:
                yield first + found
                found = text.find(mark, found + 1)
            tail, place = text[len(text) + 1 - len(mark) :], place + len(piece)
