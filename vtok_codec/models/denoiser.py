"""The diffusion decoder's network: a causal 3D U-Net on pixel-unshuffled video, conditioned on tokens (CDT, Fig. 2).

It reads noisy video, a time, and what the tokens say, and tells the clean video. The up path is a decoder like the
codec's own, which reads the codes as that one does; the down path reads the noisy video, with the codes coming in
through a *condition adapter* at each scale (CDT, section 3.3.2), and what it passes to the up path is nothing at first.
So with the codec's own decoder for an up path it starts as that one, whatever the noise, and training goes on from
there.

`vtok_codec.models.sampling` has what makes a video out of noise with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtok_codec.errors import ModelError
from vtok_codec.models.blocks import ResidualBlock, Shuffle, Unshuffle
from vtok_codec.models.causal import FrameConv, State, zero_init
from vtok_codec.models.onevae import RGB, Decoder, OneVAEConfig, first_tokens

_TIME_FREQUENCIES = 32
_TIME_FEATURES = 128
_FASTEST_TIME = 1000.0
"""Of the sinusoids that tell the time 0…1."""


@dataclass(frozen=True)
class DenoiserConfig:
    """The shape of a diffusion decoder: data, not code."""

    codec: OneVAEConfig
    """The model whose tokens it decodes. Its levels are the denoiser's, its decoder is the up path."""
    objective: str
    """Of `vtok_codec.models.sampling.PATHS`: what its noise and its loss follow."""
    down_blocks: tuple[int, ...]
    """Blocks of the down path at each level, from the finest to the latent grid."""
    adapter_scales: int = 0
    """At how many scales of the down path the codes come in, from the latent grid on; 0 means all."""

    def __post_init__(self) -> None:
        codec, scales = self.codec, len(self.codec.levels)
        if not codec.causal or codec.codebook or codec.enhanced_first_frame:
            raise ModelError("a diffusion decoder needs a causal codec of FSQ with one latent grid")
        if len(self.down_blocks) != scales or not 0 <= self.adapter_scales <= scales:
            raise ModelError(f"blocks {self.down_blocks} do not fit a codec of {scales} levels")


class Condition(NamedTuple):
    """What the tokens of a chunk say: the same at every step of its decoding."""

    codes: Tensor
    """`B (N·d) t h w` in [−1, 1]."""
    counts: Tensor
    """int64 `B`: the tokens that each sample reads, 1…N."""
    features: tuple[Tensor, ...]
    """`B C T H W` at each scale of the down path that the codes come in at, from the latent grid on."""


class TimedBlock(ResidualBlock):
    """A residual block whose normed input is scaled and shifted by what the time says; at first not at all."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.modulate = nn.Linear(_TIME_FEATURES, 2 * channels)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def timed(self, x: Tensor, state: State, time: Tensor) -> tuple[Tensor, State]:
        """`time`: `B` features."""
        scale, shift = self.modulate(time).to(x.dtype)[:, :, None, None, None].chunk(2, dim=1)
        h = self.norm(x)
        return self.changed(x, torch.addcmul(h + shift, h, scale), state)


class TimedChain(nn.Module):
    """Timed blocks one after another."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TimedBlock(channels) for _ in range(blocks))

    def forward(self, x: Tensor, state: State, time: Tensor) -> tuple[Tensor, State]:
        before: tuple[State, ...] = (None,) * len(self.blocks) if state is None else tuple(state)
        after = []
        for block, kept in zip(self.blocks, before, strict=True):
            assert isinstance(block, TimedBlock)
            x, kept = block.timed(x, kept, time)
            after.append(kept)
        return x, tuple(after)


