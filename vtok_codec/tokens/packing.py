"""Between the digits of a chunk and bytes: digits of one position side by side, a symbol alphabet a group, then zstd.

Packed 16-bit tokens do not compress; their digits do, if zstd sees alphabets of one kind and finds what repeats. The
digits of a token that have the same number of levels make a *group* (8, 8, 8, 5, 5, 5 makes two). A group is written
position by position, with all its latent frames and digits together, in one of three alphabets, as a zstd frame of its
own. Against a plane a digit with zstd behind it this saves 13 to 20 % (`docs/training.md` has the figures,
`docs/format.md` the exact layout).
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
"""Level 19 takes a fifth longer for 0.1 % less."""
_PROBE_LEVEL = 3
"""Which alphabet is smallest shows at any level; at this one it costs almost nothing."""
_SAMPLE_BYTES = 1 << 16
"""Of a large group only so many bytes are tried in each alphabet."""
_GROUP_FIELDS = struct.Struct("<BI")
"""Alphabet, and bytes of the zstd frame."""
_MAX_SYMBOLS = 256

Symbols = NDArray[np.uint8]


class _Alphabet(NamedTuple):
    """How the digits `g t h w` of a group, each below L, become symbols of one byte, `h w` outermost, and back."""

    applies: Callable[[int, int], bool]
    """Whether it can hold g digits of L levels."""
    steps: Callable[[int, int], int]
    """Symbols a position, for g digits and t latent frames."""
    write: Callable[[Digits, int], Symbols]
    read: Callable[[Symbols, int, int, int], Digits]
    """From symbols `h w steps`, g, t and L. Digits out of range are the caller's to refuse."""


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
    # All but the last are taken modulo L: a symbol above the alphabet shows in the last.
    digits[:-1] %= levels
    return digits.astype(np.uint8)


_ALPHABETS = (
    _Alphabet(lambda g, levels: True, lambda g, t: g * t, _write_digits, _read_digits),
    _Alphabet(lambda g, levels: levels**2 <= _MAX_SYMBOLS, lambda g, t: g * (t - t // 2), _write_pairs, _read_pairs),
    _Alphabet(lambda g, levels: levels**g <= _MAX_SYMBOLS, lambda g, t: t, _write_joint, _read_joint),
)
"""One digit; two of successive latent frames; all of a position. An alphabet's number in a file is its place here."""


def pack(digits: Digits, levels: Sequence[int]) -> bytes:
    """Digits `P t h w` → for each group of each token: its alphabet, the size of its zstd frame, the frame."""
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
    """The digits `P t h w` of `shape` that `pack` was given.

    Raises:
        ValueError: the data do not hold exactly that.
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
    """The planes of each group, and their levels: runs of equal levels within a token."""
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
    """What the data will take, judged by their beginning."""
    sample = data[:_SAMPLE_BYTES]
    return len(probe.compress(sample)) * len(data) / max(1, len(sample))


def _decompress(frame: bytes, size: int) -> bytes:
    """One zstd frame of exactly `size` bytes. The size that the frame itself declares is checked before any work."""
    try:
        declared = zstandard.get_frame_parameters(frame).content_size
        if declared != size:
            raise ValueError(f"the zstd frame declares {declared} bytes where {size} belong")
        return zstandard.ZstdDecompressor().decompress(frame, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(f"zstd: {error}") from error
