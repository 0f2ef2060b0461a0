"""The diffusion decoder's network: a causal 3D U-Net on pixel-unshuffled video, conditioned on tokens (CDT, Fig. 2).

It reads noisy video and a time, and tells the clean video. The codes of the tokens come in through a *condition
adapter* at each scale of the down path (CDT, section 3.3.2). Its up path has the shape of the deterministic decoder
and starts from its weights; all that is new starts at zero. So an untrained network gives the deterministic picture,
whatever the noise, and training starts there rather than at nothing.

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
from vtok_codec.models.causal import CausalLayer, FrameConv, PositionNorm, State, shuffle, zero_init
from vtok_codec.models.onevae import RGB, Level, OneVAE, OneVAEConfig

_TIME_FREQUENCIES = 32
_TIME_FEATURES = 128
_FASTEST_TIME = 1000.0
"""Of the sinusoids that tell the time 0…1."""


@dataclass(frozen=True)
class DenoiserConfig:
    """The shape of a diffusion decoder: data, not code."""

    codec: OneVAEConfig
    """The model whose tokens it decodes."""
    objective: str
    """Of `vtok_codec.models.sampling.PATHS`: what its noise and its loss follow."""
    down_blocks: tuple[int, ...]
    """Blocks of the down path at each level of the codec, from the finest to the latent grid."""
    adapter_scales: int = 0
    """At how many scales of the down path the condition comes in, from the latent grid on; 0 means all."""

    def __post_init__(self) -> None:
        plain = self.codec.blocks == "2d+1d" and self.codec.resampling == "shuffle" and self.codec.causal
        if not plain or self.codec.codebook or self.codec.enhanced_first_frame:
            raise ModelError("a diffusion decoder needs a causal codec of FSQ, usual blocks and one latent grid")
        if len(self.down_blocks) != len(self.levels) or not 0 <= self.adapter_scales <= len(self.levels):
            raise ModelError("a diffusion decoder has blocks at each level of its codec, and as many scales at most")

    @property
    def levels(self) -> tuple[Level, ...]:
        """From the finest to the latent grid."""
        return self.codec.levels


class Condition(NamedTuple):
    """What the codes of a chunk say: the same at every step of its decoding."""

    features: tuple[Tensor, ...]
    """`B C T H W` at each scale of the down path that has an adapter, from the latent grid on."""
    linear: Tensor
    """`B 3 T H W`: the linear path's pixels."""


class TimedBlock(ResidualBlock):
    """A residual block whose normed input is scaled and shifted by what the time says; at first not at all."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.modulate = nn.Linear(_TIME_FEATURES, 2 * channels)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, x: Tensor, state: State, time: Tensor | None = None) -> tuple[Tensor, State]:
        """`time`: `B` features. None leaves the normed input as it is."""
        h = self.norm(x)
        if time is not None:
            scale, shift = self.modulate(time).to(h.dtype)[:, :, None, None, None].chunk(2, dim=1)
            h = torch.addcmul(h + shift, h, scale)
        h = F.silu(self.spatial(h))
        mixed, state = self.temporal(h, state)
        return x + self.out(F.silu(h + mixed)), state


class TimedChain(CausalLayer):
    """Timed blocks one after another."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TimedBlock(channels) for _ in range(blocks))

    def forward(self, x: Tensor, state: State, time: Tensor | None = None) -> tuple[Tensor, State]:
        before: tuple[State, ...] = (None,) * len(self.blocks) if state is None else tuple(state)
        after = []
        for block, kept in zip(self.blocks, before, strict=True):
            x, kept = block(x, kept, time)
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


