"""Windows of One-DVA: how a latent grid is cut into them and joined again, and how much moves in each.

A *group* is a number of time steps of the latent grid; all windows of a video span the same groups.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from vtok_codec.models.config import OneDVAConfig


def group_ends(latents: int, phases: int, steps: int) -> list[int]:
    """Return the end of each group among the latent frames of a GOP.

    Args:
        latents: The number of latent frames.
        phases: The number of latent frames that hold the first frame.
        steps: The time steps that a group spans at most.
    """
    return [*range(phases - 1 + steps, latents, steps), latents]


def window_grid(config: OneDVAConfig, rows: int, columns: int) -> tuple[int, int]:
    """Return the rows and columns of windows that a latent grid has."""
    return -(-rows // config.window_rows), -(-columns // config.window_columns)


def cut_windows(x: Tensor, config: OneDVAConfig, margin: int) -> Tensor:
    """Cut features `B T h w C` into windows with a margin, `B·n T r c C`, row by row; they are 0 outside."""
    down, right = window_grid(config, *x.shape[2:4])
    rows, columns = config.window_rows, config.window_columns
    below, beside = down * rows - x.shape[2], right * columns - x.shape[3]
    padded = F.pad(x, (0, 0, margin, margin + beside, margin, margin + below))
    cut = padded.unfold(2, rows + 2 * margin, rows).unfold(3, columns + 2 * margin, columns)
    return cut.permute(0, 2, 3, 1, 5, 6, 4).flatten(0, 2)


def join_windows(x: Tensor, shape: tuple[int, int, int], config: OneDVAConfig, margin: int) -> Tensor:
    """Join windows `B·n T r c C` without their margins to features `B T h w C`, given B, h and w."""
    batch, rows, columns = shape
    down, right = window_grid(config, rows, columns)
    inner = x[:, :, margin : x.shape[2] - margin, margin : x.shape[3] - margin]
    joined = inner.unflatten(0, (batch, down, right)).permute(0, 3, 1, 4, 2, 5, 6).flatten(4, 5).flatten(2, 3)
    return joined[:, :, :rows, :columns]


def window_motion(video: Tensor, config: OneDVAConfig) -> Tensor:
    """Return the mean absolute change of grey from frame to frame in each window (One-DVA, appendix A).

    Args:
        video: The frames of a group, `B 3 T H W` in [−1, 1]; H and W are multiples of the codec's stride.
        config: The configuration of the model.

    Returns:
        fp32 `B·n`, for the n windows of each sample, row by row.
    """
    _, below, beside = config.codec.stride
    size = config.window_rows * below, config.window_columns * beside
    grey = video.float().mean(1)
    change = (grey[:, 1:] - grey[:, :-1]).abs().mean(1, keepdim=True) if video.shape[2] > 1 else 0 * grey[:, :1]
    return F.avg_pool2d(change, size, ceil_mode=True).flatten()
