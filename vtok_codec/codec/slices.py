"""How a chunk is cut into slices that go through a model one after another.

The codec's own digits and pixels depend on no cut; those of a diffusion decoder do, in bf16, by a few of 255 levels.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from vtok_codec.container.header import ModelId
from vtok_codec.tokens.radix import Digits

SLICE_LATENTS = 4
"""Latent frames that are decoded before their pictures are handed on, so that memory follows a frame's size only."""

_CPU_LATENTS = 2
_CPU_PIXELS = 1 << 20


def latents_at_once(device: torch.device, size: tuple[int, int]) -> int:
    """Latent frames of pictures of height and width `size` that go through a network at once.

    A CPU codes two as fast as four, in 75 to 90 % of a command's memory; one, up to 854×480, takes 3 to 15 % longer,
    but from 1280×720 on no longer than four, again in 75 to 90 % of the memory
    (single runs by a script that is not kept). A GPU wants more work at once.
    """
    if device.type != "cpu":
        return SLICE_LATENTS
    height, width = size
    return max(1, min(_CPU_LATENTS, _CPU_PIXELS // (height * width)))


def slices(digits: Digits, model: ModelId, fresh: bool, latents: int = SLICE_LATENTS) -> Iterator[tuple[Digits, int]]:
    """Digits `P t h w` by so many latent frames, each slice with the number of frames that it stands for.

    They start a GOP if they are `fresh`.
    """
    stride, begin = model.stride[0], 0
    while begin < digits.shape[1]:
        extra = model.extra_phases if fresh else 0
        part = digits[:, begin : begin + latents + extra]
        yield part, (part.shape[1] - extra) * stride - (stride - 1 if fresh else 0)
        begin += part.shape[1]
        fresh = False