class TimeEmbedding(nn.Module):
    """Times `B` in 0…1 → features `B F`, by sinusoids and two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 * _TIME_FREQUENCIES, _TIME_FEATURES), nn.SiLU(), nn.Linear(_TIME_FEATURES, _TIME_FEATURES)
        )

    def forward(self, time: Tensor) -> Tensor:
        steps = torch.linspace(0, 1, _TIME_FREQUENCIES, device=time.device)
        angles = time.float()[:, None] * torch.exp(steps * math.log(_FASTEST_TIME))
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)
        features: Tensor = self.layers(waves.to(next(self.layers.parameters()).dtype))
        return F.silu(features)


class ConditionAdapter(nn.Module):
    """Codes → features for each scale of the down path, the finer ones made of the coarser ones (CDT, Fig. 2)."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        codec = config.codec
        levels = codec.levels[::-1][: config.adapter_scales or None]
        self.token_channels = codec.token_channels
        self.enter = FrameConv(codec.latent_channels, levels[0].channels, kernel=1)
        self.count_bias = nn.Parameter(torch.zeros(codec.max_tokens, levels[0].channels))
        self.mixes = nn.ModuleList(ResidualBlock(level.channels) for level in levels)
        self.rises = nn.ModuleList(
            Shuffle(level.channels, finer.channels, level.factor) for level, finer in pairwise(levels)
        )

    def forward(self, codes: Tensor, state: State, counts: Tensor) -> tuple[tuple[Tensor, ...], State]:
        """Codes `B (N·d) t h w` in [−1, 1], of which each sample reads the first `counts` tokens, 1…N."""
        x = self.enter(first_tokens(codes, counts, self.token_channels))
        x = x + self.count_bias[counts - 1][:, :, None, None, None].to(x.dtype)
        before: tuple[State, ...] = (None,) * len(self.mixes) if state is None else tuple(state)
        features, after = [], []
        for scale, mix in enumerate(self.mixes):
            x = self.rises[scale - 1](x) if scale else x
            x, memory = mix(x, before[scale])
            features.append(x)
            after.append(memory)
        return tuple(features), tuple(after)


class Denoiser(nn.Module):
    """Noisy video `B 3 T H W`, its time and its condition → the clean video, in [−1, 1] (not clamped). Causal."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        levels = config.codec.levels
        self.adapter = ConditionAdapter(config)
        self.time = TimeEmbedding()
        widths = (RGB, *(level.channels for level in levels))
        self.falls = nn.ModuleList(
            Unshuffle(width, level.channels, level.factor) for width, level in zip(widths[:-1], levels, strict=True)
        )
        self.down = nn.ModuleList(
            TimedChain(level.channels, blocks) for level, blocks in zip(levels, config.down_blocks, strict=True)
        )
        skips = [FrameConv(level.channels, level.channels, kernel=1) for level in levels]
        for skip in skips:
            zero_init(skip)
        self.skips = nn.ModuleList(skips)
        self.up = Decoder(config.codec)

    def start_from(self, decoder: Decoder) -> None:
        """Take the weights of the codec's own decoder for the up path."""
        self.up.load_state_dict(decoder.state_dict())

    def condition(self, codes: Tensor, state: State, counts: Tensor) -> tuple[Condition, State]:
        """Of a chunk's codes, of which each sample reads the first `counts` tokens."""
        features, after = self.adapter(codes, state, counts)
        return Condition(codes, counts, features), after

    def forward(self, noisy: Tensor, state: State, time: Tensor, condition: Condition) -> tuple[Tensor, State]:
        """`time`: `B`, 0 for clean and 1 for nothing but noise."""
        scales = len(self.down)
        *before, up_before = (None,) * (scales + 1) if state is None else tuple(state)
        time_features = self.time(time)
        x, passed, after = noisy, [], []
        for place in range(scales):
            x = self.falls[place](x)
            from_latents = scales - 1 - place
            if from_latents < len(condition.features):
                x = x + condition.features[from_latents]
            x, kept = self.down[place](x, before[place], time_features)
            passed.append(self.skips[place](x))
            after.append(kept)
        video, up_after = self.up(condition.codes, up_before, condition.counts, passed[::-1])
        return video, (*after, up_after)

    @property
    def dtype(self) -> torch.dtype:
        return self.adapter.count_bias.dtype

    @property
    def device(self) -> torch.device:
        return self.adapter.count_bias.device
