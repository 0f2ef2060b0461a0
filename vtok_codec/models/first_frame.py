"""First-frame enhancement: the first latent frame of a GOP has a finer grid (OneVAE, section 3.2, Fig. 3c).

A causal model knows least about the first frame, and all later frames build on it. The first latent frame therefore
leaves the encoder before the last downsampling, with `fh·fw` times as many positions. It enters the decoder at two
levels: at the level of its own grid and, downsampled, at the latent grid, where the later frames can see it.

The first latent frame also takes `fh·fw` times as many tokens as a later one, four times as many at 4×16×16. The same
holds for the paper, although it speaks of an unchanged token budget.

Between the encoder and the decoder, the fine frame is stored as `fh·fw` latent frames of the usual grid, its *phases*:
phase `r·fw + c` holds the positions `(fh·i + r, fw·j + c)` of the fine grid.
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
    """Split a fine latent frame into its phases: `B C 1 fh·h fw·w` → `B C fh·fw h w`.

    Args:
        fine: The latent frame on the fine grid.
        grid: Rows and columns of the fine grid for each row and column of the latent grid, `(fh, fw)`.
    """
    return unshuffle(fine, (1, *grid)).unflatten(1, (fine.shape[1], -1)).squeeze(3)


def from_phases(phases: Tensor, grid: tuple[int, int]) -> Tensor:
    """Join phases to a fine latent frame: `B C fh·fw h w` → `B C 1 fh·h fw·w`, the inverse of `to_phases`.

    Args:
        phases: The phases of a latent frame.
        grid: Rows and columns of the fine grid for each row and column of the latent grid, `(fh, fw)`.
    """
    return shuffle(phases.flatten(1, 2)[:, :, None], (1, *grid))


class FirstFrameEncoder(nn.Module):
    """Encode the first latent frame of a GOP from the features of the level above the latent grid.

    Args:
        channels: Feature channels of the level above the latent grid.
        latent_channels: Latent channels of all tokens of a position, N·d.
        stride: The stride of the latent grid, `(st, sh, sw)`.
        grid: Rows and columns of the fine grid for each row and column of the latent grid, `(fh, fw)`.
    """

    def __init__(self, channels: int, latent_channels: int, stride: Factor, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.stride = fine_stride(stride, grid)
        self.blocks = nn.Sequential(*(FrameBlock(channels) for _ in range(_ENCODER_BLOCKS)))
        self.norm = PositionNorm(channels)
        self.out = FrameConv(channels, latent_channels, kernel=1)
        zero_init(self.out)
        self.linear = FrameConv(_RGB * math.prod(self.stride), latent_channels, kernel=1)

    def forward(self, video: Tensor, features: Tensor) -> Tensor:
        """Encode the first latent frame.

        Args:
            video: The frames that the first latent frame stands for, `B 3 st H W` in [−1, 1].
            features: Features of these frames at the level above the latent grid, `B C 1 fh·h fw·w`.

        Returns:
            The phases of the latents, `B (N·d) fh·fw h w`.
        """
        refined = self.out(F.silu(self.norm(self.blocks(features))))
        return to_phases(self.linear(unshuffle(video, self.stride)) + refined, self.grid)


class FirstFrameDecoder(nn.Module):
    """Decode the first latent frame of a GOP to features of two levels and, along a linear path, to pixels.

    Args:
        latent_channels: Latent channels of all tokens of a position, N·d.
        max_tokens: Tokens per position, N.
        channels: Feature channels of the level above the latent grid, and of the level of the latent grid.
        stride: The stride of the latent grid, `(st, sh, sw)`.
        grid: Rows and columns of the fine grid for each row and column of the latent grid, `(fh, fw)`.
    """

    def __init__(
        self, latent_channels: int, max_tokens: int, channels: tuple[int, int], stride: Factor, grid: tuple[int, int]
    ) -> None:
        super().__init__()
        fine, coarse = channels
        self.grid = grid
        self.stride = fine_stride(stride, grid)
        self.enter = FrameConv(latent_channels, fine, kernel=1)
        self.count_bias = nn.Parameter(torch.zeros(max_tokens, fine))
        self.blocks = nn.Sequential(*(FrameBlock(fine) for _ in range(_DECODER_BLOCKS)))
        self.down = Unshuffle(fine, coarse, (1, *grid))
        self.linear = FrameConv(latent_channels, _RGB * math.prod(self.stride), kernel=1)

    def forward(self, phases: Tensor, counts: Tensor, added: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Decode the first latent frame.

        Args:
            phases: The phases of the codes, `B (N·d) fh·fw h w` in [−1, 1]; tokens that are not read must be zero.
            counts: The number of tokens to read for each sample, 1…N; int64 `B`.
            added: Features to add at the level above the latent grid, `B C 1 fh·h fw·w`.

        Returns:
            Features of the level above the latent grid, `B C 1 fh·h fw·w`; features of the level of the latent grid,
            `B C' 1 h w`; and the pixels of the linear path, `B 3 st H W`.
        """
        codes = from_phases(phases, self.grid)
        features = self.enter(codes)
        bias = self.count_bias[counts - 1].to(features.dtype)
        features = features + bias[:, :, None, None, None]
        features = self.blocks(features if added is None else features + added)
        return features, self.down(features), shuffle(self.linear(codes), self.stride)


def fine_stride(stride: Factor, grid: tuple[int, int]) -> Factor:
    """Return how many frames, rows and columns of the video one position of the fine grid stands for.

    Args:
        stride: The stride of the latent grid.
        grid: Rows and columns of the fine grid for each row and column of the latent grid, `(fh, fw)`.
    """
    return stride[0], stride[1] // grid[0], stride[2] // grid[1]
