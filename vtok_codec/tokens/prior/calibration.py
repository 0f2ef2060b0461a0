"""Adapts a prior's shares to the GOP at hand: in each context, by how often each value came and how often it should."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vtok_codec.tokens.prior.layers import Whole
from vtok_codec.tokens.prior.network import MAX_LEVELS
from vtok_codec.tokens.radix import Digits
from vtok_codec.tokens.range_coder import PRECISION

ONE = 1 << 16
"""The whole number that stands for a probability of 1."""
_TRUST = 16.0
"""How many digits of a context count as much as what the prior says before any was seen."""
_FULL = 1024.0
"""The largest number of digits that a context remembers. Beyond it both sums are halved, which favours recent ones."""
_LARGEST_DROP = 192
"""The largest difference of logits that counts. Values that are less likely have the weight of this one."""

Shares = NDArray[np.float64]
"""Probabilities as whole numbers, of which `ONE` stands for 1, in float64: products and quotients of such numbers that
are rounded down are exact below 2⁵³."""


_TABLE = """
32768 30783 28918 27166 25520 23974 22521 21157 19875 18671 17539 16477 15479 14541 13660 12832 12055 11324
10638 9994 9388 8819 8285 7783 7312 6869 6452 6061 5694 5349 5025 4721 4435 4166 3914 3676 3454 3244 3048 2863
2690 2527 2374 2230 2095 1968 1849 1737 1631 1533 1440 1352 1271 1194 1121 1053 990 930 873 820 771 724 680 639
600 564 530 498 467 439 412 387 364 342 321 302 283 266 250 235 221 207 195 183 172 162 152 143 134 126 118 111
104 98 92 86 81 76 72 67 63 59 56 52 49 46 43 41 38 36 34 32 30 28 26 25 23 22 21 19 18 17 16 15 14 13 12 12 11
10 10 9 9 8 8 7 7 6 6 6 5 5 5 4 4 4 4 3 3 3 3 3 2 2 2 2 2 2 2 2 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1
1 1 1 1 1 1 1 1 1
"""
_EXPONENTIALS = np.array(_TABLE.split(), np.float64)
"""round(2¹⁵·e^(−i/16)) for i from 0 to 192, but at least 1: weights of values by how far their logits lie below the
largest, in sixteenths of a nat. They are written out, since no two math libraries need agree on exponentials."""


def shares_of(logits: Whole) -> Shares:
    """Return the shares of the values of digits, `n L`.

    Args:
        logits: The logits of the L values in sixteenths of a nat, `n L`.
    """
    drop = logits.max(axis=1, keepdims=True) - logits
    shares = _EXPONENTIALS.take(np.minimum(drop, _LARGEST_DROP, out=drop).astype(np.intp))
    totals = shares.sum(axis=1, keepdims=True)
    shares *= ONE
    shares /= totals
    return np.floor(shares, out=shares)


class Calibration:
    """Corrects the shares of the digits of one plane in the contexts of one GOP.

    The context of a digit is the digit at its position one latent frame earlier.
    """

    def __init__(self, levels: int) -> None:
        """Start a GOP, for digits with `levels` levels."""
        contexts = np.arange(levels + 1)
        self._contexts, self._values = contexts, contexts[:levels]
        self._came = np.zeros((levels + 1, levels))
        """How often each value came in each context, times `ONE`. The last context is that of no frame before."""
        self._foretold = np.zeros((levels + 1, levels))
        """The sum of the shares that the prior gave it."""

    def corrected(self, before: Digits | None, shares: Shares) -> Shares:
        """Return the corrected shares, `n L`.

        Args:
            before: The digits at the same positions one latent frame earlier, `n`; None if there is none.
            shares: The shares by the prior, `n L`.
        """
        trust = _TRUST * ONE
        ratios = (self._came + trust, self._foretold + trust)
        above, below = (table[-1:] if before is None else table.take(before, axis=0) for table in ratios)
        corrected = shares * above
        corrected /= below
        return np.floor(corrected, out=corrected)

    def learn(self, before: Digits | None, shares: Shares, values: NDArray[np.int32]) -> None:
        """Count the values of digits, and what the prior said about them; see `corrected`."""
        came = (values[:, None] == self._values).astype(np.float64)
        if before is None:
            self._came[-1] += ONE * came.sum(axis=0)
            self._foretold[-1] += shares.sum(axis=0)
        else:
            seen = (self._contexts[:, None] == before).astype(np.float64)
            self._came += ONE * (seen @ came)
            self._foretold += seen @ shares
        full = self._came.sum(axis=1) > _FULL * ONE
        if full.any():
            self._came[full] = np.floor(self._came[full] / 2)
            self._foretold[full] = np.floor(self._foretold[full] / 2)


def frequencies_of(shares: Shares) -> Shares:
    """Return the frequencies, less 1, that the range coder takes: whole numbers whose sum is `PRECISION` − L.

    Args:
        shares: Shares of any sum, `n L`.
    """
    made = shares * (PRECISION - MAX_LEVELS)
    made /= shares.sum(axis=1, keepdims=True)
    np.floor(made, out=made)
    rest = PRECISION - made.shape[1] - made.sum(axis=1)
    made[np.arange(len(made)), made.argmax(axis=1)] += rest
    return made
