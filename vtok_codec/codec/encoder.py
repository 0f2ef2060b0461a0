"""Video → `.vtk`: frames are gathered into chunks and GOPs, coded, packed, and written as they come."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import BinaryIO

import numpy as np

from vtok_codec import __version__
from vtok_codec.codec.pipeline import Prefetch
from vtok_codec.codec.tokenfile import token_bytes
from vtok_codec.codec.tokenizer import Tokenizer
from vtok_codec.container.header import (
    MAX_GOP_LATENTS,
    AudioHeader,
    Header,
    header_from_json,
    header_to_json,
)
from vtok_codec.container.records import StoredPacket, TokenPayload
from vtok_codec.container.writer import MAX_HEADER_BYTES, VtkWriter
from vtok_codec.errors import FormatError, InputError, SettingError
from vtok_codec.media.types import AudioPacket, Frame, VideoInfo
from vtok_codec.models.causal import State
from vtok_codec.tokens.coders import CODERS, Coder, fitting_coder, make_coder
from vtok_codec.tokens.radix import Digits, digits_to_tokens

_MAX_PENDING_AUDIO_BYTES = 1 << 20
_MAX_PENDING_PACKETS = 1 << 14
_FRAMES_AHEAD = 16
_DEFAULT_RATE = Fraction(25)
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
class CodedChunk:
    """A chunk of frames as digits."""

    gop: int
    pts: tuple[int, ...]
    last_duration: int
    digits: Digits


@dataclass(frozen=True)
class EncodeSummary:
    """What `encode_video` wrote."""

    frames: int
    bytes_written: int
    audio_bytes: int
    """Of the audio packets among them."""
    failure: InputError | None
    """What ended the input early, if anything did. The file is whole all the same, with the frames before it."""


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
    if not 0 <= settings.stickiness <= MAX_STICKINESS:
        raise SettingError(f"stickiness {settings.stickiness}: give a number of digits from 0 to {MAX_STICKINESS:g}")
    if settings.coder not in CODERS:
        raise SettingError(f"coder {settings.coder!r}: choose from {', '.join(CODERS)}")
    latents = min(settings.gop_seconds * float(info.rate or _DEFAULT_RATE) / stride, MAX_GOP_LATENTS)
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


class StreamEncoder:
    """Takes frames one by one and gives a chunk whenever one is full. It holds the state of the open GOP."""

    def __init__(self, tokenizer: Tokenizer, header: Header, stickiness: float = 0.0) -> None:
        self._tokenizer = tokenizer
        self._header = header
        self._stickiness = stickiness
        self._frames: list[Frame] = []
        self._state: State = None
        self._gop = 0
        self._latents_in_gop = 0

    def push(self, frame: Frame) -> CodedChunk | None:
        """Add a frame; the chunk that it completes, if it does."""
        self._frames.append(frame)
        return self._code() if len(self._frames) == self._chunk_frames() else None

    def flush(self) -> CodedChunk | None:
        """The frames that make no whole chunk, as the last one."""
        return self._code() if self._frames else None

    def _chunk_frames(self) -> int:
        """Frames of the chunk that is being gathered: the last one of a GOP may be shorter."""
        header, stride = self._header, self._header.model.stride[0]
        first = self._latents_in_gop == 0
        latents = min(header.chunk_latents, header.gop_latents - self._latents_in_gop)
        return latents * stride - (stride - 1 if first else 0)

    def _code(self) -> CodedChunk:
        frames, self._frames = self._frames, []
        pixels = np.stack([frame.pixels for frame in frames])
        digits, self._state = self._tokenizer.encode(pixels, self._header.tokens, self._state, self._stickiness)
        chunk = CodedChunk(self._gop, tuple(frame.pts for frame in frames), frames[-1].duration, digits)
        first = self._latents_in_gop == 0
        self._latents_in_gop += digits.shape[1] - (self._header.model.extra_phases if first else 0)
        if self._latents_in_gop >= self._header.gop_latents:
            self._state, self._latents_in_gop = None, 0
            self._gop += 1
        return chunk


def encode_video(
    info: VideoInfo,
    events: Iterable[Frame | AudioPacket],
    tokenizer: Tokenizer,
    settings: EncodeSettings,
    stream: BinaryIO,
    on_frames: Callable[[int], None] = lambda count: None,
) -> EncodeSummary:
    """Code a whole video into `stream`, reading ahead of the model.

    Packing stays in the model's thread: on two cores one of its own takes more from torch's threads than it saves.

    `on_frames` is told how many frames each written chunk had.

    Raises:
        SettingError, InputError: see `make_header`.
    """
    header = make_header(info, tokenizer, settings)
    writer = VtkWriter(stream, header)
    chunks = ChunkWriter(writer, header, settings.coder)
    encoder = StreamEncoder(tokenizer, header, settings.stickiness)
    frames = audio_bytes = 0
    failure: list[InputError] = []
    with Prefetch(events, _FRAMES_AHEAD) as ready:
        for item in _coded(encoder, ready, failure):
            if isinstance(item, CodedChunk):
                chunks.write(item)
                frames += len(item.pts)
                on_frames(len(item.pts))
            else:
                writer.write_audio(item)
                audio_bytes += sum(len(packet.data) for packet in item)
    writer.finish()
    return EncodeSummary(frames, writer.bytes_written, audio_bytes, failure[0] if failure else None)


def _coded(
    encoder: StreamEncoder, events: Iterable[Frame | AudioPacket], failure: list[InputError]
) -> Iterator[CodedChunk | list[StoredPacket]]:
    """Chunks, each after the audio that came before its end. An error of the input is kept for later."""
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
            elif (chunk := encoder.push(event)) is not None:
                if audio:
                    yield audio
                    audio, pending_bytes = [], 0
                yield chunk
    except InputError as error:
        failure.append(error)
    if audio:
        yield audio
    last = encoder.flush()
    if last is not None:
        yield last


class ChunkWriter:
    """Packs chunks and writes them; it holds the coder of the open GOP."""

    def __init__(self, writer: VtkWriter, header: Header, coder: str = EncodeSettings.coder) -> None:
        """`coder`: see `EncodeSettings`."""
        self._writer, self._header = writer, header
        most_digits = header.planes * math.prod(header.chunk_latent_shape(header.max_chunk_frames(True), True))
        self._id = fitting_coder(CODERS[coder], header.model.levels, most_digits)
        self._open: tuple[int, Coder] | None = None

    def write(self, chunk: CodedChunk) -> None:
        """Write the next chunk."""
        header = self._header
        if self._open is None or self._open[0] != chunk.gop:
            self._open = chunk.gop, make_coder(self._id, header.model.levels, header.tokens)
        ticks = [after - before for before, after in pairwise(chunk.pts)]
        ticks.append(chunk.last_duration)
        usual = all(tick == header.frame_ticks for tick in ticks)
        payload = TokenPayload(() if usual else tuple(ticks), *self._id, self._open[1].pack(chunk.digits))
        tokens = token_bytes(digits_to_tokens(chunk.digits, header.model.levels))
        self._writer.write_tokens(chunk.gop, chunk.pts[0], len(chunk.pts), payload, chunk.digits.size, tokens)
