"""Convert between digits and tokens. A token is a number in a mixed radix whose digits are FSQ values of a position.

Digits are uint8 `P t h w`, where P is the number of tokens per position times the number of digits per token; the
planes are sorted by token, then by digit. Tokens are uint16 `t h w n`, where n is the number of tokens per position.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Digits: TypeAlias = NDArray[np.uint8]
"""Digits, usually of shape `P t h w`. Each is below its number of levels."""
Values: TypeAlias = NDArray[np.float32]
"""Digits before rounding, usually of shape `P t h w`."""
Tokens: TypeAlias = NDArray[np.uint16]
"""Tokens, usually of shape `t h w n`. Each is below the product of the levels."""

MAX_CODES = 1 << 16
"""The largest number of values of a token, so that a token fits 16 bits."""


def digits_to_tokens(digits: Digits, levels: Sequence[int]) -> Tokens:
    """Combine digits into tokens. The first digit of a token is the least significant, as in FSQ's reference code.

    Args:
        digits: The digits, uint8 `P t h w`.
        levels: The number of values of each digit of a token.

    Returns:
        The tokens, uint16 `t h w n`.

    Raises:
        ValueError: The product of the levels is above `MAX_CODES`.
    """
    planes, t, h, w = digits.shape
    grouped = digits.reshape(planes // len(levels), len(levels), t, h, w)
    tokens = np.zeros((t, h, w, planes // len(levels)), np.uint16)
    # One place at a time, so that the digits are never all widened to 16 bits at once.
    for place, weight in enumerate(_weights(levels)):
        # NumPy 1 would keep the product in 8 bits.
        tokens += np.multiply(grouped[:, place], weight, dtype=np.uint16).transpose(1, 2, 3, 0)
    return tokens


def tokens_to_digits(tokens: Tokens, levels: Sequence[int]) -> Digits:
    """Split tokens into digits: the inverse of `digits_to_tokens`.

    Args:
        tokens: The tokens, integers `t h w n`.
        levels: The number of values of each digit of a token.

    Returns:
        The digits, uint8 `P t h w`.

    Raises:
        ValueError: The tokens are not integers, a token is negative or not below the product of the levels, or that
            product is above `MAX_CODES`.
    """
    check_range(tokens, math.prod(levels))
    t, h, w, n = tokens.shape
    rest = tokens.astype(np.uint16).transpose(3, 0, 1, 2)
    digits = np.empty((n, len(levels), t, h, w), np.uint8)
    for place, (weight, level) in enumerate(zip(_weights(levels), levels, strict=True)):
        digits[:, place] = rest // weight % np.uint16(level)
    return digits.reshape(n * len(levels), t, h, w)


def check_range(tokens: NDArray[np.integer], codes: int) -> None:
    """Check that tokens are integers from 0 to `codes` − 1.

    Args:
        tokens: The tokens, of any shape.
        codes: The number of values of a token.

    Raises:
        ValueError: The tokens are not integers, or a token is negative or not below `codes`.
    """
    if not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(f"tokens must be integers, not {tokens.dtype}")
    for extreme in (int(tokens.min()), int(tokens.max())) if tokens.size else ():
        if not 0 <= extreme < codes:
            raise ValueError(f"token {extreme} is not below {codes}, the number of codes, or is negative")


def _weights(levels: Sequence[int]) -> NDArray[np.uint16]:
    """Return the weight of the digit at each place of a token: the product of the levels before it."""
    if math.prod(levels) > MAX_CODES:
        raise ValueError(f"levels {tuple(levels)} make more than {MAX_CODES} codes")
    return np.cumprod([1, *levels[:-1]]).astype(np.uint16)
