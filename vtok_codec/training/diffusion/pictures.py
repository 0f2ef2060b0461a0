"""Pictures that show held-out clips and how a diffusion decoder reconstructs them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vtok_codec.media.types import Pixels
from vtok_codec.models.denoiser import Denoiser
from vtok_codec.models.onevae import OneVAE
from vtok_codec.training.diffusion.validation import denoised
from vtok_codec.training.pictures import last_frames


@torch.inference_mode()
def denoising_strip(model: Denoiser, codec: OneVAE, clips: Sequence[Tensor]) -> Pixels:
    """Draw one row per clip: its last frame, and the same frame decoded from one token in three ways.

    The frame is decoded by the codec's own decoder, and by the diffusion decoder in one step and in two steps.

    Args:
        model: The diffusion decoder.
        codec: The codec whose tokens it decodes.
        clips: Clips, each `3 T H W` in [−1, 1].

    Returns:
        An RGB picture, `H W 3`, uint8.
    """
    rows = []
    for number, clip in enumerate(clips):
        source, made = denoised(model, codec, clip, number, [1])
        rows.append([source, *made.values()])
    return last_frames(rows)
