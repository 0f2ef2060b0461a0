"""Quick measures of a few held-out frames during training: PSNR and LPIPS. `vtok eval` measures whole files."""

from __future__ import annotations

import torch
from torch import Tensor

from vtok_codec.metrics.lpips import LPIPS, grown

_LPIPS_EVERY = 4
"""LPIPS is measured on one of this many frames, to save time."""


def to_levels(video: Tensor) -> Tensor:
    """Round video in [−1, 1] to whole levels from 0 to 255, returned as floating-point numbers."""
    return ((video.clamp(-1, 1) + 1) * 127.5).round()


def psnr_db(output: Tensor, source: Tensor) -> float:
    """Return the PSNR in dB of videos with levels from 0 to 255."""
    return float(10 * torch.log10(255**2 / (output - source).square().mean()))


def mean_lpips(lpips: LPIPS, output: Tensor, source: Tensor) -> float:
    """Return the mean LPIPS over every fourth frame of videos `1 3 T H W` with levels from 0 to 255."""
    pair = [grown(video[0, :, ::_LPIPS_EVERY].transpose(0, 1) / 127.5 - 1).contiguous() for video in (source, output)]
    return float(lpips(*pair).mean())
