"""`.vtk` → video: chunks are unpacked, decoded, and handed on frame by frame, from any time on."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from vtok_codec.codec.tokenfile import Damage, UnpackedChunk, gop_at, salvaged_events, unpacked_events
from vtok_codec.codec.tokenizer import PixelDecoder, check_fits
from vtok_codec.container.header import Header, ModelId
from vtok_codec.container.reader import VtkReader
from vtok_codec.container.records import StoredPacket, Totals
from vtok_codec.errors import DamageError, InputError
from vtok_codec.media.types import AudioPacket, AudioTrack, Color, Frame, VideoInfo
from vtok_codec.models.causal import State
from vtok_codec.tokens.radix import Digits

_SLICE_LATENTS = 4
"""Latent frames that go through the model at once."""
_MAX_WAITING_PACKETS, _MAX_WAITING_BYTES = 1 << 16, 1 << 24
"""Of audio before the first chunk: one record's worth, far more than any file has."""
_AUDIO_OFFSET_S = 1.0
"""How far from the pictures of its time audio may stand in a file."""


def video_info(header: Header, audio: bool = True) -> VideoInfo:
    """What a header says, as the media package has it, with its audio tracks or without."""
    return VideoInfo(
        width=header.width,
        height=header.height,
        rate=header.rate,
        time_base=header.time_base,
        sar=header.sar,
        color=Color(*header.color),
        rotation=header.rotation,
        audio=tuple(
            AudioTrack(t.codec, t.time_base, t.sample_rate, t.layout, t.parameters) for t in header.audio if audio
        ),
    )


@dataclass(frozen=True)
class Gap:
    """Seconds of a damaged file that are gone, counted as the frames given are."""

    start_s: float
    end_s: float | None
    """None where nothing follows."""
    filled: int
    """How often the last good frame was repeated in their place."""
    reason: str


class StreamDecoder:
    """Takes chunks in order and gives their frames. It holds the state of the open GOP."""

    def __init__(self, pixel_decoder: PixelDecoder, header: Header, tokens: int | None = None) -> None:
        """`tokens`: how many of the file's tokens a position to use; None for all."""
        self._pixel_decoder = pixel_decoder
        self._header = header
        self._planes = (tokens or header.tokens) * len(header.model.levels)
        self._state: State = None

    def decode(self, unpacked: UnpackedChunk) -> Iterator[Frame]:
        """The frames of a chunk, which follows the one before or starts a GOP.

        A long chunk goes through the model in slices, so that memory follows the frame's size only.
        """
        chunk, digits = unpacked.chunk, unpacked.digits[: self._planes]
        if chunk.first:
            self._state = None
        size = (self._header.height, self._header.width)
        ends = (*chunk.pts[1:], chunk.pts[-1] + chunk.last_duration)
        shown = 0
        for part, frames in slices(digits, self._header.model, chunk.first):
            count = min(frames, len(chunk.pts) - shown)
            pixels, self._state = self._pixel_decoder.decode(part, size, count, self._state, chunk.gop)
            for number, image in enumerate(pixels, shown):
                yield Frame(image, chunk.pts[number], ends[number] - chunk.pts[number])
            shown += count


def slices(digits: Digits, model: ModelId, fresh: bool) -> Iterator[tuple[Digits, int]]:
    """Digits `P t h w` in the slices that go through the model at once, each with the frames that it stands for.

    They start a GOP if they are `fresh`.
    """
    stride, begin = model.stride[0], 0
    while begin < digits.shape[1]:
        extra = model.extra_phases if fresh else 0
        part = digits[:, begin : begin + _SLICE_LATENTS + extra]
        yield part, (part.shape[1] - extra) * stride - (stride - 1 if fresh else 0)
        begin += part.shape[1]
        fresh = False


