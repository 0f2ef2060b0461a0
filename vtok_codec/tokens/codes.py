"""Convert between digits and codes: the numbers in [−1, 1] that a decoder reads, and that continuous latents are.

A digit with L values has the code (digit − ⌊L/2⌋) / ⌊L/2⌋. Planes are sorted as in `vtok_codec.tokens.radix`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vtok_codec.tokens.radix import Digits

Codes: TypeAlias = NDArray[np.float32]
"""Codes, usually of shape `P t h w`."""


def values_to_codes(values: NDArray[Any], levels: Sequence[int]) -> Codes:
    """Convert digits, or values before rounding, to codes.

    Args:
        values: The values, `P t h w`.
        levels: The number of values of each digit of a token.
    """
    return (values / _zero(len(values), levels) - 1).astype(np.float32)


def codes_to_values(codes: NDArray[np.floating], levels: Sequence[int]) -> NDArray[np.floating]:
    """Convert codes to the values that round to digits: the inverse of `values_to_codes`."""
    scaled: NDArray[np.floating] = (codes + 1) * _zero(len(codes), levels)
    return scaled


def nearest_digits(values: NDArray[np.floating], levels: Sequence[int]) -> Digits:
    """Round values to digits, uint8 `P t h w`.

    Args:
        values: The values, `P t h w`.
        levels: The number of values of each digit of a token.
    """
    largest = (_by_plane(len(values), levels) - 1).astype(values.dtype)
    return np.clip(np.rint(values), 0, largest).astype(np.uint8)


def _zero(planes: int, levels: Sequence[int]) -> NDArray[np.int64]:
    """Return the digit whose code is 0 for each plane, `P 1 1 1`."""
    return _by_plane(planes, levels) // 2


def _by_plane(planes: int, levels: Sequence[int]) -> NDArray[np.int64]:
    """Return the number of values of the digits of each plane, `P 1 1 1`."""
    return np.resize(np.asarray(levels, np.int64), planes).reshape(-1, 1, 1, 1)
