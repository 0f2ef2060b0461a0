"""First-frame enhancement: the first latent frame of a GOP on a finer grid (OneVAE, section 3.2, Fig. 3c).

A causal model knows the least of its first frame, and all later ones lean on it. So the first latent frame leaves the
encoder before the last downsampling, with `fh·fw` times the positions, and enters the decoder both where its grid
belongs and, downsampled, at the latent grid, so that the frames after it see it there. The paper speaks of an unchanged
token budget; as here, its first frame takes `fh·fw` times the tokens of a later latent frame: four times at 4×16×16,
which adds 12 % to a GOP of 100 frames.

On its way between them the fine frame is kept as `fh·fw` latent frames of the usual grid, its *phases*: phase
`r·fw + c` holds the positions `(fh·i + r, fw·j + c)`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtok_codec.models.blocks import FrameBlock, Unshuffle
from vtok_codec.models.causal import Factor, FrameConv, PositionNorm, shuffle, unshuffle, zero_init

_RGB = 3
_ENCODER_BLOCKS = 1
_DECODER_BLOCKS = 2


def to_phases(fine: Tensor, grid: tuple[int, int]) -> Tensor:
    """One fine latent frame `B C 1 fh·h fw·w` → its phases `B C fh·fw h w`."""
    return unshuffle(fine, (1, *grid)).unflatten(1, (fine.shape[1], -1)).squeeze(3)


def from_phases(phases: Tensor, grid: tuple[int, int]) -> Tensor:
    """The inverse of `to_phases`."""
    return shuffle(phases.flatten(1, 2)[:, :, None], (1, *grid))


class FirstFrameEncoder(nn.Module):
    """The first frame's own way to its latents, from the features of the level above the latent grid."""

    def __init__(self, channels: int, latent_channels: int, stride: Factor, grid: tuple[int, int]) -> None:
        """`stride`: of the latent grid; `grid`: fh and fw, rows and columns of the fine grid for one of that."""
        super().__init__()
        self.grid = grid
        self.stride = fine_stride(stride, grid)
        self.blocks = nn.Sequential(*(FrameBlock(channels) for _ in range(_ENCODER_BLOCKS)))
        self.norm = PositionNorm(channels)
        self.out = FrameConv(channels, latent_channels, kernel=1)
        zero_init(self.out)
        self.linear = FrameConv(_RGB * math.prod(self.stride), latent_channels, kernel=1)

    def forward(self, video: Tensor, features: Tensor) -> Tensor:
        """The frames `B 3 st H W` of the first latent frame and their features `B C 1 fh·h fw·w` → its phases."""
        refined = self.out(F.silu(self.norm(self.blocks(features))))
        return to_phases(self.linear(unshuffle(video, self.stride)) + refined, self.grid)


class FirstFrameDecoder(nn.Module):
    """The way back: to the level above the latent grid, to the latent grid, and straight to pixels."""

    def __init__(
        self, latent_channels: int, max_tokens: int, channels: tuple[int, int], stride: Factor, grid: tuple[int, int]
    ) -> None:
        """`channels`: of the level above the latent grid, and at the latent grid."""
        super().__init__()
        fine, coarse = channels
        self.grid = grid
        self.stride = fine_stride(stride, grid)
        self.enter = FrameConv(latent_channels, fine, kernel=1)
        self.count_bias = nn.Parameter(torch.zeros(max_tokens, fine))
        self.blocks = nn.Sequential(*(FrameBlock(fine) for _ in range(_DECODER_BLOCKS)))
        self.down = Unshuffle(fine, coarse, (1, *grid))
        self.linear = FrameConv(latent_channels, _RGB * math.prod(self.stride), kernel=1)

    def forward(self, phases: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Phases `B (N·d) fh·fw h w`, of which `counts` tokens are read → features `B C 1 fh·h fw·w` of the finer
        level, features `B C 1 h w` at the latent grid, and the linear path's pixels `B 3 st H W`."""
        codes = from_phases(phases, self.grid)
        features = self.enter(codes)
        bias = self.count_bias[counts - 1].to(features.dtype)
        features = self.blocks(features + bias[:, :, None, None, None])
        return features, self.down(features), shuffle(self.linear(codes), self.stride)


def fine_stride(stride: Factor, grid: tuple[int, int]) -> Factor:
    """What a position of the fine grid stands for."""
    return stride[0], stride[1] // grid[0], stride[2] // grid[1]
