"""FD-codec: a Fréchet distance in the features of a codec's own encoder, which every install has.

It answers the same question as FVD (`vtok_codec.evaluation.fvd`): do two sets of videos look alike as sets? Its figures
cannot be compared with those of FVD, nor with those of another codec's encoder.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vtok_codec.codec.tokenizer import Tokenizer
from vtok_codec.evaluation.frechet import Features, frechet_distance
from vtok_codec.media.types import Pixels

_TILES_AT_ONCE = 16
TILE = 64
"""The height and width in pixels of the parts that videos are cut into, so that few clips give many samples."""
FRAMES = 17
"""The number of frames of a part."""


class CodecFeatures:
    """Computes the features of videos with the encoder of a codec. See `FeatureNetwork`.

    Args:
        tokenizer: The codec.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.name = "FD-codec"
        self.identity = tokenizer.id.weights_sha256
        self._tokenizer = tokenizer

    @torch.inference_mode()
    def features(self, frames: Sequence[Pixels]) -> list[Features]:
        """Compute the features of all parts of a video.

        Each part gives the mean and the standard deviation of every latent channel, and its mean absolute change from
        one latent frame to the next.

        Args:
            frames: The frames, uint8 RGB `H W 3`.

        Returns:
            A vector for each whole part of `FRAMES` frames and `TILE` rows and columns; what is left at the borders and
            at the end is not used.
        """
        starts = range(0, len(frames) - FRAMES + 1, FRAMES)
        return [vector for start in starts for vector in self._of(np.stack(frames[start : start + FRAMES]))]

    def _of(self, frames: Pixels) -> list[Features]:
        """Return a vector for each tile of `FRAMES` frames, `T H W 3`."""
        rows, columns = frames.shape[1] // TILE, frames.shape[2] // TILE
        if not rows * columns:
            return []
        cut = torch.from_numpy(frames[:, : rows * TILE, : columns * TILE])
        tiles = cut.view(FRAMES, rows, TILE, columns, TILE, 3).permute(1, 3, 5, 0, 2, 4).flatten(0, 1)
        # A few at a time, so that memory does not grow with the picture.
        return [vector for some in tiles.split(_TILES_AT_ONCE) for vector in self._of_tiles(some)]

    def _of_tiles(self, tiles: Tensor) -> list[Features]:
        """Return a vector for each tile, uint8 `B 3 T H W`."""
        video = tiles.float() / 127.5 - 1
        repeated, place = self._tokenizer.layout.repeated_frames, self._tokenizer.placement
        video = torch.cat([video[:, :, :1].expand(-1, -1, repeated, -1, -1), video], dim=2)
        values: Tensor = self._tokenizer.model.encode_values(video.to(place.device, place.dtype), None)[0]
        values = values.double().cpu()
        change = values.diff(dim=2).abs().mean((2, 3, 4))
        vectors = torch.cat([values.mean((2, 3, 4)), values.std((2, 3, 4)), change], 1)
        return list(vectors.numpy())


def fd_codec(tokenizer: Tokenizer, real: Sequence[Pixels], made: Sequence[Pixels]) -> float:
    """Compute FD-codec between two sets of videos.

    Args:
        tokenizer: The codec whose encoder gives the features.
        real: Videos, `T H W 3` each.
        made: The videos to compare them with.

    Raises:
        ValueError: A set has fewer than two parts.
    """
    network = CodecFeatures(tokenizer)
    sets = [[vector for frames in videos for vector in network.features(list(frames))] for videos in (real, made)]
    distance = frechet_distance(*sets)
    if distance is None:
        raise ValueError(f"FD-codec needs two parts of {FRAMES}x{TILE}x{TILE} in each set")
    return distance