class ConditionAdapter(CausalLayer):
    """Codes → features for each scale of the down path, the finer ones made of the coarser ones (CDT, Fig. 2)."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        codec = config.codec
        levels = codec.levels[::-1][: config.adapter_scales or None]
        self.token_channels, self.max_tokens = codec.token_channels, codec.max_tokens
        self.stride = codec.stride
        self.enter = FrameConv(codec.latent_channels, levels[0].channels, kernel=1)
        self.count_bias = nn.Parameter(torch.zeros(codec.max_tokens, levels[0].channels))
        self.linear = FrameConv(codec.latent_channels, RGB * math.prod(codec.stride), kernel=1)
        self.mixes = nn.ModuleList(ResidualBlock(level.channels) for level in levels[:-1])
        self.rises = nn.ModuleList(
            Shuffle(level.channels, finer.channels, level.factor) for level, finer in pairwise(levels)
        )
        for rise in self.rises:
            zero_init(rise.project)  # type: ignore[arg-type]

    def condition(self, codes: Tensor, state: State, counts: Tensor | None = None) -> tuple[Condition, State]:
        """Codes `B (N·d) t h w` in [−1, 1], of which each sample reads the first `counts` tokens, 1…N."""
        if counts is None:
            counts = torch.full((codes.shape[0],), self.max_tokens, device=codes.device)
        token = torch.arange(codes.shape[1], device=codes.device) // self.token_channels
        kept = (token[None] < counts[:, None])[:, :, None, None, None]
        codes = (codes * kept.to(codes.dtype)).to(memory_format=torch.channels_last_3d)
        bias = self.count_bias[counts - 1][:, :, None, None, None]
        x = self.enter(codes)
        x = x + bias.to(x.dtype)
        before: tuple[State, ...] = (None,) * len(self.mixes) if state is None else tuple(state)
        features, after = [x], []
        for mix, rise, kept_state in zip(self.mixes, self.rises, before, strict=True):
            x, kept_state = mix(x, kept_state)
            x = rise(x)
            features.append(x)
            after.append(kept_state)
        return Condition(tuple(features), shuffle(self.linear(codes), self.stride)), tuple(after)


class Denoiser(nn.Module):
    """Noisy video `B 3 T H W`, its time and its condition → the clean video, in [−1, 1] (not clamped). Causal."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        levels = config.levels
        self.adapter = ConditionAdapter(config)
        self.time = TimeEmbedding()
        widths = (RGB, *(level.channels for level in levels))
        self.falls = nn.ModuleList(
            Unshuffle(width, level.channels, level.factor) for width, level in zip(widths[:-1], levels, strict=True)
        )
        self.down = nn.ModuleList(
            TimedChain(level.channels, blocks) for level, blocks in zip(levels, config.down_blocks, strict=True)
        )
        self.up = nn.ModuleList(TimedChain(level.channels, level.decoder_blocks) for level in levels)
        self.rises = nn.ModuleList(
            Shuffle(level.channels, finer.channels, level.factor) for finer, level in pairwise(levels)
        )
        self.skips = nn.ModuleList(FrameConv(level.channels, level.channels, kernel=1) for level in levels[:-1])
        finest = levels[0]
        self.norm = PositionNorm(finest.channels)
        self.out = FrameConv(finest.channels, RGB * math.prod(finest.factor))
        into_latents = self.falls[-1].project
        for conv in (*self.skips, into_latents, self.out):
            zero_init(conv)

    def forward(self, noisy: Tensor, state: State, time: Tensor, condition: Condition) -> tuple[Tensor, State]:
        """`time`: `B`, 0 for clean and 1 for nothing but noise."""
        count = len(self.config.levels)
        before: tuple[State, ...] = (None,) * (2 * count) if state is None else tuple(state)
        after: list[State] = [None] * (2 * count)
        features = self.time(time)
        x, passed = noisy, []
        for place in range(count):
            x = self.falls[place](x)
            from_latents = count - 1 - place
            if from_latents < len(condition.features):
                x = x + condition.features[from_latents]
            x, after[place] = self.down[place](x, before[place], features)
            passed.append(x)
        for place in range(count - 1, -1, -1):
            if place < count - 1:
                x = self.rises[place](x) + self.skips[place](passed[place])
            x, after[count + place] = self.up[place](x, before[count + place], features)
        detail = shuffle(self.out(F.silu(self.norm(x))), self.config.levels[0].factor)
        return condition.linear + detail, tuple(after)

    @torch.no_grad()
    def start_from(self, codec: OneVAE) -> None:
        """Take over the deterministic decoder: its picture is what an untrained network gives."""
        decoder = codec.decoder
        for mine, theirs in (
            (self.adapter.enter, decoder.enter),
            (self.adapter.linear, decoder.linear),
            (self.norm, decoder.norm),
            (self.out, decoder.out),
        ):
            mine.load_state_dict(theirs.state_dict())
        self.adapter.count_bias.copy_(decoder.count_bias)
        layers = list(decoder.chain.layers)
        for place in range(len(self.config.levels) - 1, -1, -1):
            for block in self.up[place].blocks:  # type: ignore[union-attr]
                block.load_state_dict(layers.pop(0).state_dict() | _prefixed("modulate.", block.modulate))
            if place:
                self.rises[place - 1].load_state_dict(layers.pop(0).state_dict())

    @property
    def dtype(self) -> torch.dtype:
        return self.adapter.count_bias.dtype

    @property
    def device(self) -> torch.device:
        return self.adapter.count_bias.device


def _prefixed(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in module.state_dict().items()}
