"""Finds the next whole GOP behind a damage: by the index where there is one, else by searching every byte."""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from vtok_codec.container.header import Header
from vtok_codec.container.records import CRC, FIELDS, TOKENS, is_ancillary, token_payload_limit
from vtok_codec.container.source import PIECE_BYTES, ByteSource
from vtok_codec.errors import DamageError

_SEARCH_EFFORT = 8
"""How many times a file's size a search for whole records may read in all."""


@dataclass(frozen=True)
class FoundGop:
    """The first chunk of a GOP, whole."""

    offset: int
    gop: int
    most_lost_frames: int
    """No more can have stood between the damage and this place."""


class Salvage:
    """A search through one file, bounded over all of its calls."""

    def __init__(self, source: ByteSource, header: Header, gop_offsets: Sequence[int]) -> None:
        self._source = source
        self._header = header
        self._offsets = gop_offsets
        """Where GOPs start, by the index; empty without a usable one."""
        self._bytes_looked_at = 0
        self._sure_start = -1
        """Where a GOP starts because a whole chunk of the one before it ends there."""

    def next_gop(self, damage: int, gop: int) -> FoundGop | None:
        """The next GOP after number `gop` that starts with a whole record behind the one at offset `damage`.

        None where no such GOP is left.
        """
        most_bytes = _SEARCH_EFFORT * self._source.size()
        indexed: Iterable[int] = self._offsets[bisect_right(self._offsets, damage) :]
        for offset in indexed if self._offsets else self._record_like_places(damage + 1):
            found = self._gop_starting_at(offset, gop)
            if found is not None:
                # No record is shorter than its fields, so that a gap cannot claim more than its bytes could hold.
                lost_records = (offset - damage) // (FIELDS.size + CRC.size) + 1
                return FoundGop(offset, found, lost_records * self._header.max_chunk_frames(False))
            if self._bytes_looked_at > most_bytes:
                # Crafted to look like records everywhere.
                return None
        return None

    def _gop_starting_at(self, offset: int, after_gop: int) -> int | None:
        """The number of the GOP whose first chunk is a whole record at `offset`, or None."""
        source = self._source
        source.seek(offset)
        self._bytes_looked_at += FIELDS.size
        try:
            type_, size, _, gop, _, frames, raw_size = FIELDS.unpack(source.exactly(FIELDS.size))
            if type_ != TOKENS or gop <= after_gop:
                return None
            if size > token_payload_limit(self._header, True, frames, raw_size):
                return None
            source.seek(offset)
            self._bytes_looked_at += size
            crc = zlib.crc32(source.exactly(FIELDS.size + size))
            whole = CRC.unpack(source.exactly(CRC.size))[0] == crc
            if not whole or self._offsets:
                return gop if whole else None
            certain = offset == self._sure_start or self._starts_a_gop(frames)
            place, next_gop = self._next_chunk(source.position)
            if next_gop == gop + 1:
                self._sure_start = place
            # A short chunk that another of its GOP follows is no last one, so it is the first.
            return gop if certain or next_gop == gop else None
        except (ValueError, DamageError):
            return None

    def _starts_a_gop(self, frames: int) -> bool:
        """Whether a chunk of so many frames, with the digits of a first one, cannot be a later one of its GOP."""
        header = self._header
        return header.chunk_latent_shape(frames, True) != header.chunk_latent_shape(frames, False)

    def _next_chunk(self, place: int) -> tuple[int, int | None]:
        """Where the next token record from `place` on stands, behind ancillary ones, and its GOP; None for none."""
        while True:
            self._source.seek(place)
            self._bytes_looked_at += FIELDS.size
            data = self._source.some(FIELDS.size)
            if len(data) < FIELDS.size:
                return place, None
            type_, size, _, gop, _, _, _ = FIELDS.unpack(data)
            if type_ == TOKENS:
                return place, gop
            if not is_ancillary(type_):
                return place, None
            place += FIELDS.size + size + CRC.size

    def _record_like_places(self, start: int) -> Iterator[int]:
        """Every place from `start` on where the type of a token record stands."""
        tail, place = b"", start
        while True:
            self._source.seek(place)
            piece = self._source.some(PIECE_BYTES)
            if not piece:
                return
            text, first = tail + piece, place - len(tail)
            found = text.find(TOKENS)
            while found >= 0:
                yield first + found
                found = text.find(TOKENS, found + 1)
            tail, place = text[1 - len(TOKENS) :], place + len(piece)
