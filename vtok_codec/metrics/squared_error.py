"""The squared error between two videos, frame by frame, and their PSNR."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_PEAK = 255
"""The largest value of a channel."""


class SquaredError:
    """Accumulates the squared error of frames, one by one."""

    def __init__(self) -> None:
        self._sum = 0
        self._count = 0

    def add(self, a: NDArray[np.uint8], b: NDArray[np.uint8]) -> None:
        """Add the error between two frames `H W 3` of the same size."""
        difference = a.astype(np.int32) - b
        self._sum += int(np.einsum("hwc,hwc->", difference, difference, dtype=np.int64))
        self._count += difference.size

    @property
    def psnr_db(self) -> float:
        """PSNR in dB for a peak of 255; infinite if all frames are equal.

        Raises:
            ValueError: No frame was added.
        """
        if not self._count:
            raise ValueError("no frame was compared")
        return 10 * math.log10(_PEAK**2 * self._count / self._sum) if self._sum else math.inf
