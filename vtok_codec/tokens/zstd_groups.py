"""The zstd coder: it writes digits as one-byte symbols, ordered so that zstd finds repetitions, and compresses them.

zstd hardly compresses packed 16-bit tokens, but it does compress their digits if similar symbols stand together.
Adjacent digits of a token that have the same number of levels form a *group*: levels 8, 8, 8, 5, 5, 5 make two groups.
A group is written row by row and column by column of the latent grid, with the digits of all latent frames together, in
whichever of three alphabets compresses best, as a zstd frame of its own. `docs/reference/format.md` specifies the exact
layout, and `docs/notebook/training.md` compares the coders.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import zstandard
from numpy.typing import NDArray

from vtok_codec.tokens.radix import Digits

ZSTD_LEVEL = 17
"""The zstd level that compresses groups. Higher levels are slower and save almost nothing."""
_PROBE_LEVEL = 3
"""The zstd level that compares alphabets. A fast level ranks them as well as a slow one."""
_SAMPLE_BYTES = 1 << 16
"""The largest number of bytes of a group that are compressed to compare alphabets."""
_GROUP_FIELDS = struct.Struct("<BI")
"""The fields in front of a group: the number of its alphabet, and the size of its zstd frame in bytes."""
_MAX_SYMBOLS = 256
"""The largest number of symbols in an alphabet, so that a symbol fits one byte."""

Symbols = NDArray[np.uint8]
"""The symbols of a group, `h w s`, with s symbols for each row and column of the latent grid."""


class _Alphabet(NamedTuple):
    """A way to write the digits `g t h w` of a group, each below L, as symbols `h w s` and to read them again."""

    applies: Callable[[int, int], bool]
    """Returns whether the alphabet can write digits, from g and L."""
    steps: Callable[[int, int], int]
    """Returns the number s of symbols for each row and column of the latent grid, from g and t."""
    write: Callable[[Digits, int], Symbols]
    """Turns the digits of a group into symbols, from the digits and L."""
    read: Callable[[Symbols, int, int, int], Digits]
    """Turns symbols into digits, from the symbols, g, t and L. The caller must check that the digits are below L."""


def _write_digits(digits: Digits, levels: int) -> Symbols:
    return digits.transpose(2, 3, 1, 0).reshape(*digits.shape[2:], -1)


def _read_digits(symbols: Symbols, group: int, frames: int, levels: int) -> Digits:
    return symbols.reshape(*symbols.shape[:2], frames, group).transpose(3, 2, 0, 1)


def _write_pairs(digits: Digits, levels: int) -> Symbols:
    paired = digits.shape[1] // 2 * 2
    pairs = digits[:, 0:paired:2] * levels + digits[:, 1:paired:2]
    return _write_digits(np.concatenate([pairs, digits[:, paired:]], axis=1), levels)


def _read_pairs(symbols: Symbols, group: int, frames: int, levels: int) -> Digits:
    pairs = frames // 2
    read = _read_digits(symbols, group, frames - pairs, levels)
    digits = np.empty((group, frames, *symbols.shape[:2]), np.uint8)
    digits[:, 0 : 2 * pairs : 2], digits[:, 1 : 2 * pairs : 2] = np.divmod(read[:, :pairs], levels)
    digits[:, 2 * pairs :] = read[:, pairs:]
    return digits


def _write_joint(digits: Digits, levels: int) -> Symbols:
    basis = (levels ** np.arange(len(digits))).astype(np.uint16).reshape(-1, 1, 1, 1)
    return (digits * basis).sum(axis=0).astype(np.uint8).transpose(1, 2, 0)


def _read_joint(symbols: Symbols, group: int, frames: int, levels: int) -> Digits:
    basis = (levels ** np.arange(group)).astype(np.uint16).reshape(-1, 1, 1, 1)
    digits = symbols.transpose(2, 0, 1)[None] // basis
    # The last digit is not reduced modulo L: a symbol outside the alphabet makes it too large, so `unpack` refuses it.
    digits[:-1] %= levels
    return digits.astype(np.uint8)


_ALPHABETS = (
    _Alphabet(lambda g, levels: True, lambda g, t: g * t, _write_digits, _read_digits),
    _Alphabet(lambda g, levels: levels**2 <= _MAX_SYMBOLS, lambda g, t: g * (t - t // 2), _write_pairs, _read_pairs),
    _Alphabet(lambda g, levels: levels**g <= _MAX_SYMBOLS, lambda g, t: t, _write_joint, _read_joint),
)
"""The alphabets, whose index is their number in a file.

