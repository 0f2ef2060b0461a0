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
    basis = _basis(levels).reshape(1, -1, 1, 1, 1)
    grouped = digits.reshape(planes // len(levels), len(levels), t, h, w).astype(np.uint32)
    return np.ascontiguousarray((grouped * basis).sum(axis=1).transpose(1, 2, 3, 0).astype(np.uint16))


def tokens_to_digits(tokens: Tokens, levels: Sequence[int]) -> Digits:
    """Tokens `t h w n` → digits `P t h w`: the inverse of `digits_to_tokens`.

    Raises:
        ValueError: a token is not below the product of the levels.
    """
    if tokens.size and int(tokens.max()) >= math.prod(levels):
        raise ValueError(f"token {int(tokens.max())} is not below {math.prod(levels)}, the number of codes")
    t, h, w, n = tokens.shape
    basis = _basis(levels).reshape(1, -1, 1, 1, 1)
    radix = np.asarray(levels, np.uint32).reshape(1, -1, 1, 1, 1)
    planes = tokens.astype(np.uint32).transpose(3, 0, 1, 2)[:, None] // basis % radix
    return planes.astype(np.uint8).reshape(n * len(levels), t, h, w)


def _basis(levels: Sequence[int]) -> NDArray[np.uint32]:
    if math.prod(levels) > MAX_CODES:
        raise ValueError(f"levels {tuple(levels)} make more than {MAX_CODES} codes")
    return np.cumprod([1, *levels[:-1]]).astype(np.uint32)
