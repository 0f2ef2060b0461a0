"""`.vtk` → video: unpacks and decodes chunks, and yields frames one by one, starting at any time."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from vtok_codec.audio import AudioPacket
from vtok_codec.codec.lanes import Job, Lanes, plan_lanes, run_in_lanes
from vtok_codec.codec.pixel_decoder import DecoderState, PixelDecoder, check_fits
from vtok_codec.codec.slices import SLICE_LATENTS, slices
from vtok_codec.container.header import Header
from vtok_codec.container.reader import VtkReader
from vtok_codec.container.window_tokens import WindowTokens
from vtok_codec.errors import DamageError, InputError, SettingError
from vtok_codec.media.types import Frame
from vtok_codec.stream.excerpt import Excerpt
from vtok_codec.stream.unpacking import Damage, UnpackedChunk
from vtok_codec.tokens.radix import Digits

_Item: TypeAlias = "list[Frame] | list[AudioPacket] | Damage"
"""The frames of a decoded slice, or what stands between slices: audio packets or damage."""


@dataclass(frozen=True)
class Gap:
    """A part of a damaged file that could not be decoded."""

    start_s: float | None
    """Where the gap starts, in seconds of the output; None before the first good frame, if the index is lost too."""
    end_s: float | None
    """Where the gap ends, in seconds of the output; None where no good frame follows. If it is `start_s`, no frame is
    lost, only sound or other records."""
    filled: int
    """The number of copies of the last good frame that were given in place of the lost frames."""
    reason: str
    """What is wrong with the file."""


@dataclass(frozen=True)
class _Slice:
    """A part of a chunk, decoded in one step."""

    gop: int
    """The number of the GOP."""
    digits: Digits
    """The digits of the slice, uint8 `P t h w`."""
    times: tuple[tuple[int, int], ...]
    """The presentation time and the duration of each frame of the slice, in ticks of the header's time base."""
    window_tokens: WindowTokens | None
    """The 1D tokens of the chunk, which is then a single slice; None if the file has none."""


class GopDecoder:
    """Decodes the slices of one GOP in order. It holds the state of the decoder."""

    def __init__(self, pixel_decoder: PixelDecoder, size: tuple[int, int]) -> None:
        self._pixel_decoder = pixel_decoder
        self._size = size
        self._state: DecoderState = None

    def decode(self, part: _Slice) -> list[Frame]:
        """Decode the next slice of the GOP."""
        pixels, self._state = self._pixel_decoder.decode(
            part.digits, self._size, len(part.times), self._state, part.gop, part.window_tokens
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
    """Decode a file, or a part of it, to frames and audio packets.

    Decoding begins with the GOP that holds the start. A pipe, or a file without a usable index, is decoded from its
    beginning.

    Args:
        reader: The file.
        pixel_decoder: The decoder that turns digits into frames.
        tokens: Tokens per position to decode; None for all that the file holds.
        start_s: Where to start, in seconds after the first frame of the file.
        duration_s: How many seconds to decode; None for the rest of the file.
        recover: Whether to skip damaged GOPs. Copies of the last good frame then fill their time, and a `Gap` follows
            the copies.

    Yields:
        Frames, audio packets and gaps. If a start or a duration is given, their times count from the start.

    Raises:
        SettingError: The number of tokens, the start or the duration is out of range.
        InputError: No frame lies between the start and the end, or the input to recover is a pipe.
        DamageError, FormatError: The file is damaged, or does not fit the model. All frames before the damage have been
            yielded.
    """
    check_fits(pixel_decoder, reader.header)
    if tokens is not None and not 1 <= tokens <= reader.header.tokens_per_position:
        raise SettingError(f"tokens {tokens}: the file carries {reader.header.tokens_per_position}")
    if recover and not reader.seekable:
        raise InputError("to recover from damage needs a file: a pipe cannot seek")
    excerpt = Excerpt(reader, start_s, duration_s, recover, pixel_decoder.find_prior)
    jobs = _jobs(excerpt.events(), pixel_decoder, reader.header, tokens or reader.header.tokens_per_position)
    shown = False
    gap: Gap | None = None
    decoded: Generator[_Item] = run_in_lanes(jobs, _lanes(reader.header, pixel_decoder))
    with closing(decoded):
        for event in _shown(decoded, excerpt):
            shown = shown or isinstance(event, Frame)
            gap = event if isinstance(event, Gap) else gap
            yield event
    if not shown and gap:
        raise DamageError(f"nothing of the file could be recovered: {gap.reason}")
    if not shown:
        raise InputError("no frame lies between the start and the end that were asked for")


def _lanes(header: Header, pixel_decoder: PixelDecoder) -> Lanes:
    slices_per_chunk = -(-header.chunk_latents // SLICE_LATENTS)
    parts = -(-header.gop_latents // header.chunk_latents) * slices_per_chunk
    return plan_lanes(header, pixel_decoder.bytes_per_pixel, pixel_decoder.lanes, parts)


def _jobs(
    unpacked: Iterable[UnpackedChunk | list[AudioPacket] | Damage],
    pixel_decoder: PixelDecoder,
    header: Header,
    tokens: int,
) -> Iterator[Job[_Item] | _Item]:
    """Yield a job for each slice of each chunk, and everything else unchanged.

    Args:
        unpacked: The events of the excerpt.
        pixel_decoder: The decoder that turns digits into frames.
        header: The header of the file.
        tokens: Tokens per position to decode.
    """
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
        for digits, frames in slices(item.digits[:planes], header.model.layout, chunk.first):
            part = _Slice(chunk.gop, digits, times[shown : shown + frames], chunk.window_tokens)
            yield Job(chunk.first and not shown, partial(gop.decode, part))
            shown += frames


def _shown(decoded: Iterable[_Item], excerpt: Excerpt) -> Iterator[Frame | AudioPacket | Gap]:
    """Yield the frames and audio packets that lie in the excerpt, and copies of frames and a `Gap` for each damage."""
    damage: Damage | None = None
    last: Frame | None = None
    for item in decoded:
        if isinstance(item, Damage):
            # Damage that follows damage without a good frame in between belongs to the same gap.
            damage = item if damage is None else damage.joined(item)
            continue
        for event in item:
            if isinstance(event, AudioPacket):
                packet = excerpt.play(event)
                if packet is not None:
                    yield packet
                continue
            if damage:
                yield from _fill(damage, last, event.pts, excerpt)
                damage = None
            last = event
            shown = excerpt.show(event)
            if shown:
                yield shown
    if damage:
        yield Gap(_begin_s(last, excerpt), None, 0, damage.reason)


def _begin_s(last: Frame | None, excerpt: Excerpt) -> float | None:
    """Return where a gap starts after the last good frame."""
    if last is None:
        return 0.0 if excerpt.knows_origin else None
    return excerpt.seconds(last.pts + last.duration)


def _fill(damage: Damage, last: Frame | None, next_pts: int, excerpt: Excerpt) -> Iterator[Frame | Gap]:
    """Yield copies of the last good frame up to the time of the next good frame, then the `Gap`.

    Frames that are lost before the first good frame are not filled.
    """
    filled = 0
    step = excerpt.frame_ticks or (last.duration if last else 0)
    if last and step:
        start = last.pts + (last.duration or step)
        count = min(round((next_pts - start) / step), damage.most_frames or 0)
        for number in range(count):
            shown = excerpt.show(Frame(last.pixels, start + number * step, step))
            if shown:
                filled += 1
                yield shown
    yield Gap(_begin_s(last, excerpt), excerpt.seconds(next_pts), filled, damage.reason)
