"""Video → `.vtk`: frames are gathered into chunks and GOPs, coded, packed, and written as they come."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, TypeAlias

import numpy as np

from vtok_codec import __version__
from vtok_codec.codec.chunks import Chunker, CodedChunk, FrameChunk, GopPacker, PackedChunk, chosen_coder
from vtok_codec.codec.lanes import Job, plan_lanes, run_in_lanes
from vtok_codec.codec.pipeline import Prefetch
from vtok_codec.codec.tokenizer import Tokenizer
from vtok_codec.container.header import (
    MAX_GOP_LATENTS,
    AudioHeader,
    Header,
    header_from_json,
    header_to_json,
)
from vtok_codec.container.records import StoredPacket
from vtok_codec.container.writer import MAX_HEADER_BYTES, VtkWriter
from vtok_codec.errors import FormatError, InputError, SettingError
from vtok_codec.media.types import DEFAULT_RATE, AudioPacket, Frame, VideoInfo
from vtok_codec.models.causal import State
from vtok_codec.tokens.coders import CODERS, CoderId

_MAX_PENDING_AUDIO_BYTES = 1 << 20
_MAX_PENDING_PACKETS = 1 << 14
_FRAMES_AHEAD = 16
_Item: TypeAlias = "PackedChunk | list[StoredPacket]"
"""What follows the header."""
MAX_STICKINESS = 4.0
"""Of `EncodeSettings.stickiness`: beyond it pictures freeze."""


@dataclass(frozen=True)
class EncodeSettings:
    """What a user may choose of the stream's layout."""

    tokens: int = 2
    """Tokens written a latent position."""
    gop_seconds: float = 4.0
    """About how long a GOP is: what can be decoded alone, and where seeking starts."""
    chunk_latents: int = 4
    """Latent frames coded and flushed at once."""
    stickiness: float = 0.0
    """How far beyond half a digit a latent may move before its digit changes: smaller files, less exact."""
    coder: str = "waves"
    """Of `CODERS`: `waves` makes the smallest files, `zstd` such as are read faster."""


@dataclass(frozen=True)
class EncodeSummary:
    """What `encode_video` wrote."""

    frames: int
    bytes_written: int
    audio_bytes: int
    """Of the audio packets among them."""
    failure: InputError | None
    """What ended the input early, if anything did. The file is whole all the same, with the frames before it."""


def check_stickiness(stickiness: float) -> None:
    """Refuse a stickiness that is out of its range.

    Raises:
        SettingError: it is.
    """
    if not 0 <= stickiness <= MAX_STICKINESS:
        raise SettingError(f"stickiness {stickiness}: give a number of digits from 0 to {MAX_STICKINESS:g}")


def make_header(info: VideoInfo, tokenizer: Tokenizer, settings: EncodeSettings) -> Header:
    """The header of a file with these settings.

    Raises:
        SettingError: the model has fewer tokens than are asked for, or a setting is out of its range.
        InputError: the format cannot hold such a video.
    """
    if not 1 <= settings.tokens <= tokenizer.max_tokens:
        raise SettingError(f"tokens {settings.tokens}: {tokenizer.id.name} has 1 to {tokenizer.max_tokens} tokens")
    stride = tokenizer.id.stride[0]
    if not 0 < settings.gop_seconds < math.inf:
        raise SettingError(f"gop {settings.gop_seconds}: give a number of seconds above 0")
    check_stickiness(settings.stickiness)
    if settings.coder not in CODERS:
        raise SettingError(f"coder {settings.coder!r}: choose from {', '.join(CODERS)}")
    latents = min(settings.gop_seconds * float(info.rate or DEFAULT_RATE) / stride, MAX_GOP_LATENTS)
    header = Header(
        width=info.width,
        height=info.height,
        rate=info.rate,
        time_base=info.time_base,
        frame_ticks=round(1 / (info.rate * info.time_base)) if info.rate else 0,
        sar=info.sar,
        color=(info.color.range, info.color.primaries, info.color.transfer, info.color.matrix),
        rotation=info.rotation,
        model=tokenizer.id,
        tokens=settings.tokens,
        gop_latents=max(1, round(latents)),
        chunk_latents=settings.chunk_latents,
        audio=tuple(AudioHeader(t.codec, t.time_base, t.sample_rate, t.layout, t.parameters) for t in info.audio),
        writer=f"vtok {__version__}",
    )
    _check_limits(header)
    return header


