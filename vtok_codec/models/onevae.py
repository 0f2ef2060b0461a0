"""The OneVAE model: a causal encoder, multi-token FSQ and a causal decoder (OneVAE, section 3).

The networks are built from VidTok's 2D + 1D blocks or their variants. They never convolve at full resolution: the first
layer of the encoder unshuffles the video, in all presets to a quarter of its height and width, and most blocks work on
the latent grid.

A linear path runs beside each network. It maps a whole block of pixels to its latents, or latents to their block of
pixels. Training starts it from the Karhunen–Loève transform (KLT, `vtok_codec.training.codec.klt`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtok_codec.errors import ModelError
from vtok_codec.models.blocks import BLOCKS, downsampling, upsampling
from vtok_codec.models.causal import (
    CausalChain,
    CausalLayer,
    FrameConv,
    PositionNorm,
    State,
    shuffle,
    unshuffle,
    zero_init,
)
from vtok_codec.models.codebook import LFQ, VQ, SimVQ
from vtok_codec.models.config import OneVAEConfig
from vtok_codec.models.first_frame import FirstFrameDecoder, FirstFrameEncoder
from vtok_codec.models.fsq import FSQ
from vtok_codec.models.quantizer import Quantizer

RGB = 3
"""The number of colour channels of a video."""


def make_quantizer(config: OneVAEConfig) -> Quantizer:
    """Make the quantizer that a configuration describes."""
    codebook, tokens = config.codebook, config.max_tokens
    if codebook is None:
        return FSQ(config.fsq_levels, tokens)
    if codebook.kind == "lfq":
        return LFQ(tokens, codebook.channels)
    kind = {"vq": VQ, "simvq": SimVQ}[codebook.kind]
    return kind(tokens, codebook.channels, codebook.size)


class Encoder(CausalLayer):
    """The causal network that turns video into latents.

    With first-frame enhancement, the latents of a GOP start with the phases of its first latent frame in place of that
    latent frame itself (`vtok_codec.models.first_frame`).
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
        """Yield the layers of each level, from the finest level to the latent grid."""
        make = partial(BLOCKS[config.blocks], causal=config.causal, expansion=config.expansion)
        channels, kind = RGB, "shuffle"
        for level in config.levels:
            blocks = [make(level.channels) for _ in range(level.encoder_blocks)]
            yield [downsampling(kind, channels, level.channels, level.factor), *blocks]
            # The first downsampling, which reads pixels, is always a plain unshuffle.
            channels, kind = level.channels, config.resampling

    def forward(self, video: Tensor, state: State) -> tuple[Tensor, State]:
        """Encode a chunk of video.

        Args:
            video: `B 3 T H W` in [−1, 1]; T, H and W must be multiples of the stride `(st, sh, sw)`.
            state: The state after the preceding chunk, or None at the start of a GOP.

        Returns:
            Latents `B (N·d) T/st H/sh W/sw` and the state after this chunk. With first-frame enhancement, the first
            chunk of a GOP has `fh·fw − 1` more latent frames.
        """
        if self.first is None:
            features, after = self.chain(video, state)
            return self._latents(video, features), after
        before, deep_before = (None, None) if state is None else state
        above, after = self.chain(video, before)
        features, deep_after = self.deep(above, deep_before)
        latents = self._latents(video, features)
        if state is None:
            # A latent frame stands for `seen` frames of the level above. The last of them has seen the others.
            seen = above.shape[2] // latents.shape[2]
            phases = self.first(video[:, :, : self.stride[0]], above[:, :, seen - 1 : seen])
            latents = torch.cat([phases, latents[:, :, 1:]], dim=2)
        return latents, (after, deep_after)

    def _latents(self, video: Tensor, features: Tensor) -> Tensor:
        refined: Tensor = self.out(F.silu(self.norm(features)))
        return refined + self.linear(unshuffle(video, self.stride))


def first_tokens(codes: Tensor, counts: Tensor, token_channels: int) -> Tensor:
    """Set all but the first tokens of each sample to zero.

    Args:
        codes: `B (N·d) t h w`.
        counts: The number of tokens to keep for each sample; int64 `B`.
        token_channels: Latent channels per token, d.

    Returns:
        Codes of the same shape, channels-last in memory.
    """
    token = torch.arange(codes.shape[1], device=codes.device) // token_channels
    kept = (token[None] < counts[:, None])[:, :, None, None, None]
    return (codes * kept.to(codes.dtype)).to(memory_format=torch.channels_last_3d)


