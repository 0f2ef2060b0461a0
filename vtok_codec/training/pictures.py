"""Pictures of training progress: rows of frames side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vtok_codec.media.types import Pixels


def last_frames(videos: Sequence[Sequence[Tensor]]) -> Pixels:
    """Draw the last frame of each video, in rows and columns.

    Args:
        videos: Rows of videos, each `1 3 T H W` in [−1, 1]. All videos of a row have the same size.

    Returns:
        An RGB picture, `H W 3`, uint8.
    """
    rows = [torch.cat([video[0, :, -1].float().cpu() for video in row], dim=2) for row in videos]
    height, width = (max(row.shape[axis] for row in rows) for axis in (1, 2))
    padded = [torch.nn.functional.pad(row, (0, width - row.shape[2], 0, height - row.shape[1])) for row in rows]
    picture = torch.cat(padded, dim=1).clamp(-1, 1).permute(1, 2, 0)
    return np.ascontiguousarray(((picture + 1) * 127.5).round().to(torch.uint8).numpy())
