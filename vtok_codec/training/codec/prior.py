"""An estimate of the bits that the digits take: a causal prior that trains along with the codec (stage `rate`).

Each digit has a discretized logistic distribution. Its mean and scale come from the two latent frames before it and
from the tokens before it in its own frame, within 3×3 positions. The prior is used in training only. Its gradient
makes the encoder choose digits that are easy to predict and often repeat, which the coders of a file compress well.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtok_codec.models.causal import FrameConv, fold_time, unfold_time, zero_init
from vtok_codec.models.config import OneVAEConfig

_PAST_FRAMES = 2
"""The number of past latent frames that the prior reads."""
_HIDDEN = 48
"""Hidden features per token."""
_FIRST_SCALE = 1.0
"""The scale of the logistic distributions before training, in digits."""
_UNIFORM_SHARE = 1e-3
"""The share of a uniform distribution that is mixed in, which limits the cost of a digit to about 13 bits."""


class DigitPrior(nn.Module):
    """A network that estimates the cost of each digit in bits."""

    def __init__(self, config: OneVAEConfig) -> None:
        super().__init__()
        channels, tokens = config.latent_channels, config.max_tokens
        digits = len(config.fsq_levels)
        # The phases of an enhanced first frame have a prior of their own, in which earlier phases predict later ones.
        self.phases = config.layout.phases
        usual = replace(config, enhanced_first_frame=False)
        self.first = DigitPrior(usual) if config.enhanced_first_frame else None
        self.levels: Tensor
        levels = torch.tensor(config.fsq_levels * tokens).view(-1, 1, 1, 1)
        self.register_buffer("levels", levels, persistent=False)
        # For each past frame, one channel beside the codes tells whether the GOP has such a frame.
        self.past = FrameConv(_PAST_FRAMES * (channels + 1), tokens * _HIDDEN)
        self.present = FrameConv(channels, tokens * _HIDDEN)
        self.out = nn.Conv2d(tokens * _HIDDEN, 2 * channels, 1, groups=tokens)
        zero_init(self.out)
        # Before training, the mean of a digit is its value in the frame before.
        self.persistence = nn.Parameter(torch.ones(channels, 1, 1, 1))
        self.mask: Tensor
        source = torch.arange(channels) // digits
        target = torch.arange(tokens * _HIDDEN) // _HIDDEN
        before = (source[None] < target[:, None]).float()[:, :, None, None]
        self.register_buffer("mask", before, persistent=False)

    def forward(self, codes: Tensor) -> Tensor:
        """Estimate the cost of each digit.

        Args:
            codes: Codes of FSQ, `B (N·d) t h w` in [−1, 1]; the first latent frame starts a GOP.

        Returns:
            The cost of each digit in bits, of the same shape.
        """
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
        """Return the codes one frame and two frames ago, then two channels that tell whether there were such frames."""
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
        # The grouped convolution returns, for one token after another, its means and then its scales.
        tokens = self.out.groups
        mean, log_scale = out.unflatten(1, (tokens, 2, -1)).unbind(2)
        return mean.flatten(1, 2), log_scale.flatten(1, 2) + math.log(_FIRST_SCALE)


def _delay(x: Tensor, frames: int) -> Tensor:
    """Delay `x` by `frames` frames, with zeros before the first frame."""
    return F.pad(x, (0, 0, 0, 0, frames, 0))[:, :, : x.shape[2]]


def _logistic_bits(values: Tensor, mean: Tensor, log_scale: Tensor, levels: Tensor) -> Tensor:
    """Return −log₂ of the probability of each digit under a discretized logistic distribution, in fp32.

    Values and means are digits centred on zero. The lowest and the highest digit take the tails of the distribution.
    """
    values, mean = values.float(), mean.float()
    inverse = torch.exp(-log_scale.float().clamp(-5, 5))
    lowest = -(levels // 2)
    above = torch.sigmoid((values + 0.5 - mean) * inverse)
    below = torch.sigmoid((values - 0.5 - mean) * inverse)
    above = torch.where(values >= lowest + levels - 1 - 0.25, torch.ones_like(above), above)
    below = torch.where(values <= lowest + 0.25, torch.zeros_like(below), below)
    mass = (1 - _UNIFORM_SHARE) * (above - below).clamp_min(0) + _UNIFORM_SHARE / levels
    return -torch.log2(mass)
