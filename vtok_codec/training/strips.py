"""Pictures of how training goes: source and reconstructions side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vtok_codec.media.types import Pixels
from vtok_codec.models.denoiser import Denoiser
from vtok_codec.models.onevae import OneVAE
from vtok_codec.training.validation import decode_codes, denoised, whole_latents


@torch.inference_mode()
def reconstruction_strip(model: OneVAE, clips: Sequence[Tensor], counts: Sequence[int]) -> Pixels:
    """One row a clip: its last frame, then the same from each number of tokens."""
    rows = []
    for clip in clips:
        video = whole_latents(clip[None], model.config.stride[0]).to(model.device)
        codes = model.quantizer.quantize(model.encoder(video, None)[0]).codes
        rows.append([video, *(decode_codes(model, codes, count) for count in counts)])
    return _last_frames(rows)


@torch.inference_mode()
def denoising_strip(model: Denoiser, codec: OneVAE, clips: Sequence[Tensor]) -> Pixels:
    """One row a clip: its last frame, the same from one token by the codec's own decoder, by one step, and by as many
    as the objective is usually decoded with."""
    rows = []
    for number, clip in enumerate(clips):
        source, made = denoised(model, codec, clip, number, [1])
        rows.append([source, *made.values()])
    return _last_frames(rows)


def _last_frames(videos: Sequence[Sequence[Tensor]]) -> Pixels:
    """The last frames of videos `1 3 T H W` in [−1, 1], in rows and columns."""
    rows = [torch.cat([video[0, :, -1].float().cpu() for video in row], dim=2) for row in videos]
    height, width = (max(row.shape[axis] for row in rows) for axis in (1, 2))
    padded = [torch.nn.functional.pad(row, (0, width - row.shape[2], 0, height - row.shape[1])) for row in rows]
    picture = torch.cat(padded, dim=1).clamp(-1, 1).permute(1, 2, 0)
    return np.ascontiguousarray(((picture + 1) * 127.5).round().to(torch.uint8).numpy())
