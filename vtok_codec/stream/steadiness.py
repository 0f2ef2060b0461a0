"""Whether the frames of a file follow each other at its nominal rate."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


class Steadiness:
    """Compares the times of frames with the nominal duration. Whole ticks round times, which is no unevenness.

    Args:
        frame_ticks: The nominal duration of a frame in ticks.
    """

    def __init__(self, frame_ticks: int) -> None:
        self._frame_ticks = frame_ticks
        self._last: int | None = None
        self.steady = True
        """Whether all frames so far, or since it was set to True, have the nominal duration up to a tick."""

    def add(self, pts: Sequence[int]) -> None:
        """Add the times of the next frames, in ticks."""
        times = pts if self._last is None else (self._last, *pts)
        self.steady = self.steady and all(
            abs(after - before - self._frame_ticks) <= 1 for before, after in pairwise(times)
        )
        self._last = pts[-1]
