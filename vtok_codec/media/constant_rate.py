"""Keeps frames at their times where a container shows them at a constant rate."""

from __future__ import annotations

import math
from fractions import Fraction

from vtok_codec.text import counted

_MAX_PAUSE_S = 600
"""The longest time in seconds for which a frame is repeated; a file may say that it lasts for years."""


class ConstantRate:
    """Keeps frames at their times in a container without timestamps, which shows them at a constant rate.

    Args:
        rate: The frames per second of the container.
        time_base: The unit of the times of frames, in seconds.
    """

    def __init__(self, rate: Fraction, time_base: Fraction) -> None:
        self._rate, self._time_base = rate, time_base
        self._first_pts: int | None = None
        self._cut = Fraction(0)
        """Seconds by which pauses were cut short."""
        self._repeated = self._left_out = 0

    def missing(self, pts: int, frames: int) -> int:
        """Return how often the last frame must be repeated before a frame of a time, after so many frames."""
        late = self._late(pts, frames)
        most = math.floor(_MAX_PAUSE_S * self._rate)
        count = max(0, math.ceil(late - Fraction(1, 2)))
        if count > most:
            self._cut += (count - most) / self._rate
        self._repeated += min(count, most)
        return min(count, most)

    def takes(self, pts: int, frames: int) -> bool:
        """Return whether there is room for a frame of a time, after so many frames."""
        fits = self._late(pts, frames) > -1
        self._left_out += not fits
        return fits

    def _late(self, pts: int, frames: int) -> Fraction:
        """Return how many frame intervals after its place among the frames a time lies."""
        if self._first_pts is None:
            self._first_pts = pts
        return ((pts - self._first_pts) * self._time_base - self._cut) * self._rate - frames

    @property
    def words(self) -> str:
        """What became of frames; empty if nothing did."""
        parts = [f"{counted(self._repeated, 'frame')} repeated"] * bool(self._repeated)
        parts += [f"{self._left_out} left out"] * bool(self._left_out)
        parts += [f"pauses cut by {float(self._cut):.1f} s"] * bool(self._cut)
        return f"{', '.join(parts)} for a constant rate of {float(self._rate):.6g} frames/s" if parts else ""