class Correction(NamedTuple):
    """Features that another network adds to what a decoder reads."""

    features: Tensor
    """Features to add at the latent grid, `B C T h w`. The phases of a first latent frame count as one of T."""
    first: Tensor | None = None
    """Features to add to an enhanced first frame at its own grid, `B C 1 fh·h fw·w`; None in later chunks."""


class Decoder(CausalLayer):
    """The causal network that turns codes into video.

    With first-frame enhancement, the codes of a GOP start with the phases of its first latent frame, in the order in
    which the encoder returns them.
    """

    def __init__(self, config: OneVAEConfig) -> None:
        super().__init__()
        self.stride = config.stride
        self.token_channels = config.token_channels
        self.max_tokens = config.max_tokens
        finest, coarsest = config.levels[0], config.levels[-1]
        self.enter = FrameConv(config.latent_channels, coarsest.channels, kernel=1)
        # This bias tells the network how many tokens it reads: a dropped token looks like one whose codes are all zero.
        self.count_bias = nn.Parameter(torch.zeros(config.max_tokens, coarsest.channels))
        first, *layers = self._layers(config)
        self.first: FirstFrameDecoder | None = None
        if config.enhanced_first_frame:
            channels = (config.levels[-2].channels, coarsest.channels)
            self.first = FirstFrameDecoder(
                config.latent_channels, config.max_tokens, channels, self.stride, config.first_grid
            )
            self.phases = config.layout.phases
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
        """Yield the layers of each level, from the latent grid to the finest level.

        The layers of each level end with the upsampling to the next finer level, if there is one.
        """
        make = partial(BLOCKS[config.blocks], causal=config.causal, expansion=config.expansion)
        for index in range(len(config.levels) - 1, -1, -1):
            level = config.levels[index]
            layers: list[nn.Module] = [make(level.channels) for _ in range(level.decoder_blocks)]
            if index > 0:
                finer = config.levels[index - 1].channels
                layers.append(upsampling(config.resampling, level.channels, finer, level.factor))
            yield layers

    def forward(
        self,
        codes: Tensor,
        state: State,
        counts: Tensor | None = None,
        passed: Sequence[Tensor] = (),
        correction: Correction | None = None,
    ) -> tuple[Tensor, State]:
        """Decode a chunk of codes.

        Args:
            codes: `B (N·d) t h w` in [−1, 1].
            state: The state after the preceding chunk, or None at the start of a GOP.
            counts: The number of tokens to read for each sample, 1…N; int64 `B`. The other tokens are set to zero.
                None reads all tokens.
            passed: Features to add to the input of each level, from the latent grid to the finest: one tensor per
                level, or none at all. A decoder with first-frame enhancement ignores them.
            correction: Features to add where the codes enter.

        Returns:
            Video `B 3 t·st h·sh w·sw` in [−1, 1], not clamped, and the state after this chunk. The phases of a first
            latent frame count as one latent frame here.
        """
        if counts is None:
            counts = torch.full((codes.shape[0],), self.max_tokens, device=codes.device)
        codes = first_tokens(codes, counts, self.token_channels)
        if self.first is None:
            added = dict(zip(self.level_starts, passed, strict=bool(passed)))
            features, after = self.chain(_corrected(self._enter(codes, counts), correction), state, added)
            return shuffle(self.linear(codes), self.stride) + self._detail(features), after
        before, deep_before = (None, None) if state is None else state
        if state is None:
            fine, anchor, pixels = self.first(
                codes[:, :, : self.phases], counts, correction.first if correction else None
            )
            codes = codes[:, :, self.phases :]
            entered = _corrected(torch.cat([anchor, self._enter(codes, counts)], dim=2), correction)
            above, deep_after = self.deep(entered, None)
            seen = above.shape[2] // entered.shape[2]
            above = torch.cat([above[:, :, :seen] + fine, above[:, :, seen:]], dim=2)
            linear = torch.cat([pixels, shuffle(self.linear(codes), self.stride)], dim=2)
        else:
            above, deep_after = self.deep(_corrected(self._enter(codes, counts), correction), deep_before)
            linear = shuffle(self.linear(codes), self.stride)
        features, after = self.chain(above, before)
        return linear + self._detail(features), (after, deep_after)

    def _enter(self, codes: Tensor, counts: Tensor) -> Tensor:
        features: Tensor = self.enter(codes)
        bias = self.count_bias[counts - 1].to(features.dtype)
        return features + bias[:, :, None, None, None]

    def _detail(self, features: Tensor) -> Tensor:
        return shuffle(self.out(F.silu(self.norm(features))), self.out_factor)


