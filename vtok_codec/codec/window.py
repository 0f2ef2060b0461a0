"""The part of a file that is decoded: where it is entered, which chunks, frames and audio packets lie in it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction

from vtok_codec.codec.tokenfile import (
    Damage,
    UnpackedChunk,
    UnpackedEvent,
    gop_at,
    salvaged_events,
    unpacked_events,
)
from vtok_codec.container.reader import VtkReader
from vtok_codec.container.records import GopEntry, StoredPacket
from vtok_codec.errors import DamageError, SettingError
from vtok_codec.media.types import AudioPacket, Frame

_MAX_WAITING_PACKETS, _MAX_WAITING_BYTES = 1 << 16, 1 << 24
"""Of audio before the first chunk of a cut. What is older lies before the first frame, so before the cut."""
_AUDIO_OFFSET_S = 1.0
"""How far from the pictures of its time audio may stand in a file."""


class _Waiting:
    """Audio packets that wait, the newest of them where they are too many."""

    def __init__(self) -> None:
        self._packets: deque[StoredPacket] = deque()
        self._bytes = 0

    def put(self, packets: Iterable[StoredPacket]) -> None:
        for packet in packets:
            self._packets.append(packet)
            self._bytes += len(packet.data)
            while self._bytes > _MAX_WAITING_BYTES or len(self._packets) > _MAX_WAITING_PACKETS:
                self._bytes -= len(self._packets.popleft().data)

    def taken(self) -> list[StoredPacket]:
        """All of them; none is left."""
        packets = list(self._packets)
        self._packets.clear()
        self._bytes = 0
        return packets


class Window:
    """The part of a file that was asked for, in ticks of the header's time base."""

    def __init__(self, reader: VtkReader, start_s: float, duration_s: float | None, recover: bool) -> None:
        if not 0 <= start_s < math.inf or (duration_s is not None and not 0 < duration_s < math.inf):
            raise SettingError("the start must not be negative, and the duration must be above 0")
        self._reader = reader
        self._recover = recover
        self._base = reader.header.time_base
        self._audio_bases = [track.time_base for track in reader.header.audio]
        self._cut = bool(start_s) or duration_s is not None
        self._first_gop = 0
        self._start_s, self._duration_s = start_s, duration_s
        # Of a cut only, once the first frame is known; a file that is shown whole keeps all its times.
        self._start = 0
        self._origin = 0
        self._end: int | None = None
        self._placed = False
        self._last_chunk_pts: int | None = None
        self._last_gop = -1
        self._first_entry: GopEntry | None = None
        if start_s:
            self._enter()

    def _enter(self) -> None:
        """Go to the GOP of the start, if the file has an index."""
        if not self._reader.seekable:
            return
        try:
            entries = self._reader.index()
        except DamageError:
            return
        self._place(entries[0].pts)
        self._first_gop = gop_at(entries, self._start)
        gop = self._first_gop
        self._first_entry = entries[gop]
        if self._audio_bases:
            # Audio may stand a little before the pictures of its time.
            gop = min(max(0, gop - 1), gop_at(entries, self._start - self._ticks(_AUDIO_OFFSET_S)))
        self._reader.seek(gop, entries[gop])

    def _place(self, first_pts: int) -> None:
        self._placed = True
        self._origin = first_pts
        if self._cut:
            self._start = first_pts + self._ticks(self._start_s)
            if self._duration_s is not None:
                self._end = first_pts + self._ticks(self._start_s + self._duration_s)

    def events(self) -> Iterator[UnpackedChunk | list[StoredPacket] | Damage]:
        """Unpacked chunks and audio, until the window's end. Damage after it is another's matter."""
        try:
            yield from self._events()
        except DamageError:
            if self._last_chunk_pts is None or not self._is_past(self._last_chunk_pts):
                raise

    def _events(self) -> Iterator[UnpackedChunk | list[StoredPacket] | Damage]:
        late = self._ticks(_AUDIO_OFFSET_S) if self._audio_bases else 0
        # Audio that comes before the first chunk of a cut has to wait until it is known where the file starts.
        waiting = _Waiting()
        damaged = False
        early: Damage | None = None
        for event in self._records():
            if isinstance(event, Damage):
                if self._last_chunk_pts is not None and self._is_past(self._last_chunk_pts):
                    return
                if self._last_gop < self._first_gop:
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
                # After damage the next chunk tells how long the gap is, wherever it stands.
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
        """What the reader gives. Damage of a GOP that was entered for its audio alone is passed over."""
        if self._recover:
            yield from salvaged_events(self._reader)
            return
        try:
            yield from unpacked_events(self._reader)
        except DamageError:
            if self._first_entry is None or self._last_gop >= self._first_gop:
                raise
            self._reader.seek(self._first_gop, self._first_entry)
            yield from unpacked_events(self._reader)

    def show(self, frame: Frame) -> Frame | None:
        """The frame with its time in the output, or None outside the window."""
        if not self._cut:
            return frame
        if frame.pts < self._start or self._is_past(frame.pts):
            return None
        return Frame(frame.pixels, frame.pts - self._start, frame.duration)

    def play(self, packet: StoredPacket) -> AudioPacket | None:
        """The packet with its times in the output, or None outside the window."""
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
        """A time of the file as a viewer of the output counts it: from its first frame on, up to its end."""
        shown = pts if self._end is None else min(pts, self._end)
        return float(max(0, shown - (self._start if self._cut else self._origin)) * self._base)

    @property
    def frame_ticks(self) -> int:
        """Ticks of a frame in a video of constant rate; 0 for none."""
        return self._reader.header.frame_ticks

    def _is_past(self, pts: int | Fraction) -> bool:
        return self._end is not None and pts >= self._end

    def _ticks(self, seconds: float) -> int:
        return round(seconds / self._base)
