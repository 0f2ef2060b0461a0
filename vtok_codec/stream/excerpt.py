"""The part of a file that is decoded: where reading starts, and which chunks, frames and audio packets lie in it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction

from vtok_codec.audio import AudioPacket
from vtok_codec.container.reader import VtkReader
from vtok_codec.container.records import GopEntry
from vtok_codec.errors import DamageError, SettingError
from vtok_codec.media.types import Frame
from vtok_codec.stream.reading import gop_at
from vtok_codec.stream.unpacking import (
    Damage,
    PriorFinder,
    UnpackedChunk,
    UnpackedEvent,
    salvaged_events,
    unpacked_events,
)

_MAX_WAITING_PACKETS, _MAX_WAITING_BYTES = 1 << 16, 1 << 24
"""The most audio packets that wait for the first chunk, and their most bytes.

If there are more, the oldest are dropped. They lie before the first frame, and so before the excerpt.
"""
_AUDIO_OFFSET_S = 1.0
"""By how many seconds the audio in a file may lie before or after the frames of the same time."""


class _Waiting:
    """Holds audio packets until the first chunk is read. If there are too many, it keeps only the newest."""

    def __init__(self) -> None:
        self._packets: deque[AudioPacket] = deque()
        self._bytes = 0

    def put(self, packets: Iterable[AudioPacket]) -> None:
        """Add packets."""
        for packet in packets:
            self._packets.append(packet)
            self._bytes += len(packet.data)
            while self._bytes > _MAX_WAITING_BYTES or len(self._packets) > _MAX_WAITING_PACKETS:
                self._bytes -= len(self._packets.popleft().data)

    def taken(self) -> list[AudioPacket]:
        """Return all packets and forget them."""
        packets = list(self._packets)
        self._packets.clear()
        self._bytes = 0
        return packets


class Excerpt:
    """The part of a file that is decoded.

    An excerpt that is not the whole file shifts the times of its frames and audio packets, so that they count from its
    start.

    Args:
        reader: The file. If it has an index, the excerpt moves it to the GOP in which the excerpt starts.
        start_s: The start of the excerpt, in seconds after the first frame of the file.
        duration_s: The length of the excerpt in seconds; None for the rest of the file.
        recover: Whether to go on after damage.
        priors: Finds the prior that the file names.

    Raises:
        SettingError: The start or the duration is out of range.
    """

    def __init__(
        self,
        reader: VtkReader,
        start_s: float,
        duration_s: float | None,
        recover: bool,
        priors: PriorFinder,
    ) -> None:
        if not 0 <= start_s < math.inf or (duration_s is not None and not 0 < duration_s < math.inf):
            raise SettingError("the start must not be negative, and the duration must be above 0")
        self._reader = reader
        self._recover = recover
        self._priors = priors
        self._base = reader.header.time_base
        self._audio_bases = [track.time_base for track in reader.header.audio]
        self._cut = bool(start_s) or duration_s is not None
        self._first_gop = 0
        self._start_s, self._duration_s = start_s, duration_s
        # Times in ticks, known once the time of the first frame is. The whole file keeps its own times, and no end.
        self._start = 0
        self._origin = 0
        self._end: int | None = None
        self._placed = False
        self._last_chunk_pts: int | None = None
        self._last_gop = -1
        self._first_entry: GopEntry | None = None
        self.knows_origin = False
        """Whether the index tells the time of the first frame of the file, which may be lost."""
        if start_s or recover:
            self._enter()

    def _enter(self) -> None:
        """Move the reader to the GOP in which the excerpt starts, if the file has an index."""
        if not self._reader.seekable:
            return
        try:
            entries = self._reader.index()
        except DamageError:
            return
        self._place(entries[0].pts)
        self.knows_origin = True
        if not self._start_s:
            return
        self._first_gop = gop_at(entries, self._start)
        gop = self._first_gop
        self._first_entry = entries[gop]
        if self._audio_bases:
            # Audio packets may lie a little before the frames of the same time.
            gop = min(max(0, gop - 1), gop_at(entries, self._start - self._ticks(_AUDIO_OFFSET_S)))
        # The sound of the first frames stands before the first GOP, where the reader already is.
        if gop:
            self._reader.seek(gop, entries[gop])

    def _place(self, first_pts: int) -> None:
        """Fix the excerpt in ticks, now that the time of the first frame is known."""
        self._placed = True
        self._origin = first_pts
        if self._cut:
            self._start = first_pts + self._ticks(self._start_s)
            if self._duration_s is not None:
                self._end = first_pts + self._ticks(Fraction(self._start_s) + Fraction(self._duration_s))

    def events(self) -> Iterator[UnpackedChunk | list[AudioPacket] | Damage]:
        """Yield unpacked chunks, audio packets and damage up to the end of the excerpt.

        Raises:
            DamageError: The file is damaged within the excerpt, and the excerpt does not recover.
            FormatError: A record has an unknown type that may not be skipped, or the coder is unknown.
        """
        try:
            yield from self._events()
        except DamageError:
            if self._last_chunk_pts is None or not self._is_past(self._last_chunk_pts):
                raise

    def _events(self) -> Iterator[UnpackedChunk | list[AudioPacket] | Damage]:
        late = self._ticks(_AUDIO_OFFSET_S) if self._audio_bases else 0
        # Audio that comes before the first chunk waits until the first chunk tells at what time the file starts.
        waiting = _Waiting()
        damaged = False
        early: Damage | None = None
        for event in self._records():
            if isinstance(event, Damage):
                if self._last_chunk_pts is not None and self._is_past(self._last_chunk_pts):
                    return
                if self._first_entry and self._last_gop < self._first_gop:
                    # Damage before the excerpt matters only if it reaches into the excerpt.
                    early = event if early is None else early.joined(event)
                else:
                    damaged = True
                    yield event
            elif isinstance(event, UnpackedChunk):
                chunk = event.chunk
                if not self._placed:
                    self._place(chunk.pts[0])
                self._last_chunk_pts, self._last_gop = chunk.pts[-1], chunk.gop
                if packets := waiting.taken():
                    yield packets
                if early and chunk.gop > self._first_gop:
                    damaged = True
                    yield early
                early = None
                # The first chunk after damage tells how long the gap is, so it is needed even after the excerpt.
                if chunk.gop >= self._first_gop and (damaged or not self._is_past(chunk.pts[0])):
                    yield event
                    damaged = False
                if self._is_past(chunk.pts[0] - late):
                    return
            elif isinstance(event, list):
                if self._placed or not self._cut:
                    yield event
                else:
                    waiting.put(event)
        if early:
            yield early

    def _records(self) -> Iterator[UnpackedEvent | Damage]:
        """Yield the events of the reader. Damage in GOPs that are read only for their audio is skipped."""
        if self._recover:
            yield from salvaged_events(self._reader, self._priors)
            return
        try:
            yield from unpacked_events(self._reader, self._priors)
        except DamageError:
            if self._first_entry is None or self._last_gop >= self._first_gop:
                raise
            self._reader.seek(self._first_gop, self._first_entry)
            yield from unpacked_events(self._reader, self._priors)

    def show(self, frame: Frame) -> Frame | None:
        """Return the frame with its time in the output, or None if it lies outside the excerpt."""
        if not self._cut:
            return frame
        if frame.pts < self._start or self._is_past(frame.pts):
            return None
        return Frame(frame.pixels, frame.pts - self._start, frame.duration)

    def play(self, packet: AudioPacket) -> AudioPacket | None:
        """Return the packet with its times in the output, or None if it lies outside the excerpt."""
        shift = 0
        if self._cut:
            if packet.pts is None:
                return None
            ratio = self._audio_bases[packet.track] / self._base
            if packet.pts * ratio < self._start or self._is_past(packet.pts * ratio):
                return None
            shift = round(self._start / ratio)
        pts = None if packet.pts is None else packet.pts - shift
        dts = None if packet.dts is None else packet.dts - shift
        return AudioPacket(packet.track, pts, dts, packet.duration, packet.data)

    def seconds(self, pts: int) -> float:
        """Convert a time in the file, in ticks, to seconds after the start of the output, at most up to its end."""
        shown = pts if self._end is None else min(pts, self._end)
        return float(max(0, shown - (self._start if self._cut else self._origin)) * self._base)

    @property
    def frame_ticks(self) -> int:
        """Ticks from one frame to the next at the nominal frame rate; 0 for a still image."""
        return self._reader.header.frame_ticks

    def _is_past(self, pts: int | Fraction) -> bool:
        return self._end is not None and pts >= self._end

    def _ticks(self, seconds: float | Fraction) -> int:
        # In fractions, no time is too large.
        return round(Fraction(seconds) / self._base)
