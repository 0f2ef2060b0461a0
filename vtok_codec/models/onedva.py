"""One-DVA at the latent grid: a few 1D tokens per window of video add to what a codec's first token tells.

One-DVA (arXiv:2602.04220) codes a video as a *structural* latent on a grid, and a sequence of *1D tokens* that belong
to no place and may be cut off at any length. Here the first token of every latent position of a codec is the structural
latent. A transformer reads the codec's latents in *windows*, some positions of some latent frames, together with
learnable queries; each query becomes one 1D token. A second transformer reads the structural tokens of the window and
as many of its 1D tokens as there are, and predicts the codes of the second token of every position. The codec's decoder
then turns both into pixels. That decoder was trained on exact second tokens, so the transformer also adds features
where the tokens enter it, to say how far to trust them.

A linear path runs beside both transformers. For each digit, a 1D token holds the projection of the second token's codes
onto one direction; decoding adds it back along a direction. Training starts the directions from the Karhunen–Loève
transform (`vtok_codec.training.onedva.klt`), strongest first, so that the first tokens say most.

The second transformer can also be a step of a diffusion decoder: it then reads noisy codes of the second token as well.

Windows share no positions, but each also reads a margin of its neighbours. In time they follow each other: the latent
frames that a window spans are a *group*, and each group also reads the last latent frame of the group before, which is
the state of a stream.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtok_codec.models.config import OneDVAConfig
from vtok_codec.models.first_frame import from_phases
from vtok_codec.models.fsq import FSQ
from vtok_codec.models.onevae import Correction, Decoder
from vtok_codec.models.transformer import Block, Norm, rotations, rotations_at
from vtok_codec.models.windows import cut_windows, join_windows

_EMBEDDING_STD = 0.5
_LINEAR_UNIT = 1 / 32
"""The unit in which the linear path is stored, so that it learns about as fast as other weights."""
_TIME_OCTAVES = 8
"""The frequencies, each twice the one before, by which a time enters a network."""


class Group(NamedTuple):
    """The place of a group of latent frames in a stream."""

    first: bool
    """Whether the group starts a GOP, so that its first latent frames are the phases of one."""
    last: Tensor | None
    """The codes of both tokens in the latent frame before the group, `B 2·d h w`; None at the start of a GOP."""


class Prediction(NamedTuple):
    """What 1D tokens add to a group of latent frames."""

    second: Tensor
    """The codes of the second token, `B d t h w`."""
    correction: Correction
    """Features to add where the codes enter the codec's decoder."""


class NoisyCodes(NamedTuple):
    """What a step of a diffusion decoder starts from."""

    codes: Tensor
    """The codes of the second token, mixed with noise, `B d t h w`."""
    time: Tensor
    """How far along the path from clean codes to noise they are, 0…1, fp32 `B`."""


class _StepsIn(nn.Module):
    """Turns latent frames into features of time steps. All phases of a first latent frame make one time step."""

    def __init__(self, channels: int, phases: int, width: int) -> None:
        super().__init__()
        self.phases = phases
        self.first = nn.Linear(phases * channels, width)
        self.later = nn.Linear(channels, width)

    def forward(self, x: Tensor, first: bool) -> Tensor:
        """Turn latent frames `B C t h w` into features `B T h w width`; `first` tells whether they start a GOP."""
        begin = self.phases if first else 0
        later: Tensor = self.later(x[:, :, begin:].movedim(1, -1))
        if not first:
            return later
        start = self.first(x[:, :, :begin].flatten(1, 2).movedim(1, -1))
        return torch.cat([start[:, None], later], 1)


class _StepsOut(nn.Module):
    """Turns features of time steps into latent frames, as `_StepsIn` does the other way."""

    def __init__(self, channels: int, phases: int, width: int) -> None:
        super().__init__()
        self.phases = phases
        self.first = nn.Linear(width, phases * channels)
        self.later = nn.Linear(width, channels)
        for layer in (self.first, self.later):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, first: bool) -> Tensor:
        """Turn features `B T h w width` into latent frames `B C t h w`."""
        begin = 1 if first else 0
        later: Tensor = self.later(x[:, begin:]).movedim(-1, 1)
        if not first:
            return later
        start = self.first(x[:, 0]).movedim(-1, 1).unflatten(1, (-1, self.phases))
        return torch.cat([start, later], 2)


