"""The residual blocks and resampling layers of the networks, in the variants that VidTok compares (Tab. 2)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtok_codec.models.causal import (
    CausalLayer,
    Factor,
    FrameConv,
    PositionNorm,
    State,
    TemporalConv,
    shuffle,
    unshuffle,
    zero_init,
)

_ALPHA_LOGIT = 0.2
"""The initial logit of the blend weight: VidTok's AlphaBlender starts with α = sigmoid(0.2)."""


class ResidualBlock(CausalLayer):
    """VidTok's 2D + 1D block: norm → 1×3×3 → SiLU → + causal 3×1×1 → SiLU → 1×3×3 → + input.

    The last convolution is initialized to zero, so that a new block is the identity.

    Args:
        channels: Feature channels of the input and the output.
        causal: Whether a frame depends only on itself and earlier frames.
        expansion: The width inside the block, as a multiple of `channels`.
    """

    def __init__(self, channels: int, causal: bool = True, expansion: float = 1.0) -> None:
        super().__init__()
        hidden = round(channels * expansion)
        self.norm = PositionNorm(channels)
        self.spatial = FrameConv(channels, hidden)
        self.temporal = TemporalConv(hidden, hidden, causal=causal)
        self.out = FrameConv(hidden, channels)
        zero_init(self.out)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run the block on a chunk `B C T H W`; return features of the same shape and the new state."""
        return self.changed(x, self.norm(x), state)

    def changed(self, x: Tensor, normed: Tensor, state: State) -> tuple[Tensor, State]:
        """Run the block on a chunk that is already normalized.

        Args:
            x: Features `B C T H W`, to which the block adds its change.
            normed: `x` after the normalization, of the same shape.
            state: The state after the preceding chunk, or None at the start of a GOP.

        Returns:
            The new features `B C T H W` and the state after this chunk.
        """
        h = F.silu(self.spatial(normed))
        mixed, state = self.temporal(h, state)
        return x + self.out(F.silu(h + mixed)), state


class FullBlock(CausalLayer):
    """VidTok's block with 3D convolutions (variant 1): norm → 3×3×3 → SiLU → 3×3×3 → + input.

    The last convolution is initialized to zero, so that a new block is the identity.

    Args:
        channels: Feature channels of the input and the output.
        causal: Whether a frame depends only on itself and earlier frames.
        expansion: The width inside the block, as a multiple of `channels`.
    """

    def __init__(self, channels: int, causal: bool = True, expansion: float = 1.0) -> None:
        super().__init__()
        hidden = round(channels * expansion)
        self.norm = PositionNorm(channels)
        self.spatial = TemporalConv(channels, hidden, kernel=3, causal=causal)
        self.out = TemporalConv(hidden, channels, kernel=3, causal=causal)
        zero_init(self.out.mix)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run the block on a chunk `B C T H W`; return features of the same shape and the new state."""
        before, between = (None, None) if state is None else state
        h, before = self.spatial(self.norm(x), before)
        change, between = self.out(F.silu(h), between)
        return x + change, (before, between)


class FrameBlock(nn.Module):
    """VidTok's block with 2D convolutions (variant 3): norm → 1×3×3 → SiLU → 1×3×3 → + input.

    It processes every frame by itself, so it has no state. The last convolution is initialized to zero, so that a new
    block is the identity.

    Args:
        channels: Feature channels of the input and the output.
        causal: Has no effect; all kinds of blocks take the same arguments.
        expansion: The width inside the block, as a multiple of `channels`.
    """

    def __init__(self, channels: int, causal: bool = True, expansion: float = 1.0) -> None:
        super().__init__()
        hidden = round(channels * expansion)
        self.norm = PositionNorm(channels)
        self.spatial = FrameConv(channels, hidden)
        self.out = FrameConv(hidden, channels)
        zero_init(self.out)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block on features `B C T H W`; return features of the same shape."""
        return x + self.out(F.silu(self.spatial(self.norm(x))))


BLOCKS: dict[str, type[ResidualBlock | FullBlock | FrameBlock]] = {
    "2d+1d": ResidualBlock,
    "3d": FullBlock,
    "2d": FrameBlock,
}
"""The class of each kind of residual block (`vtok_codec.models.config.BLOCK_KINDS`). All take the same arguments."""


class Unshuffle(nn.Module):
    """Downsample by moving blocks of space-time into channels, followed by a `1×1` convolution to the new width.

    Together, both steps are a strided convolution whose kernel is as large as its stride.

    Args:
        in_channels: Feature channels of the input.
        out_channels: Feature channels of the output.
        factor: The downsampling factor over time, height and width, `(ft, fh, fw)`.
    """

    def __init__(self, in_channels: int, out_channels: int, factor: Factor) -> None:
        super().__init__()
        self.factor = factor
        self.project = FrameConv(in_channels * math.prod(factor), out_channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """Downsample features `B C T H W` to `B C' T/ft H/fh W/fw`."""
        return self.project(unshuffle(x, self.factor))


class Shuffle(nn.Module):
    """Upsample with a `1×1` convolution and move its channels into blocks of space-time.

    Unlike trilinear interpolation, this is causal.

    Args:
        in_channels: Feature channels of the input.
        out_channels: Feature channels of the output.
        factor: The upsampling factor over time, height and width, `(ft, fh, fw)`.
    """

    def __init__(self, in_channels: int, out_channels: int, factor: Factor) -> None:
        super().__init__()
        self.factor = factor
        self.project = FrameConv(in_channels, out_channels * math.prod(factor), kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """Upsample features `B C T H W` to `B C' T·ft H·fh W·fw`."""
        return shuffle(self.project(x), self.factor)


class AlphaBlender(nn.Module):
    """Blend two tensors as α·a + (1 − α)·b, with α = sigmoid(0.2) at first (VidTok, eq. 2).

    Args:
        learned: Whether α is trained.
    """

    def __init__(self, learned: bool) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(_ALPHA_LOGIT), requires_grad=learned)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return α·a + (1 − α)·b for two tensors of the same shape."""
        return torch.lerp(b, a, torch.sigmoid(self.logit).to(a.dtype))