def decode_events(
    reader: VtkReader,
    pixel_decoder: PixelDecoder,
    tokens: int | None = None,
    start_s: float = 0.0,
    duration_s: float | None = None,
    recover: bool = False,
) -> Generator[Frame | AudioPacket | Gap]:
    """Frames and audio packets of a file, from `start_s` seconds after its first frame on.

    With a start or a duration, times count from the start. A file is entered at the GOP of the start; one without a
    usable index, or a pipe, is decoded from its front.
    With `recover`, GOPs that are damaged are passed over: the last good frame stands for theirs, and a `Gap` follows.

    Raises:
        InputError: the start or the duration are out of range, or no frame lies between them.
        DamageError, FormatError: the file is damaged, or does not fit the model; all frames before the damage were
            given.
    """
    check_fits(pixel_decoder, reader.header)
    if tokens is not None and not 1 <= tokens <= reader.header.tokens:
        raise InputError(f"--tokens {tokens}: the file carries {reader.header.tokens}")
    if recover and not reader.seekable:
        raise InputError("--recover needs a file: a pipe cannot seek")
    window = _Window(reader, start_s, duration_s, recover)
    decoder = StreamDecoder(pixel_decoder, reader.header, tokens)
    shown = False
    gap: Gap | None = None
    for event in _decoded(decoder, window.events(), window):
        shown = shown or isinstance(event, Frame)
        gap = event if isinstance(event, Gap) else gap
        yield event
    if not shown and gap:
        raise DamageError(f"nothing of the file could be recovered: {gap.reason}")
    if not shown:
        raise InputError("no frame lies between --start and the end of --duration")


class _Window:
    """The part of a file that was asked for, in ticks of the header's time base."""

    def __init__(self, reader: VtkReader, start_s: float, duration_s: float | None, recover: bool) -> None:
        if not 0 <= start_s < math.inf or (duration_s is not None and not 0 < duration_s < math.inf):
            raise InputError("--start must not be negative, and --duration must be above 0")
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
        # Audio that comes before the first chunk has to wait until it is known where the file starts.
        waiting: list[StoredPacket] = []
        waiting_bytes = 0
        damaged = False
        for event in salvaged_events(self._reader) if self._recover else unpacked_events(self._reader):
            if isinstance(event, Totals):
                return
            if isinstance(event, Damage):
                if self._last_chunk_pts is not None and self._is_past(self._last_chunk_pts):
                    return
                damaged = True
                yield event
                continue
            if isinstance(event, UnpackedChunk):
                if not self._placed:
                    self._place(event.chunk.pts[0])
                self._last_chunk_pts = event.chunk.pts[-1]
                if waiting:
                    yield waiting
                    waiting = []
                past = self._is_past(event.chunk.pts[0])
                # After damage the next chunk tells how long the gap is, wherever it stands.
                if event.chunk.gop >= self._first_gop and (damaged or not past):
                    yield event
                    damaged = False
                if self._is_past(event.chunk.pts[0] - late):
                    return
            elif self._placed:
                yield event
            else:
                waiting += event
                waiting_bytes += sum(len(packet.data) for packet in event)
                if len(waiting) > _MAX_WAITING_PACKETS or waiting_bytes > _MAX_WAITING_BYTES:
                    raise DamageError("too much audio stands before the first chunk")

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


def _decoded(
    decoder: StreamDecoder, unpacked: Iterable[UnpackedChunk | list[StoredPacket] | Damage], window: _Window
) -> Iterator[Frame | AudioPacket | Gap]:
    damage: Damage | None = None
    last: Frame | None = None
    for item in unpacked:
        if isinstance(item, Damage):
            # Damage within damage is one gap.
            damage = item if damage is None else damage.joined(item)
        elif isinstance(item, UnpackedChunk):
            if damage:
                yield from _fill(damage, last, item.chunk.pts[0], window)
                damage = None
            for frame in decoder.decode(item):
                last = frame
                shown = window.show(frame)
                if shown:
                    yield shown
        else:
            played = map(window.play, item)
            yield from (packet for packet in played if packet is not None)
    if damage:
        start_s = window.seconds(last.pts + last.duration) if last else 0.0
        yield Gap(start_s, None, 0, damage.reason)


def _fill(damage: Damage, last: Frame | None, next_pts: int, window: _Window) -> Iterator[Frame | Gap]:
    """The last good frame, repeated until the next good one's time; what is lost before any good frame stays out."""
    filled = 0
    step = window.frame_ticks or (last.duration if last else 0)
    if last and step:
        start = last.pts + (last.duration or step)
        count = min(round((next_pts - start) / step), damage.most_frames or 0)
        for number in range(count):
            shown = window.show(Frame(last.pixels, start + number * step, step))
            if shown:
                filled += 1
                yield shown
    start_s = window.seconds(last.pts + last.duration) if last else 0.0
    yield Gap(start_s, window.seconds(next_pts), filled, damage.reason)