A symbol stands for one digit, for one digit in two successive latent frames, or for all digits of the group at one
position.
"""


class GroupCoder:
    """Packs and unpacks chunks with zstd, each chunk independently of the others."""

    def __init__(self, levels: Sequence[int]) -> None:
        """Create a coder for tokens whose digits have so many values each."""
        self._levels = tuple(levels)

    def pack(self, digits: Digits) -> bytes:
        """Pack the digits of a chunk, uint8 `P t h w`, into bytes; see the function `pack`."""
        return pack(digits, self._levels)

    def unpack(self, data: bytes, shape: tuple[int, int, int, int]) -> Digits:
        """Unpack the digits of a chunk; see the function `unpack`.

        Args:
            data: The bytes that `pack` returned.
            shape: The shape `P t h w` of the digits.

        Returns:
            The digits, uint8 `P t h w`.

        Raises:
            ValueError: The data do not hold exactly these digits.
        """
        return unpack(data, shape, self._levels)


def pack(digits: Digits, levels: Sequence[int]) -> bytes:
    """Pack the digits of a chunk into bytes.

    Args:
        digits: The digits, uint8 `P t h w`.
        levels: The number of values of each digit of a token.

    Returns:
        For each group of each token the number of its alphabet, the size of its zstd frame in bytes, and the frame.
    """
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True, write_content_size=True)
    probe = zstandard.ZstdCompressor(level=_PROBE_LEVEL)
    parts = []
    for planes, group_levels in _groups(len(digits), levels):
        group = digits[planes]
        candidates = [
            (number, np.ascontiguousarray(alphabet.write(group, group_levels)).tobytes())
            for number, alphabet in enumerate(_ALPHABETS)
            if alphabet.applies(len(group), group_levels)
        ]
        number, data = min(candidates, key=lambda candidate: _expected_size(probe, candidate[1]))
        frame = compressor.compress(data)
        parts += [_GROUP_FIELDS.pack(number, len(frame)), frame]
    return b"".join(parts)


def unpack(data: bytes, shape: tuple[int, int, int, int], levels: Sequence[int]) -> Digits:
    """Unpack the digits of a chunk.

    Args:
        data: The bytes that `pack` returned.
        shape: The shape `P t h w` of the digits.
        levels: The number of values of each digit of a token.

    Returns:
        The digits, uint8 `P t h w`.

    Raises:
        ValueError: The data do not hold exactly these digits.
    """
    _, t, h, w = shape
    digits = np.empty(shape, np.uint8)
    position = 0
    for planes, group_levels in _groups(shape[0], levels):
        if position + _GROUP_FIELDS.size > len(data):
            raise ValueError("a group of digits is missing")
        number, size = _GROUP_FIELDS.unpack_from(data, position)
        position += _GROUP_FIELDS.size
        group = planes.stop - planes.start
        if number >= len(_ALPHABETS) or not _ALPHABETS[number].applies(group, group_levels):
            raise ValueError(f"alphabet {number} is unknown, or too small for {group} digits of {group_levels} levels")
        alphabet = _ALPHABETS[number]
        steps = alphabet.steps(group, t)
        raw = _decompress(data[position : position + size], h * w * steps)
        position += size
        read = alphabet.read(np.frombuffer(raw, np.uint8).reshape(h, w, steps), group, t, group_levels)
        if read.size and int(read.max()) >= group_levels:
            raise ValueError(f"a digit is not below {group_levels}")
        digits[planes] = read
    if position != len(data):
        raise ValueError(f"{len(data) - position} bytes stand after the last group")
    return digits


def _groups(planes: int, levels: Sequence[int]) -> list[tuple[slice, int]]:
    """Return the planes and the number of levels of each group. A group is a run of equal levels within a token."""
    runs, start = [], 0
    for group_levels, members in groupby(levels):
        length = len(list(members))
        runs.append((start, length, group_levels))
        start += length
    return [
        (slice(token + first, token + first + length), group_levels)
        for token in range(0, planes, len(levels))
        for first, length, group_levels in runs
    ]


def _expected_size(probe: zstandard.ZstdCompressor, data: bytes) -> float:
    """Estimate the compressed size of the data, in bytes, from their first `_SAMPLE_BYTES` bytes."""
    sample = data[:_SAMPLE_BYTES]
    return len(probe.compress(sample)) * len(data) / max(1, len(sample))


def _decompress(frame: bytes, size: int) -> bytes:
    """Decompress a zstd frame to exactly `size` bytes. The size that the frame declares is checked first."""
    try:
        declared = zstandard.get_frame_parameters(frame).content_size
        if declared != size:
            raise ValueError(f"the zstd frame declares {declared} bytes instead of {size}")
        return zstandard.ZstdDecompressor().decompress(frame, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(f"zstd: {error}") from error
