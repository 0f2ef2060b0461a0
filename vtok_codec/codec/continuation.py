"""Goes on with the groups of pictures of a video, or begins one from nothing, with tokens that a generator draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from vtok_codec.codec.drawing import Sampling, TokenDrawer
from vtok_codec.container.header import MAX_GOP_LATENTS
from vtok_codec.errors import InputError
from vtok_codec.stream.assembling import TokenModel
from vtok_codec.stream.reading import Gop
from vtok_codec.text import counted
from vtok_codec.tokens.radix import Tokens


def matched(gops: Sequence[Gop], generator: TokenDrawer) -> list[Gop]:
    """Return GOPs with as many tokens per position as a generator draws.

    Args:
        gops: The GOPs, with at least so many.
        generator: The generator.

    Raises:
        InputError: The GOPs have fewer tokens per position.
    """
    wanted, there = generator.tokens_per_position, gops[0].tokens.shape[3]
    if there < wanted:
        raise InputError(
            f"it has {counted(there, 'token')} per position, and {generator.name} draws {wanted}; encode with "
            f"--tokens {wanted}"
        )
    return [dataclasses.replace(gop, tokens=gop.tokens[..., :wanted]) for gop in gops]


def redrawn_frames(gops: Sequence[Gop], model: TokenModel) -> int:
    """Return how many frames at the end of a video are drawn anew when it is continued.

    These are the frames of a last latent frame that the video does not fill. Its tokens also stand for repetitions of
    the last frame, after which the picture would stand still for a moment.
    """
    last = gops[-1]
    return last.frames - model.id.layout.frames(_filled_latents(last, model), first=True)


def continued(
    gops: Sequence[Gop],
    model: TokenModel,
    generator: TokenDrawer,
    frames: int,
    sampling: Sampling,
    on_frames: Callable[[int], object] = lambda count: None,
) -> list[Gop]:
    """Make the last GOP of a video longer.

    Args:
        gops: The GOPs, with as many tokens per position as the generator draws.
        model: The codec whose tokens they are.
        generator: The generator.
        frames: The number of frames to add.
        sampling: How to draw.
        on_frames: Called for each latent frame with the number of frames that it stands for.

    Returns:
        All GOPs; the last one has more frames, of which the first `redrawn_frames` are not those of the video.
    """
    last, before = gops[-1], [gop.tokens for gop in gops[:-1]]
    kept = last.tokens[: _filled_latents(last, model)]
    return [*gops[:-1], _longer(kept, last.frames + frames, model, generator, sampling, before, on_frames)]


def begun(
    size: tuple[int, int],
    model: TokenModel,
    generator: TokenDrawer,
    frames: int,
    sampling: Sampling,
    on_frames: Callable[[int], object] = lambda count: None,
) -> list[Gop]:
    """Draw a video from nothing, as one GOP.

    Args:
        size: The height and width in pixels.
        model: The codec whose tokens to draw.
        generator: The generator.
        frames: The number of frames.
        sampling: How to draw.
        on_frames: See `continued`.
    """
    nothing = np.zeros((0, *model.id.layout.grid(*size), generator.tokens_per_position), np.uint16)
    return [_longer(nothing, frames, model, generator, sampling, [], on_frames)]


def _filled_latents(gop: Gop, model: TokenModel) -> int:
    """Return how many latent frames of a GOP its frames fill."""
    return len(gop.tokens) - (gop.frames < model.frames(gop.tokens))


def _longer(
    tokens: Tokens,
    frames: int,
    model: TokenModel,
    generator: TokenDrawer,
    sampling: Sampling,
    before: Sequence[Tokens],
    on_frames: Callable[[int], object],
) -> Gop:
    """Return a GOP of `frames` frames that begins with the given latent frames and follows on the GOPs `before`."""
    layout = model.id.layout
    latents, parts = layout.latents(frames, first=True), [tokens]
    if layout.time_steps(latents, first=True) > MAX_GOP_LATENTS:
        most = layout.chunk_frames(MAX_GOP_LATENTS, first=True)
        raise InputError(f"that makes a group of pictures of {frames} frames; at most {most} can be stored")
    for drawn in generator.stream(tokens, latents - len(tokens), sampling, before):
        parts.append(drawn)
        # The phases of the first frame stand for one frame together.
        on_frames(layout.stride[0] if sum(map(len, parts)) > layout.phases else 0)
    return model.gop(np.concatenate(parts), frames)