def _corrected(features: Tensor, correction: Correction | None) -> Tensor:
    """Return features at the latent grid with a correction, if there is one."""
    return features if correction is None else features + correction.features


class OneVAE(nn.Module):
    """A codec model: an encoder, a quantizer and a decoder."""

    def __init__(self, config: OneVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quantizer = make_quantizer(config)
        self.decoder = Decoder(config)

    @property
    def fsq(self) -> FSQ:
        """The model's FSQ quantizer.

        Raises:
            ModelError: The model has a quantizer other than FSQ, so its tokens have no digits.
        """
        if not isinstance(self.quantizer, FSQ):
            raise ModelError(f"the model quantizes by {type(self.quantizer).__name__}, which has no digits")
        return self.quantizer

    def encode_digits(self, video: Tensor, state: State, stickiness: float = 0.0) -> tuple[Tensor, State]:
        """Encode a chunk of video to digits.

        Args:
            video: `B 3 T H W` in [−1, 1]; T, H and W must be multiples of the stride `(st, sh, sw)`.
            state: The state after the preceding chunk, or None at the start of a GOP. It holds the encoder's state and
                the digits of the last latent frame, which `stickiness` refers to.
            stickiness: How much farther than 0.5 a latent may lie from a digit's preceding value before the digit
                changes, in units of digits (`FSQ.digits`).

        Returns:
            Digits, uint8 `B (N·d) T/st H/sh W/sw`, and the state after this chunk. With first-frame enhancement, the
            first chunk of a GOP has `fh·fw − 1` more latent frames.

        Raises:
            ModelError: The model has a quantizer other than FSQ, so its tokens have no digits.
        """
        before, last = (None, None) if state is None else state
        latents, after = self.encoder(video, before)
        assert last is None or isinstance(last, Tensor)
        # Phases do not follow each other in time, so no digit keeps its value from one of them.
        enhanced = self.config.enhanced_first_frame and state is None
        phases = self.config.layout.phases if enhanced else 0
        fine, usual = latents[:, :, :phases], latents[:, :, phases:]
        digits = torch.cat([self.fsq.digits(fine), self.fsq.digits(usual, last, stickiness)], dim=2)
        # Clone, since a view would keep the memory of the whole chunk alive.
        return digits, (after, digits[:, :, -1:].clone() if usual.shape[2] else None)

    def encode_values(self, video: Tensor, state: State) -> tuple[Tensor, State]:
        """Encode a chunk of video to digits before rounding.

        Args:
            video: See `encode_digits`.
            state: The state after the preceding chunk, or None at the start of a GOP.

        Returns:
            fp32 values `B (N·d) T/st H/sh W/sw`, which `encode_digits` rounds to digits, and the state after this
            chunk.
        """
        before, _ = (None, None) if state is None else state
        latents, after = self.encoder(video, before)
        return self.fsq.bound(latents) + self.fsq.zero_digit, (after, None)

    def decode_digits(self, digits: Tensor, state: State) -> tuple[Tensor, State]:
        """Decode a chunk of digits to video.

        Args:
            digits: The digits of the first k ≤ N tokens, uint8 `B (k·d) t h w`.
            state: The decoder's state after the preceding chunk, or None at the start of a GOP.

        Returns:
            Video `B 3 t·st h·sh w·sw` in [−1, 1], not clamped, and the decoder's state after this chunk. The phases of
            a first latent frame count as one latent frame here.

        Raises:
            ModelError: The model has a quantizer other than FSQ, so its tokens have no digits.
        """
        b, c = digits.shape[:2]
        per_token = self.config.token_channels
        codes = self.fsq.codes(self.whole(digits))
        counts = torch.full((b,), c // per_token, device=digits.device)
        return self.decoder(codes.to(self.dtype), state, counts)

    def whole(self, x: Tensor) -> Tensor:
        """Append channels of zeros to digits or codes of the first tokens, `B C t h w`, in place of all other tokens.

        The decoder is told how many tokens count, and reads nothing of the others.
        """
        # The padding of each axis before and behind, from the last axis to the channels.
        return F.pad(x, (0, 0, 0, 0, 0, 0, 0, self.config.latent_channels - x.shape[1]))

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the weights."""
        return self.decoder.count_bias.dtype

    @property
    def device(self) -> torch.device:
        """The device that holds the weights."""
        return self.decoder.count_bias.device
