"""A latent flow: a causal transformer that draws continuous latents, frame by frame, by flow matching.

It has the blocks of the generator of tokens (`vtok_codec.models.generator`), so that both ways to generate can be
compared at one size. Where that one predicts digits position after position, this one moves a whole latent frame from
noise to latents in a few steps (One-DVA, eq. 1 and 2). Each latent frame has a time of its own (diffusion forcing,
arXiv:2407.01392): the frames before are clean, with time 0, while the last one goes from 1 to 0.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vtok_codec.models.causal_blocks import CausalBlocks, Past
from vtok_codec.models.config import FLOW, LatentFlowConfig
from vtok_codec.models.paths import path_of
from vtok_codec.models.transformer import Norm

_KEPT = 2
"""The latent frames whose latents a state keeps: those whose neighbourhood enters at each position of the next."""
_TIME_FEATURES = 64
_LARGEST_FREQUENCY = 200.0
"""The largest frequency of the features of a time, in radians."""


class FlowState(NamedTuple):
    """What a latent flow remembers of the latent frames so far."""

    past: Past
    """What its blocks remember."""
    latents: Tensor
    """The estimates of the last two latent frames, standardized, `B 2 C h w`; all zero where there is none."""


class LatentFlow(nn.Module):
    """A causal transformer over the continuous latents of a codec.

    Args:
        config: The configuration of the latent flow.
    """

    def __init__(self, config: LatentFlowConfig) -> None:
        super().__init__()
        self.config = config
        width, channels = config.width, config.channels
        self.own = nn.Conv2d(channels, width, 3, padding=1)
        self.before = nn.Conv2d(_KEPT * channels, width, 3, padding=1, bias=False)
        self.kind = nn.Embedding(config.codec.layout.phases + 1, width)
        self.time = nn.Sequential(nn.Linear(_TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = CausalBlocks(width, config.heads, config.blocks, config.reach)
        self.norm = Norm(width)
        self.out = nn.Linear(width, channels)
        self.mean: Tensor
        """The mean of each channel of the latents, `C 1 1`, set before training."""
        self.deviation: Tensor
        """The standard deviation of each channel, `C 1 1`."""
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("deviation", torch.ones(channels, 1, 1))
        nn.init.normal_(self.kind.weight, std=0.05)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def standardized(self, latents: Tensor) -> Tensor:
        """Shift and scale latents `B t C h w` to mean 0 and variance 1 in each channel."""
        return (latents - self.mean) / self.deviation

    def restored(self, latents: Tensor) -> Tensor:
        """Undo `standardized`."""
        return latents * self.deviation + self.mean

    def start(self, batch: int, rows: int, columns: int) -> FlowState:
        """Return the state before the first latent frame of videos with the given latent grid."""
        weight = self.out.weight
        latents = weight.new_zeros(batch, _KEPT, self.config.channels, rows, columns)
        return FlowState(self.blocks.start(batch, rows * columns, weight), latents)

    def forward(
        self, noisy: Tensor, times: Tensor, kinds: Tensor, state: FlowState | None = None
    ) -> tuple[Tensor, FlowState]:
        """Predict clean latents.

        Args:
            noisy: Standardized latents mixed with noise, `B t C h w`.
            times: The time of each latent frame, from 0 (clean) to 1 (nothing but noise), `B t`.
            kinds: The kind of each latent frame, int64 `B t` (`vtok_codec.models.generator.kinds`).
            state: The state after the latent frames before; None at the start.

        Returns:
            Predicted standardized latents, `B t C h w`, and the state after these latent frames.
        """
        batch, _, _, rows, columns = noisy.shape
        state = state or self.start(batch, rows, columns)
        # What the best linear predictor makes of each noisy latent, if latents are standardized.
        gain = (1 - times) / ((1 - times).square() + times.square())
        likely = gain[..., None, None, None].to(noisy.dtype) * noisy
        history = torch.cat([state.latents.to(noisy.dtype), likely], 1)
        x = self._entering(noisy, history, times, kinds)
        everything = torch.zeros(rows * columns, dtype=torch.int64, device=x.device)
        x, past = self.blocks(x, (rows, columns), everything, state.past)
        added = self.out(self.norm(x)).transpose(2, 3).unflatten(3, (rows, columns))
        return likely.float() + added.float(), FlowState(past, history[:, -_KEPT:].detach())

    def draw(self, kind: int, state: FlowState, noise: Tensor, steps: int, time: float = 1.0) -> Tensor:
        """Draw a latent frame.

        Args:
            kind: The kind of the latent frame.
            state: The state after the latent frames before.
            noise: What to start from, standardized, `B C h w`: nothing but noise, or a mixture with latents.
            steps: The number of steps.
            time: The time of `noise`.

        Returns:
            Standardized latents `B C h w`. `read` brings the state behind them.
        """
        path, x = path_of(FLOW), noise[:, None].float()
        kinds = torch.full((len(noise), 1), kind, device=noise.device)
        times = torch.linspace(time, 0, steps + 1, device=noise.device)
        for now, to in pairwise(times):
            clean, _ = self(x.to(noise.dtype), now.expand(len(x), 1), kinds, state)
            x = path.step(x, clean, now, to)
        return x[:, 0]

    def read(self, kind: int, state: FlowState, latents: Tensor, time: float = 0.0) -> FlowState:
        """Return the state after a latent frame, standardized, `B C h w`: clean, or mixed with the noise of a time."""
        kinds, times = (torch.full((len(latents), 1), value, device=latents.device) for value in (kind, time))
        after: FlowState = self(latents[:, None].to(self.out.weight.dtype), times, kinds.long(), state)[1]
        return after

    def _entering(self, noisy: Tensor, history: Tensor, times: Tensor, kinds: Tensor) -> Tensor:
        """Return the features that enter the first block, `B t h·w width`."""
        batch, frames = noisy.shape[:2]
        pairs = torch.cat([history[:, 1 : 1 + frames], history[:, :frames]], 2)
        x = self.own(noisy.flatten(0, 1)) + self.before(pairs.flatten(0, 1))
        common = self.kind(kinds) + self.time(_time_features(times).to(x.dtype))
        return x.flatten(2).transpose(1, 2).unflatten(0, (batch, frames)) + common[:, :, None]


def _time_features(times: Tensor) -> Tensor:
    """Return cosines and sines of times at several frequencies, `… F`."""
    half = _TIME_FEATURES // 2
    frequencies = torch.exp(torch.linspace(0, math.log(_LARGEST_FREQUENCY), half, device=times.device))
    angle = times[..., None].float() * frequencies
    return torch.cat([angle.cos(), angle.sin()], -1)
