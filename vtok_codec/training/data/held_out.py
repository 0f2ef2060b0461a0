"""Held-out clips on which a run measures its progress."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vtok_codec.errors import TrainingError
from vtok_codec.layout import GopLayout
from vtok_codec.media.formats import is_video_name
from vtok_codec.media.reader import read_pixels
from vtok_codec.media.types import Pixels

_FRAMES = 17
"""The number of frames to load of each clip."""
_SIDE = 256
"""The largest height and width of a clip in pixels."""


def validation_clips(folder: Path, limit: int, layout: GopLayout) -> list[Tensor]:
    """Load up to `limit` clips of a folder, evenly spread over its files.

    Args:
        folder: The folder of held-out clips.
        limit: The largest number of clips.
        layout: The layout of the model. The height and width of the clips are made multiples of its stride.

    Returns:
        The first 17 frames of each clip, cropped to at most 256×256 around the centre: `3 T H W` in [−1, 1].

    Raises:
        TrainingError: The folder does not exist or holds no video, or a clip is too small.
        InputError: A clip cannot be read.
    """
    if not folder.is_dir():
        raise TrainingError(f"{folder} is not a folder; name one with held-out clips")
    paths = sorted(path for path in folder.iterdir() if is_video_name(path.name))
    if not paths:
        raise TrainingError(f"there is no video in {folder}; name a folder of held-out clips")
    count = min(limit, len(paths))
    chosen = [paths[number * len(paths) // count] for number in range(count)]
    return [_load(path, layout) for path in chosen]


def _load(path: Path, layout: GopLayout) -> Tensor:
    frames = torch.from_numpy(read_pixels(path, _FRAMES)).permute(3, 0, 1, 2).float() / 127.5 - 1
    height, width = (
        min(_SIDE, size) // step * step for size, step in zip(frames.shape[2:], layout.stride[1:], strict=True)
    )
    if not height or not width:
        raise TrainingError(f"{path} is smaller than one latent position of the model; leave it out of the folder")
    top, left = (frames.shape[2] - height) // 2, (frames.shape[3] - width) // 2
    return frames[:, :, top : top + height, left : left + width]


def filled_clip(video: Tensor, layout: GopLayout) -> Tensor:
    """Repeat the first frame of videos `B C T H W` as at the start of a GOP, and cut them to whole latent frames."""
    padded = torch.cat([video[:, :, :1].expand(-1, -1, layout.repeated_frames, -1, -1), video], dim=2)
    return padded[:, :, : layout.whole_frames(padded.shape[2])]


def as_pixels(clip: Tensor) -> Pixels:
    """Return a held-out clip, `3 T H W` in [−1, 1], as pixels `T H W 3`."""
    pixels = ((clip + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0)
    return np.ascontiguousarray(pixels.numpy())
