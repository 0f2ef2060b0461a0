"""Between the digits of a chunk and bytes: one plane a digit, a reversible filter a plane, then zstd.

Packed 16-bit tokens do not compress; their digits, one byte each, plane by plane, do. Every plane ends a zstd block, so
that it is coded with a table of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import zstandard
from numpy.typing import NDArray

from vtok_codec.tokens.radix import Digits

ZSTD_LEVEL = 19

Plane = NDArray[np.uint8]
"""The digits of one plane, `t h w`, each below the plane's number of levels."""


def _keep(plane: Plane, levels: int) -> Plane:
    return plane


def _difference_in_time(plane: Plane, levels: int) -> Plane:
    filtered = plane.copy()
    filtered[1:] = (plane[1:] + levels - plane[:-1]) % levels
    return filtered


def _sum_in_time(filtered: Plane, levels: int) -> Plane:
    return (np.cumsum(filtered, axis=0, dtype=np.uint32) % levels).astype(np.uint8)


_FILTERS: tuple[tuple[Callable[[Plane, int], Plane], Callable[[Plane, int], Plane]], ...] = (
    (_keep, _keep),
    (_difference_in_time, _sum_in_time),
)
"""Each filter with its inverse; its number in a file is its place here."""


def pack(digits: Digits, levels: Sequence[int]) -> bytes:
    """Digits `P t h w` → the filter of each plane, one byte a plane, then one zstd frame of all filtered planes."""
    choices, filtered = [], []
    probe = zstandard.ZstdCompressor(level=1)
    for plane, plane_levels in zip(digits, _plane_levels(digits, levels), strict=True):
        candidates = [forward(plane, plane_levels).tobytes() for forward, _ in _FILTERS]
        sizes = [len(probe.compress(candidate)) for candidate in candidates]
        best = sizes.index(min(sizes))
        choices.append(best)
        filtered.append(candidates[best])
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True, write_content_size=True)
    stream = compressor.compressobj(size=digits.size)
    parts = [bytes(choices)]
    for data in filtered:
        parts += [stream.compress(data), stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)]
    return b"".join([*parts, stream.flush()])


def unpack(data: bytes, shape: tuple[int, int, int, int], levels: Sequence[int]) -> Digits:
    """The digits `P t h w` of `shape` that `pack` was given.

    Raises:
        ValueError: the data do not hold exactly that.
    """
    planes = shape[0]
    size = int(np.prod(shape, dtype=np.int64))
    choices, frame = data[:planes], data[planes:]
    if len(choices) < planes or max(choices) >= len(_FILTERS):
        raise ValueError("a filter number is missing or unknown")
    raw = _decompress(frame, size)
    digits = np.frombuffer(raw, np.uint8).reshape(shape).copy()
    for plane, choice, plane_levels in zip(digits, choices, _plane_levels(digits, levels), strict=True):
        if plane.size and int(plane.max()) >= plane_levels:
            raise ValueError(f"a digit is not below {plane_levels}")
        plane[:] = _FILTERS[choice][1](plane, plane_levels)
    return digits


def _decompress(frame: bytes, size: int) -> bytes:
    """One zstd frame of exactly `size` bytes. The size that the frame itself declares is checked before any work."""
    try:
        declared = zstandard.get_frame_parameters(frame).content_size
        if declared != size:
            raise ValueError(f"the zstd frame declares {declared} bytes where {size} belong")
        return zstandard.ZstdDecompressor().decompress(frame, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(f"zstd: {error}") from error


def _plane_levels(digits: Digits, levels: Sequence[int]) -> list[int]:
    return list(levels) * (digits.shape[0] // len(levels))
