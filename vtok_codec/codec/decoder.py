"""`.vtk` → video: chunks are unpacked, decoded, and handed on frame by frame, from any time on."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from vtok_codec.codec.lanes import Job, Lanes, plan_lanes, run_in_lanes
from vtok_codec.codec.slices import SLICE_LATENTS, slices
from vtok_codec.codec.tokenfile import Damage, UnpackedChunk
from vtok_codec.codec.tokenizer import PixelDecoder, check_fits
from vtok_codec.codec.window import Window
from vtok_codec.container.header import Header
from vtok_codec.container.reader import VtkReader
from vtok_codec.container.records import StoredPacket
from vtok_codec.errors import DamageError, InputError, SettingError
from vtok_codec.media.types import AudioPacket, AudioTrack, Color, Frame, VideoInfo
from vtok_codec.models.causal import State
from vtok_codec.tokens.radix import Digits

_Item: TypeAlias = "list[Frame] | list[StoredPacket] | Damage"
"""A slice decoded, and what stands between slices."""


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


@dataclass(frozen=True)
class _Slice:
    """A part of a chunk that is decoded before its frames are handed on."""

    gop: int
    digits: Digits
    times: tuple[tuple[int, int], ...]
    """Of each frame that is shown: its pts and its duration."""


class GopDecoder:
    """Decodes the slices of one GOP, in their order; it holds the decoder's state."""

    def __init__(self, pixel_decoder: PixelDecoder, size: tuple[int, int]) -> None:
        self._pixel_decoder = pixel_decoder
        self._size = size
        self._state: State = None

    def decode(self, part: _Slice) -> list[Frame]:
        """The frames of the next slice."""
        pixels, self._state = self._pixel_decoder.decode(
            part.digits, self._size, len(part.times), self._state, part.gop
        )
        return [Frame(image, pts, duration) for image, (pts, duration) in zip(pixels, part.times, strict=True)]


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
    jobs = _jobs(window.events(), pixel_decoder, reader.header, tokens or reader.header.tokens)
    shown = False
    gap: Gap | None = None
    decoded: Generator[_Item] = run_in_lanes(jobs, _lanes(reader.header, pixel_decoder))
    with closing(decoded):
        for event in _shown(decoded, window):
            shown = shown or isinstance(event, Frame)
            gap = event if isinstance(event, Gap) else gap
            yield event
    if not shown and gap:
        raise DamageError(f"nothing of the file could be recovered: {gap.reason}")
    if not shown:
        raise InputError("no frame lies between the start and the end that were asked for")


def _lanes(header: Header, pixel_decoder: PixelDecoder) -> Lanes:
    slices_a_chunk = -(-header.chunk_latents // SLICE_LATENTS)
    parts = -(-header.gop_latents // header.chunk_latents) * slices_a_chunk
    return plan_lanes(header, pixel_decoder.bytes_a_pixel, pixel_decoder.placement.device, parts)


def _jobs(
    unpacked: Iterable[UnpackedChunk | list[StoredPacket] | Damage],
    pixel_decoder: PixelDecoder,
    header: Header,
    tokens: int,
) -> Iterator[Job[_Item] | _Item]:
    """The work of each slice of each chunk, with so many tokens a position."""
    planes = tokens * len(header.model.levels)
    gop: GopDecoder | None = None
    for item in unpacked:
        if not isinstance(item, UnpackedChunk):
            yield item
            continue
        chunk = item.chunk
        if chunk.first or gop is None:
            gop = GopDecoder(pixel_decoder, (header.height, header.width))
        ends = (*chunk.pts[1:], chunk.pts[-1] + chunk.last_duration)
        times = tuple((pts, end - pts) for pts, end in zip(chunk.pts, ends, strict=True))
        shown = 0
        for digits, frames in slices(item.digits[:planes], header.model, chunk.first):
            part = _Slice(chunk.gop, digits, times[shown : shown + frames])
            yield Job(chunk.first and not shown, partial(gop.decode, part))
            shown += frames


def _shown(decoded: Iterable[_Item], window: Window) -> Iterator[Frame | AudioPacket | Gap]:
    """What the window shows of it, with what stands for damage."""
    damage: Damage | None = None
    last: Frame | None = None
    for item in decoded:
        if isinstance(item, Damage):
            # Damage within damage is one gap.
            damage = item if damage is None else damage.joined(item)
            continue
        for event in item:
            if isinstance(event, StoredPacket):
                packet = window.play(event)
                if packet is not None:
                    yield packet
                continue
            if damage:
                yield from _fill(damage, last, event.pts, window)
                damage = None
            last = event
            shown = window.show(event)
            if shown:
                yield shown
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
