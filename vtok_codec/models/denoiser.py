"""The network of the diffusion decoder: a causal 3D U-Net on pixel-unshuffled video (CDT, Fig. 2).

The network reads noisy video, a time and the codes of the tokens, and predicts the clean video. Its down path reads the
noisy video; a *condition adapter* adds features of the codes at each scale (CDT, section 3.3.2). Its up path has the
shape of the codec's own decoder, reads the codes in the same way, and adds what the down path passes to it.

The down path passes zeros at first. If the up path starts with the weights of the codec's decoder, the whole network
therefore starts as that decoder, whatever the noise, and training continues from there.

`vtok_codec.models.sampling` generates video from noise with this network.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtok_codec.models.blocks import ResidualBlock, Shuffle, Unshuffle
from vtok_codec.models.causal import FrameConv, State, zero_init
from vtok_codec.models.config import DenoiserConfig
from vtok_codec.models.onevae import RGB, Decoder, first_tokens

_TIME_FREQUENCIES = 32
"""The number of frequencies in the embedding of a time."""
_TIME_FEATURES = 128
"""The number of features in the embedding of a time, F."""
_FASTEST_TIME = 1000.0
"""The highest angular frequency in the embedding of a time in [0, 1]; the lowest is 1."""


class Condition(NamedTuple):
    """What the denoiser reads of the tokens of a chunk. It is the same in every step of decoding the chunk."""

    codes: Tensor
    """The codes of the tokens, `B (N·d) t h w` in [−1, 1]."""
    counts: Tensor
    """The number of tokens to read for each sample, 1…N; int64 `B`."""
    features: tuple[Tensor, ...]
    """Features `B C T H W` for each scale of the down path that the codes enter, from the latent grid to the finest."""


class TimedBlock(ResidualBlock):
    """A residual block whose normalized input is scaled and shifted by amounts that depend on the time.

    Scale and shift have no effect at first.

    Args:
        channels: Feature channels of the input and the output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.modulate = nn.Linear(_TIME_FEATURES, 2 * channels)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def timed(self, x: Tensor, state: State, time: Tensor) -> tuple[Tensor, State]:
        """Run the block on a chunk.

        Args:
            x: Features of the chunk, `B C T H W`.
            state: The state after the preceding chunk, or None at the start of a GOP.
            time: The embedding of the time, `B F` (`TimeEmbedding`).

        Returns:
            Features of the same shape and the state after this chunk.
        """
        scale, shift = self.modulate(time).to(x.dtype)[:, :, None, None, None].chunk(2, dim=1)
        h = self.norm(x)
        return self.changed(x, torch.addcmul(h + shift, h, scale), state)


class TimedChain(nn.Module):
    """A sequence of timed residual blocks. Its state is the tuple of their states.

    Args:
        channels: Feature channels of the input and the output.
        blocks: The number of blocks.
    """

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TimedBlock(channels) for _ in range(blocks))

    def forward(self, x: Tensor, state: State, time: Tensor) -> tuple[Tensor, State]:
        """Run the blocks one after another on a chunk.

        Args:
            x: Features of the chunk, `B C T H W`.
            state: The state after the preceding chunk, or None at the start of a GOP.
            time: The embedding of the time, `B F` (`TimeEmbedding`).

        Returns:
            Features of the same shape and the state after this chunk.
        """
        before: tuple[State, ...] = (None,) * len(self.blocks) if state is None else tuple(state)
        after = []
        for block, kept in zip(self.blocks, before, strict=True):
            assert isinstance(block, TimedBlock)
            x, kept = block.timed(x, kept, time)
            after.append(kept)
        return x, tuple(after)


class TimeEmbedding(nn.Module):
    """Embed times with sinusoids of several frequencies and a network of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 * _TIME_FREQUENCIES, _TIME_FEATURES), nn.SiLU(), nn.Linear(_TIME_FEATURES, _TIME_FEATURES)
        )

    def forward(self, time: Tensor) -> Tensor:
        """Embed times `B` in [0, 1] as features `B F`."""
        steps = torch.linspace(0, 1, _TIME_FREQUENCIES, device=time.device)
        angles = time.float()[:, None] * torch.exp(steps * math.log(_FASTEST_TIME))
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)
        features: Tensor = self.layers(waves.to(next(self.layers.parameters()).dtype))
        return F.silu(features)


class ConditionAdapter(nn.Module):
    """Turn codes into features for the scales of the down path (CDT, Fig. 2).

    The features of each scale are made from those of the next coarser scale.
    """

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
        """Make the features of a chunk.

        Args:
            codes: The codes of the chunk, `B (N·d) t h w` in [−1, 1].
            state: The state after the preceding chunk, or None at the start of a GOP.
            counts: The number of tokens to read for each sample, 1…N; int64 `B`.

        Returns:
            Features `B C T H W` for each scale, from the latent grid to the finest, and the state after this chunk.
        """
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
    """The causal network that predicts clean video from noisy video, its time and its condition."""

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
        """Copy the weights of the codec's own decoder into the up path."""
        self.up.load_state_dict(decoder.state_dict())

    def condition(self, codes: Tensor, state: State, counts: Tensor) -> tuple[Condition, State]:
        """Prepare the condition of a chunk, for use in every step of decoding it.

        Args:
            codes: The codes of the chunk, `B (N·d) t h w` in [−1, 1].
            state: The condition adapter's state after the preceding chunk, or None at the start of a GOP.
            counts: The number of tokens to read for each sample, 1…N; int64 `B`.

        Returns:
            The condition and the condition adapter's state after this chunk.
        """
        features, after = self.adapter(codes, state, counts)
        return Condition(codes, counts, features), after

    def forward(self, noisy: Tensor, state: State, time: Tensor, condition: Condition) -> tuple[Tensor, State]:
        """Predict the clean video of a chunk.

        Args:
            noisy: Noisy video `B 3 T H W`.
            state: The state after the preceding chunk, or None at the start of a GOP.
            time: The time of each sample, `B` in [0, 1]: 0 for clean video, 1 for noise alone.
            condition: The condition of the chunk.

        Returns:
            Clean video `B 3 T H W` in [−1, 1], not clamped, and the state after this chunk.
        """
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
        """The floating-point type of the weights."""
        return self.adapter.count_bias.dtype

    @property
    def device(self) -> torch.device:
        """The device that holds the weights."""
        return self.adapter.count_bias.device
