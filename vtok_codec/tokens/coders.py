"""The coders that token records name, behind one interface: a GOP's chunks, in their order, to bytes and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from vtok_codec.tokens.packing import pack, unpack
from vtok_codec.tokens.radix import Digits
from vtok_codec.tokens.waves import MAX_DIGITS, MAX_LEVELS, WaveCoder

CoderId: TypeAlias = tuple[int, int]
"""Number and version."""

ZSTD_GROUPS: CoderId = (1, 1)
WAVES: CoderId = (2, 1)
CODERS = {"waves": WAVES, "zstd": ZSTD_GROUPS}
"""By the names that a user chooses from: the smallest first."""


class Coder(Protocol):
    """The coder of one GOP."""

    def pack(self, digits: Digits) -> bytes:
        """The next chunk's digits `P t h w`."""

    def unpack(self, data: bytes, shape: tuple[int, int, int, int]) -> Digits:
        """The next chunk's digits `P t h w`, of this shape.

        Raises:
            ValueError: the data do not hold exactly that.
        """


class GroupCoder:
    """Zstd over groups of digits (`packing`), which knows nothing of the chunks before."""

    def __init__(self, levels: Sequence[int]) -> None:
        self._levels = levels

    def pack(self, digits: Digits) -> bytes:
        return pack(digits, self._levels)

    def unpack(self, data: bytes, shape: tuple[int, int, int, int]) -> Digits:
        return unpack(data, shape, self._levels)


def make_coder(coder: CoderId, levels: Sequence[int], tokens: int) -> Coder:
    """The coder of a new GOP.

    Raises:
        LookupError: it is unknown, or cannot code digits of so many levels.
    """
    if coder == ZSTD_GROUPS:
        return GroupCoder(levels)
    if coder == WAVES and max(levels) <= MAX_LEVELS:
        return WaveCoder(levels, tokens)
    raise LookupError(f"coder {coder[0]} version {coder[1]}")


def fitting_coder(wanted: CoderId, levels: Sequence[int], most_digits: int) -> CoderId:
    """The coder that is wanted, or the one for everything, where digits or chunks of such a size are beyond it."""
    beyond = max(levels) > MAX_LEVELS or most_digits > MAX_DIGITS
    return ZSTD_GROUPS if wanted == WAVES and beyond else wanted
