"""Pictures that show held-out clips and how a codec reconstructs them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vtok_codec.media.types import Pixels
from vtok_codec.models.onevae import OneVAE
from vtok_codec.training.codec.validation import decode_codes
from vtok_codec.training.data.held_out import filled_clip
from vtok_codec.training.pictures import last_frames


@torch.inference_mode()
def reconstruction_strip(model: OneVAE, clips: Sequence[Tensor], counts: Sequence[int]) -> Pixels:
    """Draw one row per clip: its last frame, then the same frame decoded from each number of tokens.

    Args:
        model: The codec.
        clips: Clips, each `3 T H W` in [−1, 1].
        counts: The numbers of tokens to decode.

    Returns:
        An RGB picture, `H W 3`, uint8.
    """
    rows = []
    for clip in clips:
        video = filled_clip(clip[None], model.config.layout).to(model.device)
        codes = model.quantizer.quantize(model.encoder(video, None)[0]).codes
        rows.append([video, *(decode_codes(model, codes, count) for count in counts)])
    return last_frames(rows)
