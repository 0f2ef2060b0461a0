"""Keeps times continuous in a file that was joined from several parts.

FFmpeg's demuxers return the times of each part as they are, so that they jump back or ahead where a part begins.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

_JUMP_S = 1
"""The step back of decoding times, in seconds, above which it counts as a jump and not as a muxer's mistake."""
_AHEAD_S = 10
"""The step ahead, in seconds, above which it counts as a jump in a format whose clock may jump, as FFmpeg has it."""


class Timeline:
    """Shifts the times of packets after a jump.

    The stream that jumps first continues without a gap, which determines the shift. Each other stream takes over the
    same shift when it jumps itself, because packets of the previous part may still come in between.
    """

    def __init__(self, jumps_ahead: bool = False, begin_s: Fraction = Fraction(0)) -> None:
        """Start a timeline.

        Args:
            jumps_ahead: Whether a long gap is a jump of the clock in this format.
            begin_s: The time in seconds, at least 0, at which the file begins, and which becomes 0.
        """
        self._jumps_ahead = jumps_ahead
        self.joins = 0
        """The number of jumps so far. A jump that several streams make counts once."""
        self._offset_s = -begin_s
        """The shift of packets after the last jump, in seconds."""
        self._shifts: dict[int, int] = {}
        """The current shift of each stream, in ticks of its time base."""
        self._ends: dict[int, int] = {}
        """The shifted end time of the last packet of each stream, in ticks of its time base."""

    def place(self, packet: Any) -> bool:
        """Shift the times of the next packet of the file in place.

        Args:
            packet: The PyAV packet.

        Returns:
            Whether the times of the packet's stream jump at this packet.
        """
        time = packet.dts if packet.dts is not None else packet.pts
        if time is None:
            return False
        stream, base = packet.stream_index, packet.time_base
        latest = round(self._offset_s / base)
        shift = self._shifts.setdefault(stream, latest)
        end = self._ends.get(stream, time + shift)
        jumped = self._jumps((end - time - shift) * base)
        if jumped:
            if self._jumps((end - time - latest) * base):
                self.joins += 1
                latest = end - time
                self._offset_s = latest * base
            shift = self._shifts[stream] = latest
        if shift:
            packet.pts = None if packet.pts is None else packet.pts + shift
            packet.dts = None if packet.dts is None else packet.dts + shift
        self._ends[stream] = time + shift + (packet.duration or 0)
        return jumped

    def _jumps(self, back_s: Fraction) -> bool:
        """Whether a step back by so many seconds, negative for one ahead, is a jump."""
        return back_s > _JUMP_S or (self._jumps_ahead and back_s < -_AHEAD_S)
