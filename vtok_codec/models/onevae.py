"""OneVAE: causal encoder, multi-token FSQ, causal decoder (OneVAE, section 3; VidTok's 2D + 1D blocks).

The networks never convolve at full resolution: a first unshuffle takes the video to a quarter of its size, and most
blocks work on the latent grid. Beside each network runs a linear path, from a whole block of pixels to its latents
and back, which training starts from the KLT (`vtok_codec.training.klt`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtok_codec.errors import ModelError
from vtok_codec.models.blocks import BLOCKS, RESAMPLING, downsampling, upsampling
from vtok_codec.models.causal import (
    CausalChain,
    CausalLayer,
    Factor,
    FrameConv,
    PositionNorm,
    State,
    shuffle,
    unshuffle,
    zero_init,
)
from vtok_codec.models.codebook import LFQ, VQ, SimVQ
from vtok_codec.models.first_frame import FirstFrameDecoder, FirstFrameEncoder
from vtok_codec.models.fsq import FSQ
from vtok_codec.models.quantizer import Quantizer

RGB = 3


@dataclass(frozen=True)
class Level:
    """One resolution of the networks: how it is reached from the finer one, its width, its blocks."""

    factor: Factor
    channels: int
    encoder_blocks: int
    decoder_blocks: int


@dataclass(frozen=True)
class Codebook:
    """A quantizer to compare FSQ with."""

    kind: str
    """`vq`, `simvq` or `lfq`."""
    channels: int
    """Of a token. LFQ has two to the power of it as entries."""
    size: int = 0
    """Entries, where `kind` is not `lfq`."""


@dataclass(frozen=True)
class OneVAEConfig:
    """The shape of a model: data, not code."""

    levels: tuple[Level, ...]
    """From the finest to the latent grid."""
    fsq_levels: tuple[int, ...]
    """Levels of each digit of a token."""
    max_tokens: int
    """Tokens a latent position, N: nested, the first k of them always decodable."""
    blocks: str = "2d+1d"
    """Of `BLOCKS`."""
    resampling: str = "shuffle"
    """Of `RESAMPLING`."""
    expansion: float = 1.0
    """Channels between the convolutions of a residual block for each one outside."""
    causal: bool = True
    """Without it every frame sees its neighbours on both sides: for whole clips only, no codec can stream it."""
    codebook: Codebook | None = None
    """In place of FSQ; such a model has no digits, so that no `.vtk` can hold its tokens."""
    enhanced_first_frame: bool = False
    """Whether the first latent frame of a GOP has the grid of the level above the latent grid (`first_frame`)."""

    def __post_init__(self) -> None:
        if self.blocks not in BLOCKS or self.resampling not in RESAMPLING:
            raise ModelError(f"no blocks {self.blocks!r} or no resampling {self.resampling!r}")
        if self.enhanced_first_frame and (len(self.levels) < 2 or not self.causal):
            raise ModelError("only a causal model of two levels or more can have an enhanced first frame")

    @property
    def stride(self) -> Factor:
        """Pixels a latent position stands for, over time, height and width."""
        t, h, w = (math.prod(level.factor[axis] for level in self.levels) for axis in range(3))
        return t, h, w

    @property
    def first_grid(self) -> tuple[int, int]:
        """Rows and columns that the first latent frame of a GOP has for each of a later one."""
        _, rows, columns = self.levels[-1].factor
        return (rows, columns) if self.enhanced_first_frame else (1, 1)

    @property
    def token_channels(self) -> int:
        """Latent channels of a token, d."""
        return self.codebook.channels if self.codebook else len(self.fsq_levels)

    @property
    def latent_channels(self) -> int:
        return self.token_channels * self.max_tokens


def make_quantizer(config: OneVAEConfig) -> Quantizer:
    """The quantizer of a configuration.

    Raises:
        ModelError: there is none of that kind.
    """
    codebook, tokens = config.codebook, config.max_tokens
    if codebook is None:
        return FSQ(config.fsq_levels, tokens)
    if codebook.kind == "lfq":
        return LFQ(tokens, codebook.channels)
    kinds = {"vq": VQ, "simvq": SimVQ}
    if codebook.kind not in kinds:
        raise ModelError(f"no quantizer {codebook.kind!r}; use fsq, lfq, {', '.join(kinds)}")
    return kinds[codebook.kind](tokens, codebook.channels, codebook.size)


class Encoder(CausalLayer):
    """Video `B 3 T H W` in [−1, 1] → latents `B (N·d) T/st H/sh W/sw`. T, H, W must be multiples of the stride.

    With an enhanced first frame a GOP starts with the phases of that one (`first_frame`) in place of one latent frame.
    """

    def __init__(self, config: OneVAEConfig) -> None:
        super().__init__()
        self.stride = config.stride
        *layers, last = self._layers(config)
        channels = config.levels[-1].channels
        self.first: FirstFrameEncoder | None = None
        if config.enhanced_first_frame:
            above = config.levels[-2].channels
            self.first = FirstFrameEncoder(above, config.latent_channels, self.stride, config.first_grid)
            self.deep = CausalChain(last)
        else:
            layers.append(last)
        self.chain = CausalChain(layer for level in layers for layer in level)
        self.norm = PositionNorm(channels)
        self.out = FrameConv(channels, config.latent_channels, kernel=1)
        zero_init(self.out)
        self.linear = FrameConv(RGB * math.prod(self.stride), config.latent_channels, kernel=1)

    @staticmethod
    def _layers(config: OneVAEConfig) -> Iterator[list[nn.Module]]:
        """Level by level, from the finest."""
        make = partial(BLOCKS[config.blocks], causal=config.causal, expansion=config.expansion)
        channels, kind = RGB, "shuffle"
        for level in config.levels:
            blocks = [make(level.channels) for _ in range(level.encoder_blocks)]
            yield [downsampling(kind, channels, level.channels, level.factor), *blocks]
            # Pixels themselves are only ever unshuffled.
            channels, kind = level.channels, config.resampling

    def forward(self, video: Tensor, state: State) -> tuple[Tensor, State]:
        if self.first is None:
            features, after = self.chain(video, state)
            return self._latents(video, features), after
        before, deep_before = (None, None) if state is None else state
        above, after = self.chain(video, before)
        features, deep_after = self.deep(above, deep_before)
        latents = self._latents(video, features)
        if state is None:
            # Of the frames above the first latent one, the last has seen them all.
            seen = above.shape[2] // latents.shape[2]
            phases = self.first(video[:, :, : self.stride[0]], above[:, :, seen - 1 : seen])
            latents = torch.cat([phases, latents[:, :, 1:]], dim=2)
        return latents, (after, deep_after)

    def _latents(self, video: Tensor, features: Tensor) -> Tensor:
        refined: Tensor = self.out(F.silu(self.norm(features)))
        return refined + self.linear(unshuffle(video, self.stride))


def first_tokens(codes: Tensor, counts: Tensor, token_channels: int) -> Tensor:
    """Codes `B (N·d) t h w` with all but the first `counts` tokens of each sample set to zero, channels-last."""
    token = torch.arange(codes.shape[1], device=codes.device) // token_channels
    kept = (token[None] < counts[:, None])[:, :, None, None, None]
    return (codes * kept.to(codes.dtype)).to(memory_format=torch.channels_last_3d)


class Decoder(CausalLayer):
    """Codes `B (N·d) t h w` in [−1, 1] → video `B 3 t·st h·sh w·sw` in [−1, 1] (not clamped).

    With an enhanced first frame a GOP starts with the phases of that one, as the encoder gives them.
    """

    def __init__(self, config: OneVAEConfig) -> None:
        super().__init__()
        self.stride = config.stride
        self.token_channels = config.token_channels
        self.max_tokens = config.max_tokens
        finest, coarsest = config.levels[0], config.levels[-1]
        self.enter = FrameConv(config.latent_channels, coarsest.channels, kernel=1)
        # Tells the network how many tokens it reads: a dropped token and one of zeros look alike.
        self.count_bias = nn.Parameter(torch.zeros(config.max_tokens, coarsest.channels))
        first, *layers = self._layers(config)
        self.first: FirstFrameDecoder | None = None
        if config.enhanced_first_frame:
            channels = (config.levels[-2].channels, coarsest.channels)
            self.first = FirstFrameDecoder(
                config.latent_channels, config.max_tokens, channels, self.stride, config.first_grid
            )
            self.phases = math.prod(config.first_grid)
            self.deep = CausalChain(first)
        else:
            layers.insert(0, first)
        self.chain = CausalChain(layer for level in layers for layer in level)
        self.level_starts = tuple(accumulate((len(level) for level in layers[:-1]), initial=0))
        self.norm = PositionNorm(finest.channels)
        self.out = FrameConv(finest.channels, RGB * math.prod(finest.factor))
        zero_init(self.out)
        self.out_factor = finest.factor
        self.linear = FrameConv(config.latent_channels, RGB * math.prod(self.stride), kernel=1)

    @staticmethod
    def _layers(config: OneVAEConfig) -> Iterator[list[nn.Module]]:
        """Level by level, from the latent grid, each with the way to the next finer one."""
        make = partial(BLOCKS[config.blocks], causal=config.causal, expansion=config.expansion)
        for index in range(len(config.levels) - 1, -1, -1):
            level = config.levels[index]
            layers: list[nn.Module] = [make(level.channels) for _ in range(level.decoder_blocks)]
            if index > 0:
                finer = config.levels[index - 1].channels
                layers.append(upsampling(config.resampling, level.channels, finer, level.factor))
            yield layers

    def forward(
        self, codes: Tensor, state: State, counts: Tensor | None = None, passed: Sequence[Tensor] = ()
    ) -> tuple[Tensor, State]:
        """`counts`, int64 `B`: the tokens to read of each sample, 1…N; the rest are set to zero. None reads all.

        `passed`: features to add to what each level reads, from the latent grid on, for none or all; where the first
        frame is usual.
        """
        if counts is None:
            counts = torch.full((codes.shape[0],), self.max_tokens, device=codes.device)
        codes = first_tokens(codes, counts, self.token_channels)
        if self.first is None:
            added = dict(zip(self.level_starts, passed, strict=bool(passed)))
            features, after = self.chain(self._enter(codes, counts), state, added)
            return shuffle(self.linear(codes), self.stride) + self._detail(features), after
        before, deep_before = (None, None) if state is None else state
        if state is None:
            fine, anchor, pixels = self.first(codes[:, :, : self.phases], counts)
            codes = codes[:, :, self.phases :]
            entered = torch.cat([anchor, self._enter(codes, counts)], dim=2)
            above, deep_after = self.deep(entered, None)
            seen = above.shape[2] // entered.shape[2]
            above = torch.cat([above[:, :, :seen] + fine, above[:, :, seen:]], dim=2)
            linear = torch.cat([pixels, shuffle(self.linear(codes), self.stride)], dim=2)
        else:
            above, deep_after = self.deep(self._enter(codes, counts), deep_before)
            linear = shuffle(self.linear(codes), self.stride)
        features, after = self.chain(above, before)
        return linear + self._detail(features), (after, deep_after)

    def _enter(self, codes: Tensor, counts: Tensor) -> Tensor:
        features: Tensor = self.enter(codes)
        bias = self.count_bias[counts - 1].to(features.dtype)
        return features + bias[:, :, None, None, None]

    def _detail(self, features: Tensor) -> Tensor:
        return shuffle(self.out(F.silu(self.norm(features))), self.out_factor)


class OneVAE(nn.Module):
    """The encoder, the quantizer and the decoder of one configuration."""

    def __init__(self, config: OneVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quantizer = make_quantizer(config)
        self.decoder = Decoder(config)

    @property
    def fsq(self) -> FSQ:
        """The quantizer of a model that has digits.

        Raises:
            ModelError: this one quantizes by another means.
        """
        if not isinstance(self.quantizer, FSQ):
            raise ModelError(f"the model quantizes by {type(self.quantizer).__name__}, which has no digits")
        return self.quantizer

    def encode_digits(self, video: Tensor, state: State, stickiness: float = 0.0) -> tuple[Tensor, State]:
        """Video `B 3 T H W` in [−1, 1] → digits uint8 `B (N·d) T/st H/sh W/sw`, and the state after it.

        The state is the encoder's with the last digits, which `stickiness` needs; see `FSQ.digits`.
        """
        before, last = (None, None) if state is None else state
        latents, after = self.encoder(video, before)
        assert last is None or isinstance(last, Tensor)
        # The phases of an enhanced first frame are no frames that a digit could keep its value from.
        phases = math.prod(self.config.first_grid) if state is None and self.config.enhanced_first_frame else 0
        fine, usual = latents[:, :, :phases], latents[:, :, phases:]
        digits = torch.cat([self.fsq.digits(fine), self.fsq.digits(usual, last, stickiness)], dim=2)
        # A copy, since a view would keep the whole chunk alive.
        return digits, (after, digits[:, :, -1:].clone() if usual.shape[2] else None)

    def decode_digits(self, digits: Tensor, state: State) -> tuple[Tensor, State]:
        """Digits uint8 `B (k·d) t h w` of the first k ≤ N tokens → video in [−1, 1], and the decoder's state."""
        b, c = digits.shape[:2]
        per_token = self.config.token_channels
        codes = self.fsq.codes(F.pad(digits, (0,) * 7 + (self.config.latent_channels - c,)))
        counts = torch.full((b,), c // per_token, device=digits.device)
        return self.decoder(codes.to(self.dtype), state, counts)

    @property
    def dtype(self) -> torch.dtype:
        return self.decoder.count_bias.dtype

    @property
    def device(self) -> torch.device:
        return self.decoder.count_bias.device
