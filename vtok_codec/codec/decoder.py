"""`.vtk` → video: chunks are unpacked, decoded, and handed on frame by frame, from any time on."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from fractions import Fraction

from vtok_codec.codec.pipeline import Prefetch
from vtok_codec.codec.tokenfile import UnpackedChunk, gop_at, unpacked_events
from vtok_codec.codec.tokenizer import Tokenizer
from vtok_codec.container.header import Header
from vtok_codec.container.reader import VtkReader
from vtok_codec.container.records import GopEntry, StoredPacket, Totals
from vtok_codec.errors import InputError
from vtok_codec.media.types import AudioPacket, AudioTrack, Color, Frame, VideoInfo
from vtok_codec.models.causal import State

_CHUNKS_AHEAD = 2
_FRAMES_AHEAD = 16
_AUDIO_DELAY_S = 1.0
"""How far behind the pictures of its time audio may stand in a file."""


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


class StreamDecoder:
    """Takes chunks in order and gives their frames. It holds the state of the open GOP."""

    def __init__(self, tokenizer: Tokenizer, header: Header, tokens: int | None = None) -> None:
        """`tokens`: how many of the file's tokens a position to use; None for all."""
        self._tokenizer = tokenizer
        self._header = header
        self._planes = (tokens or header.tokens) * len(header.model.levels)
        self._state: State = None

    def decode(self, unpacked: UnpackedChunk) -> list[Frame]:
        """The frames of a chunk, which follows the one before or starts a GOP."""
        chunk, digits = unpacked.chunk, unpacked.digits
        if chunk.first:
            self._state = None
        size = (self._header.height, self._header.width)
        pixels, self._state = self._tokenizer.decode(digits[: self._planes], size, len(chunk.pts), self._state)
        ends = (*chunk.pts[1:], chunk.pts[-1] + chunk.last_duration)
        return [Frame(image, pts, end - pts) for image, pts, end in zip(pixels, chunk.pts, ends, strict=True)]


def decode_events(
    reader: VtkReader,
    tokenizer: Tokenizer,
    tokens: int | None = None,
    start_s: float = 0.0,
    duration_s: float | None = None,
) -> Generator[Frame | AudioPacket]:
    """Frames and audio packets of a file, from `start_s` seconds after its first frame on.

    With a start or a duration, times count from the first frame shown. Unpacking, the model, and whoever takes the
    frames overlap.

    Raises:
        InputError: a start in an input that cannot seek, or after the end.
        DamageError, FormatError: the file is damaged; all frames before the damage were given.
    """
    if tokens is not None and not 1 <= tokens <= reader.header.tokens:
        raise InputError(f"--tokens {tokens}: the file carries {reader.header.tokens}")
    window = _Window(reader, start_s, duration_s)
    decoder = StreamDecoder(tokenizer, reader.header, tokens)
    with (
        Prefetch(window.events(), _CHUNKS_AHEAD) as unpacked,
        Prefetch(_decoded(decoder, unpacked, window), _FRAMES_AHEAD) as ready,
    ):
        yield from ready


class _Window:
    """The part of a file that was asked for, in ticks of the header's time base."""

    def __init__(self, reader: VtkReader, start_s: float, duration_s: float | None) -> None:
        if start_s < 0 or (duration_s is not None and duration_s <= 0):
            raise InputError("--start must not be negative, and --duration must be above 0")
        self._reader = reader
        self._base = reader.header.time_base
        self._audio_bases = [track.time_base for track in reader.header.audio]
        self._cut = bool(start_s) or duration_s is not None
        self._first_gop = 0
        # Of a cut only; a file that is shown whole keeps all its times.
        self._start, self._end = 0, None if duration_s is None else 0
        if self._cut:
            entries = _index(reader)
            self._start = entries[0].pts + self._ticks(start_s)
            if duration_s is not None:
                self._end = entries[0].pts + self._ticks(start_s + duration_s)
            self._first_gop = gop_at(entries, self._start)
            # Audio may stand up to a GOP before the pictures of its time.
            gop = max(0, self._first_gop - 1) if self._audio_bases else self._first_gop
            reader.seek(gop, entries[gop])

    def events(self) -> Iterator[UnpackedChunk | list[StoredPacket]]:
        """Unpacked chunks and audio, until the window's end."""
        late = self._ticks(_AUDIO_DELAY_S) if self._audio_bases else 0
        for event in unpacked_events(self._reader):
            if isinstance(event, Totals):
                return
            if isinstance(event, UnpackedChunk):
                if self._is_past(event.chunk.pts[0] - late):
                    return
                if event.chunk.gop < self._first_gop or self._is_past(event.chunk.pts[0]):
                    continue
            yield event

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
        if self._cut and packet.pts is not None:
            ratio = self._audio_bases[packet.track] / self._base
            if packet.pts * ratio < self._start or self._is_past(packet.pts * ratio):
                return None
            shift = round(self._start / ratio)
        pts = None if packet.pts is None else packet.pts - shift
        dts = None if packet.dts is None else packet.dts - shift
        return AudioPacket(packet.track, pts, dts, packet.duration, packet.data)

    def _is_past(self, pts: int | Fraction) -> bool:
        return self._end is not None and pts >= self._end

    def _ticks(self, seconds: float) -> int:
        return round(seconds / self._base)


def _index(reader: VtkReader) -> list[GopEntry]:
    if not reader.seekable:
        raise InputError("--start and --duration need a file: a pipe cannot seek")
    entries = reader.index()
    if not entries:
        raise InputError("the file has no frame")
    return entries


def _decoded(
    decoder: StreamDecoder, unpacked: Iterable[UnpackedChunk | list[StoredPacket]], window: _Window
) -> Iterator[Frame | AudioPacket]:
    for item in unpacked:
        if isinstance(item, UnpackedChunk):
            shown = map(window.show, decoder.decode(item))
            yield from (frame for frame in shown if frame is not None)
        else:
            played = map(window.play, item)
            yield from (packet for packet in played if packet is not None)
