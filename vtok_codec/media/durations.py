"""Gives packets the durations of their frames, which encoders replace by the nominal one."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av

_TIMED_BY_DECODING = ("mp4", "mov")
"""The formats in which a packet lasts until the next one is decoded, and the last one until the video ends."""


class FrameDurations:
    """The durations of the frames that are being encoded.

    Args:
        format_: FFmpeg's name of the container.
        tick_s: The unit of the encoder's times, in seconds.
    """

    def __init__(self, format_: str, tick_s: Fraction) -> None:
        self._timed_by_decoding = format_ in _TIMED_BY_DECODING
        self._tick_s = tick_s
        self._known: dict[int, Fraction] = {}
        """For the frames in the encoder, by their times in ticks, the durations in seconds."""
        self._begin_s: Fraction | None = None
        self._end_s: Fraction | None = None
        """When the last frame ends; None while its duration is not known."""
        self._first_dts: int | None = None

    def note(self, start_s: Fraction, lasts_s: Fraction) -> None:
        """Note the next frame.

        Args:
            start_s: Its time in seconds.
            lasts_s: Its duration in seconds; 0 if it is not known.
        """
        self._begin_s = start_s if self._begin_s is None else self._begin_s
        self._end_s = start_s + lasts_s if lasts_s else None
        if lasts_s:
            self._known[round(start_s / self._tick_s)] = lasts_s

    def restore(self, packets: Sequence[av.Packet[Any]], ending: bool = False) -> None:
        """Set the durations of packets that the encoder gave.

        Args:
            packets: The packets, in the order of decoding.
            ending: Whether no other packets follow.
        """
        for packet in packets:
            if packet.pts is None or not packet.time_base:
                continue
            self._first_dts = packet.dts if self._first_dts is None else self._first_dts
            lasts_s = self._known.pop(round(packet.pts * packet.time_base / self._tick_s), None)
            if ending and packet is packets[-1] and self._timed_by_decoding:
                # The last packet to be decoded need not be that of the last frame.
                lasts_s = self._rest_s(packet)
            if lasts_s and lasts_s > 0:
                packet.duration = round(lasts_s / packet.time_base)

    def _rest_s(self, packet: av.Packet[Any]) -> Fraction | None:
        """Return the time from the decoding of a packet to the end of the video, in seconds."""
        if self._begin_s is None or self._end_s is None or self._first_dts is None or packet.dts is None:
            return None
        return self._end_s - self._begin_s - (packet.dts - self._first_dts) * packet.time_base
