"""What the networks are made of: residual blocks and resampling, each in the variants that VidTok compares (Tab. 2)."""

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
"""α of VidTok's AlphaBlender is sigmoid(0.2)."""


class ResidualBlock(CausalLayer):
    """VidTok's 2D + 1D block: norm → 1×3×3 → SiLU → + causal 3×1×1 → SiLU → 1×3×3 → + input.

    Its last convolution starts at zero, so that a fresh block is the identity.
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
        return self.changed(x, self.norm(x), state)

    def changed(self, x: Tensor, normed: Tensor, state: State) -> tuple[Tensor, State]:
        """The block on an input that is normed already."""
        h = F.silu(self.spatial(normed))
        mixed, state = self.temporal(h, state)
        return x + self.out(F.silu(h + mixed)), state


class FullBlock(CausalLayer):
    """VidTok's variant 1, all in 3D: norm → 3×3×3 → SiLU → 3×3×3 → + input."""

    def __init__(self, channels: int, causal: bool = True, expansion: float = 1.0) -> None:
        super().__init__()
        hidden = round(channels * expansion)
        self.norm = PositionNorm(channels)
        self.spatial = TemporalConv(channels, hidden, kernel=3, causal=causal)
        self.out = TemporalConv(hidden, channels, kernel=3, causal=causal)
        zero_init(self.out.mix)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        before, between = (None, None) if state is None else state
        h, before = self.spatial(self.norm(x), before)
        change, between = self.out(F.silu(h), between)
        return x + change, (before, between)


class FrameBlock(nn.Module):
    """VidTok's variant 3, every frame by itself: norm → 1×3×3 → SiLU → 1×3×3 → + input."""

    def __init__(self, channels: int, causal: bool = True, expansion: float = 1.0) -> None:
        super().__init__()
        hidden = round(channels * expansion)
        self.norm = PositionNorm(channels)
        self.spatial = FrameConv(channels, hidden)
        self.out = FrameConv(hidden, channels)
        zero_init(self.out)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(F.silu(self.spatial(self.norm(x))))


BLOCKS: dict[str, type[ResidualBlock | FullBlock | FrameBlock]] = {
    "2d+1d": ResidualBlock,
    "3d": FullBlock,
    "2d": FrameBlock,
}
"""Residual blocks by the name that a configuration has for them; each is made of (channels, causal, expansion), the
last how many channels lie between its convolutions for each one outside."""


class Unshuffle(nn.Module):
    """Downsampling without loss: space-time to channels, then a `1×1` convolution to the new width.

    This is a strided convolution whose kernel is its stride.
    """

    def __init__(self, in_channels: int, out_channels: int, factor: Factor) -> None:
        super().__init__()
        self.factor = factor
        self.project = FrameConv(in_channels * math.prod(factor), out_channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(unshuffle(x, self.factor))


class Shuffle(nn.Module):
    """Upsampling: a `1×1` convolution, then channels to space-time. Causal, unlike trilinear interpolation."""

    def __init__(self, in_channels: int, out_channels: int, factor: Factor) -> None:
        super().__init__()
        self.factor = factor
        self.project = FrameConv(in_channels, out_channels * math.prod(factor), kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        return shuffle(self.project(x), self.factor)


class AlphaBlender(nn.Module):
    """α·a + (1 − α)·b with α = sigmoid(0.2) at first; it trains where it is `learned` (VidTok, eq. 2)."""

    def __init__(self, learned: bool) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(_ALPHA_LOGIT), requires_grad=learned)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.lerp(b, a, torch.sigmoid(self.logit).to(a.dtype))


class BlendedUnshuffle(Unshuffle):
    """Downsampling in time both by the mean of frames and by convolution, blended (VidTok, Fig. 3)."""

    def __init__(self, in_channels: int, out_channels: int, factor: Factor, learned: bool = False) -> None:
        super().__init__(in_channels, out_channels, factor)
        self.pooled = FrameConv(in_channels * factor[1] * factor[2], out_channels, kernel=1)
        self.blend = AlphaBlender(learned)

    def forward(self, x: Tensor) -> Tensor:
        means = x.unflatten(2, (-1, self.factor[0])).mean(3)
        return self.blend(self.pooled(unshuffle(means, (1, *self.factor[1:]))), super().forward(x))


class BlendedShuffle(Shuffle):
    """Upsampling in time both by repeating frames and by convolution, blended; nearest, so that it stays causal."""

    def __init__(self, in_channels: int, out_channels: int, factor: Factor, learned: bool = False) -> None:
        super().__init__(in_channels, out_channels, factor)
        self.repeated = FrameConv(in_channels, out_channels * factor[1] * factor[2], kernel=1)
        self.blend = AlphaBlender(learned)

    def forward(self, x: Tensor) -> Tensor:
        still = shuffle(self.repeated(x), (1, *self.factor[1:]))
        return self.blend(still.repeat_interleave(self.factor[0], 2), super().forward(x))


RESAMPLING = ("shuffle", "blend", "learned-blend")
"""How levels are reached from each other: plain strided, or blended with a fixed or a learned α."""


def downsampling(kind: str, in_channels: int, out_channels: int, factor: Factor) -> nn.Module:
    """From a finer level to a coarser one; where time stays as it is there is nothing to blend."""
    if kind == "shuffle" or factor[0] == 1:
        return Unshuffle(in_channels, out_channels, factor)
    return BlendedUnshuffle(in_channels, out_channels, factor, learned=kind == "learned-blend")


def upsampling(kind: str, in_channels: int, out_channels: int, factor: Factor) -> nn.Module:
    """From a coarser level to a finer one."""
    if kind == "shuffle" or factor[0] == 1:
        return Shuffle(in_channels, out_channels, factor)
    return BlendedShuffle(in_channels, out_channels, factor, learned=kind == "learned-blend")
