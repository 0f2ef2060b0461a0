"""Encodes a video to continuous latents, which are what tokens are before they are rounded, and decodes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray

from vtok_codec.audio import AudioPacket
from vtok_codec.codec.slices import latents_at_once, slices
from vtok_codec.codec.tokenizer import MAX_LATENT, Tokenizer, to_pixels
from vtok_codec.errors import InputError
from vtok_codec.media.types import Frame, Pixels, VideoInfo
from vtok_codec.models.causal import State
from vtok_codec.models.precision import plain_types
from vtok_codec.stream.chunks import Chunker, FrameChunk
from vtok_codec.stream.headers import make_header
from vtok_codec.stream.settings import EncodeSettings
from vtok_codec.stream.steadiness import Steadiness
from vtok_codec.tokens.codes import values_to_codes

Latents: TypeAlias = NDArray[np.float32]
"""Latents of the shape `C t h w`, mostly in [−1, 1]; see `vtok_codec.codec.batches.encode_latents`."""


@dataclass(frozen=True)
class LatentChunk:
    """The latents of a chunk."""

    latents: Latents
    """The latents, float32 `C t h w`."""
    frames: int
    """The number of frames that they stand for."""
    starts_gop: bool
    """Whether the chunk is the first of its GOP."""


def latent_chunks(
    info: VideoInfo, events: Iterable[Frame | AudioPacket], tokenizer: Tokenizer, settings: EncodeSettings
) -> Iterator[LatentChunk]:
    """Encode a video, one GOP after another.

    Args:
        info: The description of the video.
        events: The frames in order; audio packets are passed over.
        tokenizer: The model.
        settings: How long GOPs are, and how many tokens' channels to keep; its other fields do not matter.

    Raises:
        SettingError, InputError: See `make_header`; or an error of `events`.
    """
    chunker = Chunker(make_header(info, tokenizer.id, tokenizer.max_tokens, settings))
    state: State = None
    for chunk in _frame_chunks(chunker, events):
        pixels = np.stack([frame.pixels for frame in chunk.frames])
        before = None if chunk.starts_gop else state
        values, state = tokenizer.encode_values(pixels, settings.tokens_per_position, before)
        yield LatentChunk(values_to_codes(values, tokenizer.id.levels), len(chunk.frames), chunk.starts_gop)


@dataclass(frozen=True)
class LatentVideo:
    """The latents of a whole video."""

    latents: NDArray[np.floating]
    """The latents of all GOPs, one after another, `C t h w`."""
    gop_latents: Sequence[int]
    """The number of latent frames of each GOP."""
    gop_frames: Sequence[int]
    """The number of frames that each GOP stands for."""
    steady: bool
    """Whether the frames follow each other at the nominal rate. Latents have no times, so others lose theirs."""
    failure: InputError | None
    """The error that ended the input early, after which there are no more frames; None if it is whole."""


def encoded_latents(
    info: VideoInfo,
    events: Iterable[Frame | AudioPacket],
    tokenizer: Tokenizer,
    settings: EncodeSettings,
    kind: type[np.floating],
    max_bytes: int,
    on_frames: Callable[[int], object] = lambda count: None,
) -> LatentVideo:
    """Encode a whole video to latents.

    Args:
        info: See `latent_chunks`.
        events: See `latent_chunks`.
        tokenizer: See `latent_chunks`.
        settings: See `latent_chunks`.
        kind: The type of the latents to return.
        max_bytes: The largest size of the latents in bytes.
        on_frames: Called with the number of frames of each chunk.

    Raises:
        SettingError, InputError: See `latent_chunks`; or the latents are too large, or there is no frame.
    """
    steadiness = Steadiness(make_header(info, tokenizer.id, tokenizer.max_tokens, settings).frame_ticks)

    def timed() -> Iterator[Frame | AudioPacket]:
        for event in events:
            if isinstance(event, Frame):
                steadiness.add([event.pts])
            yield event

    parts: list[NDArray[np.floating]] = []
    latents: list[int] = []
    frames: list[int] = []
    failure, held = None, 0
    try:
        for chunk in latent_chunks(info, timed(), tokenizer, settings):
            parts.append(chunk.latents.astype(kind))
            held += parts[-1].nbytes
            if held > max_bytes:
                break
            if chunk.starts_gop:
                latents.append(0)
                frames.append(0)
            latents[-1] += parts[-1].shape[1]
            frames[-1] += chunk.frames
            on_frames(chunk.frames)
    except InputError as error:
        if not parts:
            raise
        failure = error
    if not parts:
        raise InputError("there are no frames")
    if held > max_bytes:
        raise InputError("the latents take more memory than allowed; raise the limit (--max-mib)")
    return LatentVideo(np.concatenate(parts, axis=1), latents, frames, steadiness.steady, failure)


def decoded_video(
    gops: Iterable[tuple[NDArray[np.floating], int | None]], tokenizer: Tokenizer, size: tuple[int, int]
) -> Iterator[Pixels]:
    """Decode the latents of a video.

    Args:
        gops: The latents of each GOP, floats `C t h w`, and the number of frames that they stand for; None for as many
            as they can stand for.
        tokenizer: The model.
        size: The height and width of the video.

    Yields:
        Its frames, uint8 RGB `T H W 3` at a time.

    Raises:
        InputError: See `decoded_latents`; or latents cannot stand for so many frames or for pictures of this size.
    """
    layout = tokenizer.layout
    for latents, frames in gops:
        if layout.grid(*size) != latents.shape[2:]:
            raise InputError(
                f"a size of {size[0]}x{size[1]} (height x width) does not fit latents of {latents.shape[2:]} positions"
            )
        shown = decoded_latents(latents, tokenizer, size)
        left = layout.frames(latents.shape[1], first=True) if frames is None else frames
        if not layout.holds(latents.shape[1], left):
            most = layout.frames(latents.shape[1], first=True)
            raise InputError(f"{latents.shape[1]} latent frames stand for {most} frames, not {left}")
        for pixels in shown:
            yield pixels[:left]
            left -= min(left, len(pixels))


def decoded_latents(latents: NDArray[np.floating], tokenizer: Tokenizer, size: tuple[int, int]) -> Iterator[Pixels]:
    """Decode the latents of a GOP, slice by slice.

    Args:
        latents: The latents of the first tokens, floats `C t h w`.
        tokenizer: The model.
        size: The height and width of the video.

    Returns:
        The frames of each slice, uint8 RGB `T H W 3`; together, as many as the latents can stand for.

    Raises:
        InputError: The latents have another number of channels than any number of tokens, or too few latent frames, or
            one is not finite.
    """
    tokenizer.check_process()
    layout, per_token = tokenizer.layout, len(tokenizer.id.levels)
    tokens, rest = divmod(len(latents), per_token)
    if rest or not 1 <= tokens <= tokenizer.max_tokens or latents.shape[1] < layout.phases:
        raise InputError(
            f"latents of {tokenizer.id.name} have {per_token} channels for each of 1 to {tokenizer.max_tokens} tokens "
            f"and at least {layout.phases} latent frames, not {latents.shape[0]} channels of {latents.shape[1]}"
        )
    with np.errstate(over="ignore"):
        latents = latents.astype(np.float32)
    if not (np.abs(latents) <= MAX_LATENT).all():
        raise InputError(f"a latent is not a number from −{MAX_LATENT:g} to {MAX_LATENT:g}")
    return _decoded(latents, tokens, tokenizer, size)


@torch.inference_mode()
def _decoded(latents: Latents, tokens: int, tokenizer: Tokenizer, size: tuple[int, int]) -> Iterator[Pixels]:
    layout, place = tokenizer.layout, tokenizer.placement
    counts, state = torch.full((1,), tokens, device=place.device), cast(State, None)
    for part, _ in slices(latents, layout, True, latents_at_once(place.device.type, size)):
        skipped = layout.filled_frames(state is None)
        codes = torch.from_numpy(np.ascontiguousarray(part))[None].to(place.device, place.dtype)
        with plain_types():
            video, state = tokenizer.model.decoder(tokenizer.model.whole(codes), state, counts)
        yield to_pixels(video[0], size)[skipped:]


def _frame_chunks(chunker: Chunker, events: Iterable[Frame | AudioPacket]) -> Iterator[FrameChunk]:
    """Yield the chunks of all frames, those before an error of the input as well."""
    failure: InputError | None = None
    try:
        for event in events:
            if isinstance(event, Frame) and (chunk := chunker.push(event)) is not None:
                yield chunk
    except InputError as error:
        failure = error
    if (last := chunker.flush()) is not None:
        yield last
    if failure:
        raise failure
