"""Video → `.vtk`: gathers frames into chunks and GOPs, and codes, packs and writes them as they come."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO, TypeAlias

import numpy as np

from vtok_codec.audio import AudioPacket
from vtok_codec.codec.distortion import Distortion, make_distortion
from vtok_codec.codec.lanes import Job, plan_lanes, run_in_lanes
from vtok_codec.codec.onedva import OneDVAState
from vtok_codec.codec.prefetch import Prefetch
from vtok_codec.codec.refinement import Refiner, refining_bytes_per_pixel
from vtok_codec.codec.tokenizer import Tokenizer
from vtok_codec.container.header import Header
from vtok_codec.container.records import MAX_AUDIO_BYTES
from vtok_codec.container.writer import VtkWriter
from vtok_codec.errors import InputError
from vtok_codec.media.types import Frame, VideoInfo
from vtok_codec.models.causal import State
from vtok_codec.stream.chunks import Chunker, CodedChunk, FrameChunk, GopPacker, PackedChunk, chosen_coder
from vtok_codec.stream.effort import find_effort, find_tune
from vtok_codec.stream.headers import make_header
from vtok_codec.stream.settings import EncodeSettings
from vtok_codec.tokens.coders import ChosenCoder
from vtok_codec.tokens.radix import Values

_MAX_PENDING_AUDIO_BYTES = 1 << 20
"""Bytes of audio that may wait for the end of a chunk before they are written."""
_MAX_PENDING_PACKETS = 1 << 14
"""Audio packets that may wait for the end of a chunk before they are written."""
_MAX_PACKET_BYTES = MAX_AUDIO_BYTES // 2
"""The largest audio packet in bytes, so that it fits into a record together with those that wait."""
_FRAMES_AHEAD = 16
"""Frames and audio packets that are read ahead of the model."""
_Item: TypeAlias = "PackedChunk | list[AudioPacket]"
"""The content of one record after the header: a chunk, or audio packets."""


@dataclass(frozen=True)
class EncodeSummary:
    """What `encode_video` wrote."""

    frames: int
    """The number of frames."""
    bytes_written: int
    """The size of the file in bytes."""
    audio_bytes: int
    """The size of the audio records in bytes."""
    coder: str
    """The name of the coder: the one that was asked for, or the next one that can pack such tokens."""
    failure: InputError | None
    """The error that ended the input early, or None. The file is valid in either case and holds all frames before the
    error."""


class GopEncoder:
    """Encodes and packs the chunks of one GOP in order. It holds the state of the model and of the coder.

    Args:
        tokenizer: The model.
        header: The header of the file.
        coder: What packs the digits.
        settings: What the user chose.
        distortion: What refined digits make small; None if the effort refines none.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        header: Header,
        coder: ChosenCoder,
        settings: EncodeSettings,
        distortion: Distortion | None,
    ) -> None:
        self._tokenizer = tokenizer
        self._tokens_per_position = header.tokens_per_position
        self._settings = settings
        self._packer = GopPacker(header, coder)
        self._state: State = None
        effort = find_effort(settings.effort)
        self._refiner = Refiner(tokenizer, effort, settings.rdo, distortion) if distortion else None
        self._onedva_state: OneDVAState | None = None

    def code(self, chunk: FrameChunk) -> PackedChunk:
        """Encode and pack the next chunk of the GOP."""
        pixels = np.stack([frame.pixels for frame in chunk.frames])
        pts, last_duration = tuple(frame.pts for frame in chunk.frames), chunk.frames[-1].duration
        count, settings = self._tokens_per_position, self._settings
        onedva = self._tokenizer.onedva
        if onedva:
            values, self._state = self._tokenizer.encode_values(pixels, self._tokenizer.max_tokens, self._state)
            packed = self._packed(chunk.gop, pts, last_duration, values[: onedva.per_token])
            lengths = onedva.chosen_lengths(settings.window_tokens)
            tokens, self._onedva_state = onedva.encode(
                values, packed.digits, pixels, lengths, settings.rdo, self._onedva_state
            )
            return replace(packed, window_tokens=tokens)
        if self._refiner:
            values, self._state = self._tokenizer.encode_values(pixels, count, self._state)
            digits = self._refiner.refined(values, pixels, self._packer.tried)
            return self._packer.pack(CodedChunk(chunk.gop, pts, last_duration, digits))
        if settings.rdo and self._packer.chooses:
            values, self._state = self._tokenizer.encode_values(pixels, count, self._state)
            return self._packed(chunk.gop, pts, last_duration, values)
        digits, self._state = self._tokenizer.encode(pixels, count, self._state, settings.stickiness)
        return self._packer.pack(CodedChunk(chunk.gop, pts, last_duration, digits))

    def _packed(self, gop: int, pts: tuple[int, ...], last_duration: int, values: Values) -> PackedChunk:
        """Choose the digits of a chunk by rate and error, if the coder can, or else round them; and pack them."""
        if self._settings.rdo and self._packer.chooses:
            return self._packer.choose(gop, pts, last_duration, values, self._settings.rdo)
        return self._packer.pack(CodedChunk(gop, pts, last_duration, self._packer.rounded(values)))