def _check_limits(header: Header) -> None:
    """Refuse what no reader would read."""
    text = header_to_json(header)
    if len(text) > MAX_HEADER_BYTES:
        raise InputError("the parameters of the audio tracks do not fit the header; leave the audio out")
    try:
        header_from_json(text)
    except FormatError as error:
        raise InputError(f"the format cannot hold this video: {error}") from None


class GopEncoder:
    """Codes and packs the chunks of one GOP, in their order; it holds the model's state and their coder."""

    def __init__(self, tokenizer: Tokenizer, header: Header, coder: CoderId, stickiness: float = 0.0) -> None:
        self._tokenizer = tokenizer
        self._tokens = header.tokens
        self._stickiness = stickiness
        self._packer = GopPacker(header, coder)
        self._state: State = None

    def code(self, chunk: FrameChunk) -> PackedChunk:
        """The next chunk."""
        pixels = np.stack([frame.pixels for frame in chunk.frames])
        digits, self._state = self._tokenizer.encode(pixels, self._tokens, self._state, self._stickiness)
        pts = tuple(frame.pts for frame in chunk.frames)
        return self._packer.pack(CodedChunk(chunk.gop, pts, chunk.frames[-1].duration, digits))


def encode_video(
    info: VideoInfo,
    events: Iterable[Frame | AudioPacket],
    tokenizer: Tokenizer,
    settings: EncodeSettings,
    stream: BinaryIO,
    on_frames: Callable[[int], None] = lambda count: None,
) -> EncodeSummary:
    """Code a whole video into `stream`: GOPs side by side, reading ahead of the model.

    `on_frames` is told how many frames each written chunk had.

    Raises:
        SettingError, InputError: see `make_header`.
    """
    header = make_header(info, tokenizer, settings)
    writer = VtkWriter(stream, header)
    parts = -(-header.gop_latents // header.chunk_latents)
    lanes = plan_lanes(header, tokenizer.bytes_a_pixel, tokenizer.placement.device, parts)
    frames = audio_bytes = 0
    failure: list[InputError] = []
    with Prefetch(events, _FRAMES_AHEAD) as ready:
        coded: Generator[_Item] = run_in_lanes(_jobs(ready, tokenizer, header, settings, failure), lanes)
        with closing(coded):
            for item in coded:
                if isinstance(item, PackedChunk):
                    item.write(writer)
                    frames += item.frames
                    on_frames(item.frames)
                else:
                    writer.write_audio(item)
                    audio_bytes += sum(len(packet.data) for packet in item)
    writer.finish()
    return EncodeSummary(frames, writer.bytes_written, audio_bytes, failure[0] if failure else None)


def _jobs(
    events: Iterable[Frame | AudioPacket],
    tokenizer: Tokenizer,
    header: Header,
    settings: EncodeSettings,
    failure: list[InputError],
) -> Iterator[Job[_Item] | _Item]:
    """The work of each chunk, and audio. An error of the input is kept for later."""
    coder = chosen_coder(header, settings.coder)
    gop: GopEncoder | None = None
    for part in _parts(events, header, failure):
        if isinstance(part, FrameChunk):
            if part.starts_gop or gop is None:
                gop = GopEncoder(tokenizer, header, coder, settings.stickiness)
            yield Job(part.starts_gop, partial(gop.code, part))
        else:
            yield part


def _parts(
    events: Iterable[Frame | AudioPacket], header: Header, failure: list[InputError]
) -> Iterator[FrameChunk | list[StoredPacket]]:
    """Chunks of frames, each after the audio that came before its end."""
    chunker = Chunker(header)
    audio: list[StoredPacket] = []
    pending_bytes = 0
    try:
        for event in events:
            if isinstance(event, AudioPacket):
                audio.append(StoredPacket(event.track, event.pts, event.dts, event.duration, event.data))
                pending_bytes += len(event.data)
                if pending_bytes > _MAX_PENDING_AUDIO_BYTES or len(audio) >= _MAX_PENDING_PACKETS:
                    yield audio
                    audio, pending_bytes = [], 0
            elif (chunk := chunker.push(event)) is not None:
                if audio:
                    yield audio
                    audio, pending_bytes = [], 0
                yield chunk
    except InputError as error:
        failure.append(error)
    if audio:
        yield audio
    last = chunker.flush()
    if last is not None:
        yield last
