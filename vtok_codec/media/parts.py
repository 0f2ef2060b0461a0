"""Reads a part of a video: the frames and audio packets from one time to another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import Any, TypeAlias

import av
from av.container import InputContainer

from vtok_codec.audio import AudioPacket
from vtok_codec.errors import SettingError

_MOST_HELD_BYTES = 1 << 26
"""The most bytes of packets that may wait for the start to come."""

_SEEKABLE = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
"""FFmpeg's names of the formats whose index leads to the key frame before a time, and whose times never start anew."""
_MOST_LATE_S = 10
"""How far the frames may be past the end of a part, in seconds, before a track that has not reached it counts as over.
FFmpeg's muxers let the streams of a file drift no further apart."""
_EARLIER_S = 2
"""How long before the start of a part reading begins, in seconds: sound may lie that much before its picture."""

Placed: TypeAlias = "tuple[Any, bool]"
"""A packet of PyAV, and whether the times of its stream jump there."""


@dataclass(frozen=True)
class Part:
    """A part of a video, in seconds from its beginning."""

    start_s: Fraction = Fraction(0)
    """Where it starts."""
    duration_s: Fraction | None = None
    """How long it is; None for all that follows."""

    @property
    def end_s(self) -> Fraction | None:
        """Where it ends; None for the end of the video."""
        return None if self.duration_s is None else self.start_s + self.duration_s


def make_part(start: float, duration: float | None) -> Part | None:
    """Return the part that starts after `start` seconds and lasts `duration` seconds; None for the whole video.

    Raises:
        SettingError: A time is negative or not finite, or the duration is 0.
    """
    if not (math.isfinite(start) and start >= 0):
        raise SettingError(f"start {start:g}: give seconds of at least 0")
    if duration is not None and not (math.isfinite(duration) and duration > 0):
        raise SettingError(f"duration {duration:g}: give seconds above 0")
    if not start and duration is None:
        return None
    # Tenths of a second and times of frames are no binary fractions.
    as_ratio = [None if each is None else Fraction(each).limit_denominator(1_000_000) for each in (start, duration)]
    return Part(as_ratio[0] or Fraction(0), as_ratio[1])


def packets_before(
    container: InputContainer, streams: Sequence[Any], video: int, start_s: Fraction
) -> Iterator[av.Packet[Any]]:
    """Yield the packets of a file from a key frame before a time on, or all of them where none can be found.

    Args:
        container: The file, of which nothing has been read yet.
        streams: The streams to read.
        video: The index of the video stream.
        start_s: The time in seconds, on the clock of the file.
    """
    begin_us = container.start_time or 0
    target_us = round((start_s - _EARLIER_S) * av.time_base)
    # The size of a pipe is negative.
    if container.format.name in _SEEKABLE and container.size > 0 and target_us > begin_us:
        container.seek(target_us)
        packets = container.demux(*streams)
        head = list(_to_first_picture(packets, video))
        if head and head[-1].is_keyframe and head[-1].pts is not None and head[-1].pts * head[-1].time_base <= start_s:
            yield from chain(head, packets)
            return
        container.seek(begin_us)
    yield from container.demux(*streams)


def _to_first_picture(packets: Iterator[av.Packet[Any]], video: int) -> Iterator[av.Packet[Any]]:
    """Yield packets up to the first one of the video stream."""
    for packet in packets:
        yield packet
        if packet.stream_index == video:
            return


def from_key_frame(packets: Iterator[Placed], video: int, start_s: Fraction) -> Iterator[Placed]:
    """Leave out the video packets that are not needed to decode the frames from a time on.

    Video packets are held back until the start has come, and dropped when a key frame comes that is not after it.
    Other packets pass at once.

    Args:
        packets: The packets, in the order of the file.
        video: The index of the video stream.
        start_s: The time in seconds, on the clock of the packets.
    """
    held: list[Placed] = []
    size = 0
    begun = False
    for packet, jumps in packets:
        if begun or packet.stream_index != video:
            yield packet, jumps
            continue
        time = packet.pts if packet.pts is not None else packet.dts
        early = time is not None and time * packet.time_base <= start_s
        if packet.is_keyframe and early:
            held, size = [], 0
        held.append((packet, jumps))
        size += packet.size or 0
        decodes = packet.dts if packet.dts is not None else packet.pts
        begun = decodes is None or decodes * packet.time_base > start_s or size > _MOST_HELD_BYTES
        if begun:
            yield from held
            held = []
    yield from held


class Cutter:
    """Keeps the frames and audio packets of a part, with times that count from its start.

    Args:
        part: The part.
        begin_s: The time at which the video begins, on the clock of its frames.
        rate: Frames per second, for frames that have no time.
        tracks: The time base of each audio track.
    """

    def __init__(self, part: Part, begin_s: Fraction, rate: Fraction, tracks: Sequence[Fraction]) -> None:
        self._start = begin_s + part.start_s
        self._end = None if part.end_s is None else begin_s + part.end_s
        self._shift = part.start_s
        self._interval = 1 / rate
        self._tracks = tracks
        self._time = begin_s - self._interval
        self._frames_over = False
        self._tracks_over: set[int] = set()

    def kept(self, items: Iterator[av.VideoFrame | AudioPacket]) -> Iterator[av.VideoFrame | AudioPacket]:
        """Yield the items of the part.

        Reading ends when the frames and all tracks are past its end, or the frames far enough that no more sound of
        the part can come.
        """
        for item in items:
            if isinstance(item, AudioPacket):
                yield from self._packet(item)
            else:
                yield from self._frame(item)
            if self._frames_over and (len(self._tracks_over) == len(self._tracks) or self._is_far_past()):
                return

    def _frame(self, frame: av.VideoFrame) -> Iterator[av.VideoFrame]:
        self._time += self._interval
        if frame.pts is not None and frame.time_base:
            self._time = Fraction(frame.pts * frame.time_base)
        self._frames_over = self._is_over(self._time)
        if self._time >= self._start and not self._frames_over:
            if frame.pts is not None and frame.time_base:
                frame.pts -= round(self._shift / frame.time_base)
            yield frame

    def _packet(self, packet: AudioPacket) -> Iterator[AudioPacket]:
        base = self._tracks[packet.track]
        time = packet.pts if packet.pts is not None else packet.dts
        if time is None:
            return
        if self._is_over(time * base):
            self._tracks_over.add(packet.track)
        elif time * base >= self._start:
            ticks = round(self._shift / base)
            pts, dts = (None if each is None else each - ticks for each in (packet.pts, packet.dts))
            yield AudioPacket(packet.track, pts, dts, packet.duration, packet.data)

    def _is_far_past(self) -> bool:
        return self._end is not None and self._time > self._end + _MOST_LATE_S

    def _is_over(self, time: Fraction) -> bool:
        return self._end is not None and time >= self._end