class BlendedUnshuffle(Unshuffle):
    """Downsample in time both by averaging frames and by convolution, and blend the results (VidTok, Fig. 3).

    Args:
        in_channels: Feature channels of the input.
        out_channels: Feature channels of the output.
        factor: The downsampling factor over time, height and width, `(ft, fh, fw)`.
        learned: Whether the blend weight α is trained.
    """

    def __init__(self, in_channels: int, out_channels: int, factor: Factor, learned: bool = False) -> None:
        super().__init__(in_channels, out_channels, factor)
        self.pooled = FrameConv(in_channels * factor[1] * factor[2], out_channels, kernel=1)
        self.blend = AlphaBlender(learned)

    def forward(self, x: Tensor) -> Tensor:
        """Downsample features `B C T H W` to `B C' T/ft H/fh W/fw`."""
        means = x.unflatten(2, (-1, self.factor[0])).mean(3)
        return self.blend(self.pooled(unshuffle(means, (1, *self.factor[1:]))), super().forward(x))


class BlendedShuffle(Shuffle):
    """Upsample in time both by repeating frames and by convolution, and blend the results.

    Frames are repeated rather than interpolated, so that the layer stays causal.

    Args:
        in_channels: Feature channels of the input.
        out_channels: Feature channels of the output.
        factor: The upsampling factor over time, height and width, `(ft, fh, fw)`.
        learned: Whether the blend weight α is trained.
    """

    def __init__(self, in_channels: int, out_channels: int, factor: Factor, learned: bool = False) -> None:
        super().__init__(in_channels, out_channels, factor)
        self.repeated = FrameConv(in_channels, out_channels * factor[1] * factor[2], kernel=1)
        self.blend = AlphaBlender(learned)

    def forward(self, x: Tensor) -> Tensor:
        """Upsample features `B C T H W` to `B C' T·ft H·fh W·fw`."""
        still = shuffle(self.repeated(x), (1, *self.factor[1:]))
        return self.blend(still.repeat_interleave(self.factor[0], 2), super().forward(x))


def downsampling(kind: str, in_channels: int, out_channels: int, factor: Factor) -> nn.Module:
    """Make the layer that leads from a finer level to the next coarser one.

    Args:
        kind: How levels are connected, one of `vtok_codec.models.config.RESAMPLING_KINDS`. It makes no difference if
            `factor` leaves time as it is, since there is then nothing to blend.
        in_channels: Feature channels of the finer level.
        out_channels: Feature channels of the coarser level.
        factor: The downsampling factor over time, height and width.
    """
    if kind == "shuffle" or factor[0] == 1:
        return Unshuffle(in_channels, out_channels, factor)
    return BlendedUnshuffle(in_channels, out_channels, factor, learned=kind == "learned-blend")


def upsampling(kind: str, in_channels: int, out_channels: int, factor: Factor) -> nn.Module:
    """Make the layer that leads from a coarser level to the next finer one.

    Args:
        kind: How levels are connected, one of `vtok_codec.models.config.RESAMPLING_KINDS`. It makes no difference if
            `factor` leaves time as it is, since there is then nothing to blend.
        in_channels: Feature channels of the coarser level.
        out_channels: Feature channels of the finer level.
        factor: The upsampling factor over time, height and width.
    """
    if kind == "shuffle" or factor[0] == 1:
        return Shuffle(in_channels, out_channels, factor)
    return BlendedShuffle(in_channels, out_channels, factor, learned=kind == "learned-blend")
