"""Between digits and tokens: a token is a number in a mixed radix whose digits are the FSQ levels of a position.

Digits are uint8 `P t h w`, planes P = tokens · digits-a-token, token by token. Tokens are uint16 `t h w n`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Digits: TypeAlias = NDArray[np.uint8]
Tokens: TypeAlias = NDArray[np.uint16]

MAX_CODES = 1 << 16


def digits_to_tokens(digits: Digits, levels: Sequence[int]) -> Tokens:
    """Digits `P t h w` → tokens `t h w n`; the first digit of a token counts ones (as in FSQ's reference code)."""
    planes, t, h, w = digits.shape
    grouped = digits.reshape(planes // len(levels), len(levels), t, h, w)
    tokens = np.zeros((t, h, w, planes // len(levels)), np.uint16)
    # Place by place, so that no wider copy of all digits is made.
    for place, weight in enumerate(_weights(levels)):
        tokens += (grouped[:, place] * weight).transpose(1, 2, 3, 0)
    return tokens


def tokens_to_digits(tokens: Tokens, levels: Sequence[int]) -> Digits:
    """Tokens `t h w n` → digits `P t h w`: the inverse of `digits_to_tokens`.

    Raises:
        ValueError: tokens are no integers, or one is negative or not below the product of the levels.
    """
    check_range(tokens, math.prod(levels))
    t, h, w, n = tokens.shape
    rest = tokens.astype(np.uint16).transpose(3, 0, 1, 2)
    digits = np.empty((n, len(levels), t, h, w), np.uint8)
    for place, (weight, level) in enumerate(zip(_weights(levels), levels, strict=True)):
        digits[:, place] = rest // weight % np.uint16(level)
    return digits.reshape(n * len(levels), t, h, w)


def check_range(tokens: NDArray[np.integer], codes: int) -> None:
    """Raises:
    ValueError: tokens are no integers, or one is negative or not below the number of codes.
    """
    if not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(f"tokens must be integers, not {tokens.dtype}")
    for extreme in (int(tokens.min()), int(tokens.max())) if tokens.size else ():
        if not 0 <= extreme < codes:
            raise ValueError(f"token {extreme} is not below {codes}, the number of codes, or is negative")


def _weights(levels: Sequence[int]) -> NDArray[np.uint16]:
    """What a digit at each place counts."""
    if math.prod(levels) > MAX_CODES:
        raise ValueError(f"levels {tuple(levels)} make more than {MAX_CODES} codes")
    return np.cumprod([1, *levels[:-1]]).astype(np.uint16)
