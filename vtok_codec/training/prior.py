"""How many bits the digits would take: a causal prior that trains along with the codec (stage `rate`).

Each digit has a discretized logistic distribution. Its mean and scale come from the two latent frames before it and
from the tokens before it in its own frame, within 3×3 positions. The prior is for training only: its gradient makes the
encoder choose digits that can be foretold, which then repeat, so that zstd finds them.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtok_codec.models.causal import FrameConv, fold_time, unfold_time, zero_init
from vtok_codec.models.onevae import OneVAEConfig

_PAST_FRAMES = 2
_HIDDEN = 48
"""Features a token."""
_FIRST_SCALE = 1.0
"""Of the logistic, in digits, before training."""
_UNIFORM_SHARE = 1e-3
"""Of every distribution: what cannot be foretold costs ten bits and some, not any number."""


class DigitPrior(nn.Module):
    """Bits of each digit, `B (N·d) t h w`, for codes of the same shape in [−1, 1], as FSQ gives them."""

    def __init__(self, config: OneVAEConfig) -> None:
        super().__init__()
        channels, tokens = config.latent_channels, config.max_tokens
        digits = len(config.fsq_levels)
        # The phases of an enhanced first frame foretell each other, in a prior of their own.
        self.phases = math.prod(config.first_grid)
        usual = replace(config, enhanced_first_frame=False)
        self.first = DigitPrior(usual) if config.enhanced_first_frame else None
        self.levels: Tensor
        levels = torch.tensor(config.fsq_levels * tokens).view(-1, 1, 1, 1)
        self.register_buffer("levels", levels, persistent=False)
        # One slot more than the codes tells whether there was such a frame.
        self.past = FrameConv(_PAST_FRAMES * (channels + 1), tokens * _HIDDEN)
        self.present = FrameConv(channels, tokens * _HIDDEN)
        self.out = nn.Conv2d(tokens * _HIDDEN, 2 * channels, 1, groups=tokens)
        zero_init(self.out)
        # At first the mean is the digit of the frame before.
        self.persistence = nn.Parameter(torch.ones(channels, 1, 1, 1))
        self.mask: Tensor
        source = torch.arange(channels) // digits
        target = torch.arange(tokens * _HIDDEN) // _HIDDEN
        before = (source[None] < target[:, None]).float()[:, :, None, None]
        self.register_buffer("mask", before, persistent=False)

    def forward(self, codes: Tensor) -> Tensor:
        if self.first is None:
            return self._bits(codes)
        return torch.cat([self.first(codes[:, :, : self.phases]), self._bits(codes[:, :, self.phases :])], dim=2)

    def _bits(self, codes: Tensor) -> Tensor:
        past = self._past(codes)
        features = self.past(past) + self._present(codes)
        mean, log_scale = self._out(F.silu(features))
        half = self.levels // 2
        mean = (mean + self.persistence * past[:, : codes.shape[1]]) * half
        return _logistic_bits(codes * half, mean, log_scale, self.levels)

    def _past(self, codes: Tensor) -> Tensor:
        """The codes one and two frames ago, then for each whether there was such a frame."""
        known = torch.ones_like(codes[:, :1])
        slots = [_delay(codes, frames) for frames in range(1, _PAST_FRAMES + 1)]
        flags = [_delay(known, frames) for frames in range(1, _PAST_FRAMES + 1)]
        return torch.cat([*slots, *flags], dim=1)

    def _present(self, codes: Tensor) -> Tensor:
        weight = self.present.weight * self.mask
        features = F.conv2d(fold_time(codes), weight, self.present.bias, padding=1)
        return unfold_time(features, codes.shape[0])

    def _out(self, features: Tensor) -> tuple[Tensor, Tensor]:
        out = unfold_time(self.out(fold_time(features)), features.shape[0]).float()
        # A token's means and scales lie side by side, as the groups of the convolution give them.
        tokens = self.out.groups
        mean, log_scale = out.unflatten(1, (tokens, 2, -1)).unbind(2)
        return mean.flatten(1, 2), log_scale.flatten(1, 2) + math.log(_FIRST_SCALE)


def _delay(x: Tensor, frames: int) -> Tensor:
    """`x` of so many frames ago, zeros before the first."""
    return F.pad(x, (0, 0, 0, 0, frames, 0))[:, :, : x.shape[2]]


def _logistic_bits(values: Tensor, mean: Tensor, log_scale: Tensor, levels: Tensor) -> Tensor:
    """−log₂ of a logistic's mass around each value, in digits around zero; the outermost ones take the tails (fp32)."""
    values, mean = values.float(), mean.float()
    inverse = torch.exp(-log_scale.float().clamp(-5, 5))
    lowest = -(levels // 2)
    above = torch.sigmoid((values + 0.5 - mean) * inverse)
    below = torch.sigmoid((values - 0.5 - mean) * inverse)
    above = torch.where(values >= lowest + levels - 1 - 0.25, torch.ones_like(above), above)
    below = torch.where(values <= lowest + 0.25, torch.zeros_like(below), below)
    mass = (1 - _UNIFORM_SHARE) * (above - below).clamp_min(0) + _UNIFORM_SHARE / levels
    return -torch.log2(mass)
