"""Encodes a video to continuous latents, chunk by chunk: what tokens are before they are rounded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vtok_codec.codec.tokenizer import Tokenizer
from vtok_codec.media.types import AudioPacket, Frame, VideoInfo
from vtok_codec.models.causal import State
from vtok_codec.stream.chunks import Chunker, FrameChunk
from vtok_codec.stream.settings import EncodeSettings, make_header

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
    zero = np.asarray(tokenizer.id.levels * settings.tokens_per_position).reshape(-1, 1, 1, 1) // 2
    state: State = None
    for chunk in _frame_chunks(chunker, events):
        pixels = np.stack([frame.pixels for frame in chunk.frames])
        before = None if chunk.starts_gop else state
        values, state = tokenizer.encode_values(pixels, settings.tokens_per_position, before)
        yield LatentChunk((values / zero - 1).astype(np.float32), len(chunk.frames), chunk.starts_gop)


def _frame_chunks(chunker: Chunker, events: Iterable[Frame | AudioPacket]) -> Iterator[FrameChunk]:
    for event in events:
        if isinstance(event, Frame) and (chunk := chunker.push(event)) is not None:
            yield chunk
    if (last := chunker.flush()) is not None:
        yield last
