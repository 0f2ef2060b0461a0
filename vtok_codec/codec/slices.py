"""Cuts a chunk into slices that go through a model one after another.

The cut changes what a codec model computes by no more than the rounding of fp32, and only where a slice has a single
time step: a few pixels by one of 255 levels. In bf16, it changes the frames of a diffusion decoder by a few levels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from vtok_codec.layout import GopLayout
from vtok_codec.tokens.radix import Digits, Values

Array = TypeVar("Array", Digits, Values)

SLICE_LATENTS = 4
"""Latent time steps per slice. Its frames are given out before the next slice is decoded, to save memory."""

_CPU_LATENTS = 2
"""The most latent time steps that go through a network at once on a CPU."""
_CPU_PIXELS = 1 << 20
"""The most pixels on a CPU, counting one frame for each latent time step that goes through a network at once."""


def latents_at_once(device: str, size: tuple[int, int]) -> int:
    """Choose the number of latent time steps that go through a network at once.

    A CPU is about as fast with few latent time steps as with many, and takes less memory. A GPU needs more work at
    once.

    Args:
        device: The kind of device that the network runs on, such as `cpu`.
        size: The height and width of the video in pixels.
    """
    if device != "cpu":
        return SLICE_LATENTS
    height, width = size
    return max(1, min(_CPU_LATENTS, _CPU_PIXELS // (height * width)))


def slices(digits: Array, layout: GopLayout, first: bool, steps: int = SLICE_LATENTS) -> Iterator[tuple[Array, int]]:
    """Cut digits `P t h w` into slices.

    Args:
        digits: The digits `P t h w` of a chunk or a whole GOP, or other values of them.
        layout: The map between frames and latent frames.
        first: Whether the digits start with the first latent frame of their GOP.
        steps: Latent time steps per slice.

    Yields:
        Each slice, and the number of frames that it stands for.
    """
    begin = 0
    while begin < digits.shape[1]:
        part = digits[:, begin : begin + layout.stored_latents(steps, first)]
        yield part, layout.frames(part.shape[1], first)
        begin += part.shape[1]
        first = False