class _Transformer(nn.Module):
    """A transformer over the positions of a window, with its margin, and a sequence of tokens.

    Each token has a *home*, a place that its position embedding turns by. Homes are learned; before training, they are
    spread evenly over the window, and so are those of the first tokens alone.
    """

    def __init__(self, config: OneDVAConfig) -> None:
        super().__init__()
        self.config = config
        self.homes = nn.Parameter(_homes(config))
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.blocks))

    def forward(self, positions: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the transformer.

        Args:
            positions: Features of the positions of N windows, `N T r c width` with the margin.
            tokens: Features of the tokens, `N Q width`.

        Returns:
            New features of both, of the same shapes.
        """
        times, rows, columns = positions.shape[1:4]
        x = torch.cat([positions.flatten(1, 3), tokens], 1)
        features = self.config.width // self.config.heads
        turned = rotations(range(times), range(rows), range(columns), features, x).flatten(0, 1)
        rotation = torch.cat([turned, rotations_at(self.homes.float(), features, x)])
        for block in cast(list[Block], list(self.blocks)):
            query, key, value = block.projections(x, rotation)
            x = block.rest(x, F.scaled_dot_product_attention(query, key, value))
        places = times * rows * columns
        return x[:, :places].unflatten(1, (times, rows, columns)), x[:, places:]


def _homes(config: OneDVAConfig) -> Tensor:
    """Return the first homes of tokens, `Q 3`, in the middle of the time and by the R₂ sequence of Roberts in space."""
    number = torch.arange(config.queries, dtype=torch.float64)[:, None]
    root = 1.324717957244746  # The real root of x³ = x + 1.
    spread = torch.frac(0.5 + number * torch.tensor([1 / root, 1 / root**2], dtype=torch.float64))
    size = torch.tensor([config.window_rows, config.window_columns], dtype=torch.float64)
    places = config.margin - 0.5 + spread * size
    time = torch.full_like(number, (config.window_steps - 1) / 2)
    return torch.cat([time, places], 1).float()


class LinearPath(nn.Module):
    """Projects the codes of the second token in a window on one direction per 1D token and digit, and back."""

    def __init__(self, config: OneDVAConfig) -> None:
        super().__init__()
        codec, area = config.codec, config.window_rows * config.window_columns
        self.config = config
        digits, queries = codec.token_channels, config.queries
        latents = (codec.layout.phases + config.window_steps - 1, config.window_steps)
        self.into = nn.ParameterList(nn.Parameter(torch.zeros(digits, count * area, queries)) for count in latents)
        """The directions of the first group of a GOP and of later groups, `d positions Q`, in units of `_LINEAR_UNIT`;
        positions are in the order of latent frames, rows, columns."""
        self.back = nn.ParameterList(nn.Parameter(torch.zeros(digits, count * area, queries)) for count in latents)

    def start(self, first: bool, into: Tensor, back: Tensor) -> None:
        """Set the directions of the first group of a GOP, or those of later groups, `d positions Q` each."""
        with torch.no_grad():
            self.into[0 if first else 1].copy_(into / _LINEAR_UNIT)
            self.back[0 if first else 1].copy_(back / _LINEAR_UNIT)

    def project(self, second: Tensor, first: bool) -> Tensor:
        """Return the projections `B·n Q d` of codes `B d t h w`."""
        cut = cut_windows(second.movedim(1, -1), self.config, margin=0).flatten(1, 3)
        return torch.einsum("npd,dpq->nqd", cut, self._directions(self.into, first, cut))

    def spread(self, tokens: Tensor, first: bool, shape: tuple[int, int, int, int]) -> Tensor:
        """Return codes `B d t h w` of tokens `B·n Q d`, given B, t, h and w."""
        batch, latents, rows, columns = shape
        places = latents * self.config.window_rows * self.config.window_columns
        directions = self._directions(self.back, first, tokens, places)
        window = torch.einsum("nqd,dpq->npd", tokens, directions)
        window = window.unflatten(1, (latents, self.config.window_rows, self.config.window_columns))
        return join_windows(window, (batch, rows, columns), self.config, margin=0).movedim(-1, 1)

    def _directions(self, kept: nn.ParameterList, first: bool, like: Tensor, places: int = 0) -> Tensor:
        """Return the directions for as many positions as there are."""
        directions = kept[0 if first else 1][:, : places or like.shape[1]] * _LINEAR_UNIT
        return directions.to(like.dtype)


class QueryEncoder(nn.Module):
    """Reads the latents of a codec, and gives the latents of the 1D tokens (One-DVA, section 3.1)."""

    def __init__(self, config: OneDVAConfig) -> None:
        super().__init__()
        codec, width = config.codec, config.width
        self.config = config
        self.enter = _StepsIn(codec.latent_channels + codec.token_channels, codec.layout.phases, width)
        self.last = nn.Linear(2 * codec.token_channels, width, bias=False)
        self.queries = nn.Parameter(torch.randn(config.queries, width) * _EMBEDDING_STD)
        self.transformer = _Transformer(config)
        self.norm = Norm(width)
        self.out = nn.Linear(width, codec.token_channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, latents: Tensor, structural: Tensor, group: Group) -> Tensor:
        """Encode a group.

        Args:
            latents: The codec's latents of all tokens, bounded but not rounded, as codes `B (N·d) t h w`.
            structural: The codes of the first token, `B d t h w`.
            group: The place of the group.

        Returns:
            The latents of the 1D tokens before they are quantized, `B·n Q d`, for the n windows of each sample, row by
            row.
        """
        x = self.enter(torch.cat([latents, structural], 1), group.first)
        positions = cut_windows(_with_last(x, self.last, group), self.config, self.config.margin)
        tokens = self.queries.to(positions.dtype).expand(len(positions), -1, -1)
        _, found = self.transformer(positions, tokens)
        latent: Tensor = self.out(self.norm(found))
        return latent


class QueryDecoder(nn.Module):
    """Predicts the codes of the second token from those of the first one and from 1D tokens (One-DVA, section 3.3)."""

    def __init__(self, config: OneDVAConfig) -> None:
        super().__init__()
        codec, width = config.codec, config.width
        self.config = config
        self.enter = _StepsIn(codec.token_channels, codec.layout.phases, width)
        self.last = nn.Linear(2 * codec.token_channels, width, bias=False)
        self.token = nn.Linear(codec.token_channels, width)
        self.places = nn.Parameter(torch.randn(config.queries, width) * _EMBEDDING_STD)
        self.padding = nn.Parameter(torch.randn(config.queries, width) * _EMBEDDING_STD)
        self.noisy = _StepsIn(codec.token_channels, codec.layout.phases, width)
        self.time = nn.Sequential(nn.Linear(2 * _TIME_OCTAVES, width), nn.SiLU(), nn.Linear(width, width))
        self.transformer = _Transformer(config)
        self.norm = Norm(width)
        self.out = _StepsOut(codec.token_channels, codec.layout.phases, width)
        self.features = nn.Linear(width, codec.levels[-1].channels)
        nn.init.zeros_(self.features.weight)
        self.first_features: nn.Linear | None = None
        if codec.enhanced_first_frame:
            self.first_features = nn.Linear(width, codec.levels[-2].channels * codec.layout.phases)
            nn.init.zeros_(self.first_features.weight)

    @property
    def noise_parameters(self) -> list[nn.Parameter]:
        """The weights that read noise and its time."""
        return [*self.noisy.parameters(), *self.time.parameters()]

    @property
    def correction_parameters(self) -> list[nn.Parameter]:
        """The weights that make the features for the codec's decoder."""
        return [*self.features.parameters(), *(self.first_features.parameters() if self.first_features else ())]

    def start_from(self, decoder: Decoder) -> None:
        """Start halfway between what a codec's decoder does with one token, and what it does with two."""
        with torch.no_grad():
            one, two = decoder.count_bias[:2]
            self.features.bias.copy_((one - two) / 2)
            if self.first_features and decoder.first:
                one, two = decoder.first.count_bias[:2]
                self.first_features.bias.copy_(((one - two) / 2).repeat_interleave(decoder.phases))

    def forward(
        self, structural: Tensor, tokens: Tensor, counts: Tensor, group: Group, noisy: NoisyCodes | None = None
    ) -> Prediction:
        """Decode a group.

        Args:
            structural: The codes of the first token, `B d t h w`.
            tokens: The codes of the 1D tokens, `B·n Q d`, for the n windows of each sample, row by row.
            counts: How many of its 1D tokens each window reads, int64 `B·n`. Padding takes the place of the others.
            group: The place of the group.
            noisy: Noisy codes of the second token, for a step of a diffusion decoder; None decodes without noise.

        Returns:
            What the 1D tokens add to the group.
        """
        batch, _, _, rows, columns = structural.shape
        x = _with_last(self.enter(structural, group.first), self.last, group)
        if noisy:
            x = x + self.noisy(noisy.codes, group.first)
            x = x + self.time(_waves(noisy.time).to(x.dtype))[:, None, None, None]
        entered = self.token(tokens) + self.places.to(x.dtype)
        read = torch.arange(tokens.shape[1], device=counts.device) < counts[:, None]
        given = torch.where(read[..., None], entered, self.padding.to(entered.dtype))
        margin = self.config.margin
        positions, _ = self.transformer(cut_windows(x, self.config, margin), given)
        joined = self.norm(join_windows(positions, (batch, rows, columns), self.config, margin))
        features = self.features(joined).movedim(-1, 1)
        return Prediction(self.out(joined, group.first), Correction(features, self._first_features(joined, group)))

    def _first_features(self, x: Tensor, group: Group) -> Tensor | None:
        """Return features for an enhanced first frame of features `B T h w width`; None if there is none."""
        if not (self.first_features and group.first):
            return None
        phases = self.first_features(x[:, 0]).movedim(-1, 1).unflatten(1, (-1, self.config.codec.layout.phases))
        return from_phases(phases, self.config.codec.first_grid)


class OneDVA(nn.Module):
    """The transformers of One-DVA for a codec, which stays as it is."""

    def __init__(self, config: OneDVAConfig) -> None:
        super().__init__()
        self.config = config
        self.linear = LinearPath(config)
        self.encoder = QueryEncoder(config)
        self.quantizer = FSQ(config.codec.fsq_levels, 1)
        self.decoder = QueryDecoder(config)
        self.motion: Tensor
        """The mean of the motion of windows, and the mean of its square, both moving averages over the training."""
        self.register_buffer("motion", torch.zeros(2))

    def encode(self, latents: Tensor, structural: Tensor, group: Group) -> Tensor:
        """Return the latents of the 1D tokens of a group, `B·n Q d`; see `QueryEncoder.forward`."""
        digits = structural.shape[1]
        straight = self.linear.project(latents[:, digits : 2 * digits], group.first)
        return straight + self.encoder(latents, structural, group)

    def decode(
        self, structural: Tensor, tokens: Tensor, counts: Tensor, group: Group, noisy: NoisyCodes | None = None
    ) -> Prediction:
        """Return what 1D tokens add to a group; see `QueryDecoder.forward`."""
        read = torch.arange(tokens.shape[1], device=counts.device) < counts[:, None]
        batch, _, latents, rows, columns = structural.shape
        straight = self.linear.spread(tokens * read[..., None], group.first, (batch, latents, rows, columns))
        added = self.decoder(structural, tokens, counts, group, noisy)
        return added._replace(second=straight + added.second)

    def lengths(self, motion: Tensor) -> Tensor:
        """Return how many 1D tokens windows with some motion deserve, before rounding (One-DVA, appendix A).

        Args:
            motion: The motion of each window (`window_motion`), `N`.

        Returns:
            Numbers of tokens from 0 to Q, fp32 `N`.
        """
        mean, square = self.motion.float()
        spread = (square - mean.square()).clamp_min(0).sqrt()
        return (motion / (mean + 3 * spread).clamp_min(1e-6)).clamp(0, 1) * self.config.queries

    def codes(self, latents: Tensor) -> Tensor:
        """Quantize the latents of 1D tokens, `N Q d`, to codes, with the gradient of the latents."""
        return _tokens_last(self.quantizer.straight_through(_tokens_first(latents)))

    def digits(self, latents: Tensor) -> Tensor:
        """Quantize the latents of 1D tokens, `N Q d`, to digits, uint8."""
        return _tokens_last(self.quantizer.digits(_tokens_first(latents)))

    def codes_of(self, digits: Tensor) -> Tensor:
        """Return the codes of 1D tokens with the given digits, `N Q d`, in fp32."""
        return _tokens_last(self.quantizer.codes(_tokens_first(digits)))


def following(structural: Tensor, second: Tensor) -> Group:
    """Return the place of the group after one with the given codes of both tokens, `B d t h w` each."""
    return Group(False, torch.cat([structural[:, :, -1], second[:, :, -1]], 1))


def joined(parts: Sequence[Prediction]) -> Prediction:
    """Join what 1D tokens add to groups that follow each other."""
    features = torch.cat([part.correction.features for part in parts], 2)
    return Prediction(torch.cat([part.second for part in parts], 2), Correction(features, parts[0].correction.first))


def _waves(time: Tensor) -> Tensor:
    """Return cosines and sines of times `B`, `B 2·octaves`."""
    angles = time.float()[:, None] * (math.pi * torch.exp2(torch.arange(_TIME_OCTAVES, device=time.device)))
    return torch.cat([angles.cos(), angles.sin()], 1)


def _with_last(x: Tensor, layer: nn.Linear, group: Group) -> Tensor:
    """Add to features `B T h w width` what the latent frame before the group gives."""
    return x if group.last is None else x + layer(group.last.to(x.dtype).movedim(1, -1))[:, None]


def _tokens_first(x: Tensor) -> Tensor:
    """Return tokens `N Q d` in the shape that FSQ takes, `N d Q 1 1`."""
    return x.transpose(1, 2)[..., None, None]


def _tokens_last(x: Tensor) -> Tensor:
    """Return tokens `N d Q 1 1` as `N Q d`."""
    return x[..., 0, 0].transpose(1, 2)