def encode_video(
    info: VideoInfo,
    events: Iterable[Frame | AudioPacket],
    tokenizer: Tokenizer,
    settings: EncodeSettings,
    stream: BinaryIO,
    on_frames: Callable[[int], None] = lambda count: None,
    ends: Callable[[], bool] = lambda: False,
) -> EncodeSummary:
    """Encode a whole video to a `.vtk` file.

    Frames are read ahead of the model, and several GOPs may be coded at once.

    Args:
        info: The description of the video.
        events: The frames and audio packets in the order of the input.
        tokenizer: The model that makes the tokens.
        settings: What the user chose.
        stream: Where to write the file.
        on_frames: Called for each written chunk with its number of frames.
        ends: Returns whether the video shall end before its next frame, as a live one does when its viewer goes.

    Returns:
        What was written. An `InputError` that `events` raises is reported there, and is not raised again.

    Raises:
        SettingError, InputError: See `make_header`; or the input breaks off before its first frame.
        ModelError: The tune needs a network that is not there.
    """
    windows = tokenizer.onedva.header if tokenizer.onedva else None
    if tokenizer.onedva:
        tokenizer.onedva.chosen_lengths(settings.window_tokens)
    header = make_header(info, tokenizer.id, tokenizer.max_tokens, settings, tokenizer.prior, windows)
    refines = find_effort(settings.effort).steps > 0
    distortion = make_distortion(find_tune(settings.tune), tokenizer.placement) if refines else None
    coder = chosen_coder(header, settings.coder, tokenizer.prior)
    writer = VtkWriter(stream, header)
    parts = -(-header.gop_latents // header.chunk_latents)
    refining = refining_bytes_per_pixel(tokenizer) if refines else 0
    lanes = plan_lanes(header, tokenizer.bytes_per_pixel + refining, tokenizer.lanes, parts)
    frames = 0
    failure: list[InputError] = []
    with Prefetch(events, _FRAMES_AHEAD, ends) as ready:
        jobs = _jobs(ready, tokenizer, header, coder, settings, distortion, failure)
        coded: Generator[_Item] = run_in_lanes(jobs, lanes)
        with closing(coded):
            for item in coded:
                if isinstance(item, PackedChunk):
                    item.write(writer)
                    frames += item.frames
                    on_frames(item.frames)
                else:
                    writer.write_audio(item)
    if not frames:
        raise failure[0] if failure else InputError("the input ended before its first frame")
    writer.finish()
    broken = failure[0] if failure else None
    return EncodeSummary(frames, writer.bytes_written, writer.audio_bytes, coder.spec.name, broken)


def _jobs(
    events: Iterable[Frame | AudioPacket],
    tokenizer: Tokenizer,
    header: Header,
    coder: ChosenCoder,
    settings: EncodeSettings,
    distortion: Distortion | None,
    failure: list[InputError],
) -> Iterator[Job[_Item] | _Item]:
    """Yield a job for each chunk, and audio packets unchanged. An error of the input is appended to `failure`."""
    gop: GopEncoder | None = None
    for part in _parts(events, header, failure):
        if isinstance(part, FrameChunk):
            if part.starts_gop or gop is None:
                gop = GopEncoder(tokenizer, header, coder, settings, distortion)
            yield Job(part.starts_gop, partial(gop.code, part))
        else:
            yield part


def _parts(
    events: Iterable[Frame | AudioPacket], header: Header, failure: list[InputError]
) -> Iterator[FrameChunk | list[AudioPacket]]:
    """Yield chunks of frames, each after the audio packets that came before its last frame."""
    chunker = Chunker(header)
    audio: list[AudioPacket] = []
    pending_bytes = 0
    try:
        for event in events:
            if isinstance(event, AudioPacket):
                if len(event.data) > _MAX_PACKET_BYTES:
                    raise InputError(
                        f"an audio packet of {len(event.data)} bytes is larger than a .vtk file can hold; "
                        "encode the sound anew first, or leave it out (--no-audio)"
                    )
                audio.append(event)
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
