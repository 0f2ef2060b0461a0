"""`.vtk` → video: chunks are unpacked, decoded, and handed on frame by frame, from any time on."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

from vtok_codec.codec.tokenfile import Damage, UnpackedChunk
from vtok_codec.codec.tokenizer import PixelDecoder, check_fits
from vtok_codec.codec.window import Window
from vtok_codec.container.header import Header, ModelId
from vtok_codec.container.reader import VtkReader
from vtok_codec.container.records import StoredPacket
from vtok_codec.errors import DamageError, InputError, SettingError
from vtok_codec.media.types import AudioPacket, AudioTrack, Color, Frame, VideoInfo
from vtok_codec.models.causal import State
from vtok_codec.tokens.radix import Digits

_SLICE_LATENTS = 4
"""Latent frames that go through the model at once."""


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
        SettingError: the tokens, the start or the duration are out of range.
        InputError: no frame lies there, or a pipe is to be recovered.
        DamageError, FormatError: the file is damaged, or does not fit the model; all frames before the damage were
            given.
    """
    check_fits(pixel_decoder, reader.header)
    if tokens is not None and not 1 <= tokens <= reader.header.tokens:
        raise SettingError(f"tokens {tokens}: the file carries {reader.header.tokens}")
    if recover and not reader.seekable:
        raise InputError("to recover from damage needs a file: a pipe cannot seek")
    window = Window(reader, start_s, duration_s, recover)
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
        raise InputError("no frame lies between the start and the end that were asked for")


def _decoded(
    decoder: StreamDecoder, unpacked: Iterable[UnpackedChunk | list[StoredPacket] | Damage], window: Window
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


def _fill(damage: Damage, last: Frame | None, next_pts: int, window: Window) -> Iterator[Frame | Gap]:
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
