"""Times that go on growing where a file was joined of several: FFmpeg's demuxers hand on each part's own."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

_JUMP_S = 1
"""A stream whose decoding times step back by more, seconds, starts anew. Less is a muxer's lack of care."""


class Timeline:
    """Shifts packets behind a jump back, so that the stream that jumped first goes on without a gap.

    The others follow it by as much when they jump themselves: packets of the part before may still come in between.
    """

    def __init__(self) -> None:
        self.joins = 0
        """Jumps so far, of the stream that jumped first."""
        self._offset_s = Fraction(0)
        """Of what follows the last jump."""
        self._shifts: dict[int, int] = {}
        """The shift of each stream, in its ticks."""
        self._ends: dict[int, int] = {}
        """Where the last packet of each stream ends, in its ticks, shifted."""

    def place(self, packet: Any) -> bool:
        """Shift the times of the next packet of the file, a PyAV packet. Whether its stream jumped back with it."""
        time = packet.dts if packet.dts is not None else packet.pts
        if time is None:
            return False
        stream, base = packet.stream_index, packet.time_base
        latest = round(self._offset_s / base)
        shift = self._shifts.setdefault(stream, latest)
        end = self._ends.get(stream, time + shift)
        jumped = (end - time - shift) * base > _JUMP_S
        if jumped:
            if (end - time - latest) * base > _JUMP_S:
                self.joins += 1
                latest = end - time
                self._offset_s = latest * base
            shift = self._shifts[stream] = latest
        if shift:
            packet.pts = None if packet.pts is None else packet.pts + shift
            packet.dts = None if packet.dts is None else packet.dts + shift
        self._ends[stream] = time + shift + (packet.duration or 0)
        return jumped
