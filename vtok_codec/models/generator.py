"""A generator: a causal transformer that predicts the tokens of a codec, digit by digit.

It goes through a video latent frame by latent frame. Within a frame it takes the positions in *ranks*: all positions of
a rank are predicted together, from the latent frames before and from the ranks before. In raster order every position
is a rank of its own. In the order `waves` each row runs two columns behind the row above it, so that a frame of h rows
and w columns takes w + 2(h − 1) ranks instead of h·w. Within a position, the digits are predicted one after another.

A position never sees its own digits before they are predicted: what enters the network at a position are the digits of
its neighbours, which are of earlier ranks or of earlier frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtok_codec.models.causal_blocks import CausalBlocks, GrowingFrame, Past
from vtok_codec.models.config import GeneratorConfig
from vtok_codec.models.transformer import Norm

_OWN = ((0, -1), (0, -2), (-1, 0), (-1, -1), (-1, 1))
"""The neighbours in its own latent frame whose digits enter at a position, as rows and columns from it."""
_BEFORE = tuple((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1))
"""The neighbours in the latent frame before."""
_MARGIN = 2
"""How far neighbours are away at most."""
_KEPT_DIGITS = 2
"""The latent frames whose digits a state keeps: the one before with its neighbours, and the same position before it."""
_HEAD_FEATURES = 128
"""Features per digit between a position's features and the digit's distribution."""
_EMBEDDING_STD = 0.05

Pick: TypeAlias = Callable[[Tensor], Tensor]
"""Draws a value for each row of logits `N L`, where impossible values have −∞; returns int64 `N`."""


class GeneratorState(NamedTuple):
    """What a generator remembers of the latent frames so far."""

    past: Past
    """What its blocks remember."""
    digits: Tensor
    """The digits of the last two latent frames as indicators, `B 2 h w C`; all zero where there is none."""


def ranks(order: str, rows: int, columns: int) -> Tensor:
    """Return the rank of each position of a latent frame, int64 `h·w`, in raster order.

    Args:
        order: One of `vtok_codec.models.config.ORDERS`.
        rows: The rows of the latent grid.
        columns: The columns of the latent grid.
    """
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return (2 * row + column if order == "waves" else columns * row + column).flatten()


class _Head(nn.Module):
    """Predicts the digits of a position from its features, each digit from those before it."""

    def __init__(self, width: int, levels: tuple[int, ...]) -> None:
        super().__init__()
        planes, most = len(levels), max(levels)
        self.norm = Norm(width)
        self.project = nn.Linear(width, planes * _HEAD_FEATURES)
        self.earlier = nn.Parameter(torch.randn(sum(levels), planes * _HEAD_FEATURES) * _EMBEDDING_STD)
        self.logits = nn.Parameter(torch.zeros(planes, _HEAD_FEATURES, most))
        self.bias = nn.Parameter(torch.zeros(planes, most))
        owner = torch.repeat_interleave(torch.arange(planes), torch.tensor(levels))
        known = (owner[:, None] < torch.arange(planes)).repeat_interleave(_HEAD_FEATURES, 1)
        self.register_buffer("_known", known, persistent=False)
        impossible = torch.arange(most) >= torch.tensor(levels)[:, None]
        self.register_buffer("_impossible", impossible, persistent=False)
        self._known: Tensor
        self._impossible: Tensor

    def forward(self, x: Tensor, indicators: Tensor) -> Tensor:
        """Return the logits of all digits, `N P L`, given features `N width` and the digits as indicators `N C`."""
        hidden = self.project(self.norm(x)) + indicators @ (self.earlier * self._known).to(indicators.dtype)
        hidden = F.gelu(hidden, approximate="tanh").unflatten(1, (len(self.bias), -1))
        logits = torch.einsum("npf,pfl->npl", hidden, self.logits.to(hidden.dtype)) + self.bias
        return logits.float().masked_fill(self._impossible, -torch.inf)

    def drawn(self, x: Tensor, pick: Pick, offsets: Tensor, favoured: Tensor) -> Tensor:
        """Draw all digits of positions with features `N width`, their logits raised by `N C`. Returns int64 `N P`."""
        projected = self.project(self.norm(x)).unflatten(1, (len(self.bias), -1))
        earlier = (self.earlier * self._known).to(x.dtype).unflatten(1, (len(self.bias), -1))
        drawn: list[Tensor] = []
        raised = self._by_digit(favoured.float())
        for plane, bias in enumerate(self.bias):
            hidden = projected[:, plane]
            if drawn:
                hidden = hidden + earlier[torch.stack(drawn, 1) + offsets[:plane], plane].sum(1)
            logits = F.gelu(hidden, approximate="tanh") @ self.logits[plane].to(x.dtype) + bias
            logits = (logits.float() + raised[:, plane]).masked_fill(self._impossible[plane], -torch.inf)
            drawn.append(pick(logits))
        return torch.stack(drawn, 1)

    def _by_digit(self, values: Tensor) -> Tensor:
        """Return what `N C` has for each value of each digit as `N P L`, with 0 where a digit has fewer values."""
        spread = values.new_zeros(len(values), *self._impossible.shape)
        spread[:, ~self._impossible] = values
        return spread


class Generator(nn.Module):
    """A causal transformer over the digits of a codec's tokens, in the manner of OneVAE's language models.

    Args:
        config: The configuration of the generator.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        width, values = config.width, sum(config.levels)
        self.own = nn.Linear(len(_OWN) * values, width, bias=False)
        self.before = nn.Linear((len(_BEFORE) + 1) * values, width, bias=False)
        self.kind = nn.Embedding(config.codec.layout.phases + 1, width)
        self.label: nn.Embedding | None = None
        """What a class adds to each position. The first row is for videos whose class is not known."""
        if config.classes:
            self.label = nn.Embedding(len(config.classes) + 1, width)
        self.blocks = CausalBlocks(width, config.heads, config.blocks, config.reach)
        self.head = _Head(width, config.levels)
        for layer in (self.own, self.before, self.kind):
            nn.init.normal_(layer.weight, std=_EMBEDDING_STD)
        if self.label:
            nn.init.normal_(self.label.weight, std=_EMBEDDING_STD)
        offsets = torch.tensor([sum(config.levels[:plane]) for plane in range(len(config.levels))])
        self.register_buffer("_offsets", offsets, persistent=False)
        self._offsets: Tensor

    def start(self, batch: int, rows: int, columns: int) -> GeneratorState:
        """Return the state before the first latent frame of videos with the given latent grid."""
        weight = self.own.weight
        digits = weight.new_zeros(batch, _KEPT_DIGITS, rows, columns, sum(self.config.levels))
        return GeneratorState(self.blocks.start(batch, rows * columns, weight), digits)

    def costs(
        self,
        digits: Tensor,
        kinds: Tensor,
        state: GeneratorState | None = None,
        labels: Tensor | None = None,
        context: Tensor | None = None,
    ) -> tuple[Tensor, GeneratorState]:
        """Return what each digit costs in bits if the generator packs it.

        Args:
            digits: The digits of latent frames, integers `B P t h w`.
            kinds: The kind of each latent frame, int64 `B t`: see `kinds`.
            state: The state after the latent frames before; None at the start.
            labels: The class of each video, int64 `B`, counted from 1; 0, or None for all, where it is not known.
            context: The digits that the network sees at neighbouring positions and in earlier latent frames, of the
                same shape; None for `digits`.

        Returns:
            Bits, float32 `B P t h w`, and the state after these latent frames.
        """
        logits, state = self.logits(digits, kinds, state, labels, context)
        nats = F.cross_entropy(logits.flatten(0, -2), digits.movedim(1, -1).flatten().long(), reduction="none")
        return (nats / math.log(2)).view(logits.shape[:-1]).movedim(-1, 1), state

    def logits(
        self,
        digits: Tensor,
        kinds: Tensor,
        state: GeneratorState | None = None,
        labels: Tensor | None = None,
        context: Tensor | None = None,
    ) -> tuple[Tensor, GeneratorState]:
        """Return the logits of each digit's values, `B t h w P L`, and the state; the arguments are those of `costs`.

        Values that a digit cannot have get −∞.
        """
        batch, _, frames, rows, columns = digits.shape
        state = state or self.start(batch, rows, columns)
        indicators = self.indicators(digits)
        seen = indicators if context is None else self.indicators(context)
        history = torch.cat([state.digits.to(seen.dtype), seen], 1)
        x = self._entering(history, kinds) + self._from_label(labels, batch)
        rank = ranks(self.config.order, rows, columns).to(x.device)
        x, past = self.blocks(x, (rows, columns), rank, state.past)
        logits = self.head(x.flatten(0, 2), indicators.flatten(0, 3)).unflatten(0, (batch, frames, rows, columns))
        return logits, GeneratorState(past, history[:, -_KEPT_DIGITS:].detach())

    def draw(
        self, kind: int, state: GeneratorState, pick: Pick, labels: Tensor | None = None, stillness: float = 0.0
    ) -> tuple[Tensor, GeneratorState]:
        """Draw the next latent frame.

        Args:
            kind: The kind of the latent frame: see `kinds`.
            state: The state after the latent frames before.
            pick: Draws values from logits.
            labels: The class of each video; see `costs`.
            stillness: What is added to the logits of the values that a position had in the latent frame before.

        Returns:
            The digits, int64 `B P h w`, and the state after the latent frame.
        """
        batch, _, rows, columns, _ = state.digits.shape
        places = rows * columns
        rank = ranks(self.config.order, rows, columns).to(state.digits.device)
        order = torch.argsort(rank, stable=True)
        frame = state.digits.new_zeros(batch, rows + _MARGIN, columns + 2 * _MARGIN, state.digits.shape[-1])
        drawn = torch.zeros(batch, places, len(self.config.levels), dtype=torch.int64, device=frame.device)
        base = self._from_before(state.digits)[:, 0] + self.kind.weight[kind] + self._from_label(labels, batch)[:, 0]
        growing = GrowingFrame(self.blocks, (rows, columns), order, state.past, base)
        for place in order.split(torch.bincount(rank).tolist()):
            row, column = place // columns + _MARGIN, place % columns + _MARGIN
            near = torch.cat([frame[:, row + down, column + right] for down, right in _OWN], -1)
            x = growing.add(base[:, place] + self.own(near), place)
            favoured = stillness * state.digits[:, -1].flatten(1, 2)[:, place].flatten(0, 1)
            picked = self.head.drawn(x.flatten(0, 1), pick, self._offsets, favoured).unflatten(0, (batch, -1))
            drawn[:, place] = picked
            frame[:, row, column] = self._indicators_of(picked, frame.dtype)
        now = frame[:, _MARGIN:, _MARGIN:-_MARGIN]
        next_state = GeneratorState(growing.past(), torch.cat([state.digits[:, 1:], now[:, None]], 1))
        return drawn.movedim(2, 1).unflatten(2, (rows, columns)), next_state

    def indicators(self, digits: Tensor) -> Tensor:
        """Return digits `B P t h w` as indicators `B t h w C`: for each value of each digit, whether it has it."""
        return self._indicators_of(digits.movedim(1, -1), self._working_type())

    def _indicators_of(self, digits: Tensor, dtype: torch.dtype) -> Tensor:
        """Return digits `… P` as indicators `… C`."""
        places = digits.long() + self._offsets
        blank = torch.zeros(*digits.shape[:-1], sum(self.config.levels), dtype=dtype, device=digits.device)
        return blank.scatter_(-1, places, 1)

    def _working_type(self) -> torch.dtype:
        device = self.own.weight.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.own.weight.dtype

    def _entering(self, history: Tensor, kinds: Tensor) -> Tensor:
        """Return the features that enter the first block, `B t h·w width`, of all latent frames but the first two."""
        padded = F.pad(history[:, _KEPT_DIGITS:], (0, 0, _MARGIN, _MARGIN, _MARGIN, 0))
        rows, columns = history.shape[2:4]
        near = [_shifted(padded, down, right, rows, columns) for down, right in _OWN]
        own = self.own(torch.cat(near, -1)).flatten(2, 3)
        return own + self._from_before(history[:, :-1]) + self.kind(kinds)[:, :, None]

    def _from_before(self, history: Tensor) -> Tensor:
        """Return what the latent frames before give to each that follows on two others, `B t − 1 h·w width`."""
        rows, columns = history.shape[2:4]
        padded = F.pad(history[:, 1:], (0, 0, _MARGIN, _MARGIN, _MARGIN, _MARGIN))
        near = [_shifted(padded, down, right, rows, columns) for down, right in _BEFORE]
        x: Tensor = self.before(torch.cat([*near, history[:, :-1]], -1))
        return x.flatten(2, 3)

    def _from_label(self, labels: Tensor | None, batch: int) -> Tensor:
        """Return what classes give to every position of every latent frame, `B 1 1 width`; 0 without classes."""
        if self.label is None:
            return self.own.weight.new_zeros(1, 1, 1, 1)
        none = torch.zeros(batch, dtype=torch.int64, device=self.own.weight.device)
        given: Tensor = self.label(none if labels is None else labels)
        return given[:, None, None]


def kinds(latents: int, phases: int, begin: int = 0) -> Tensor:
    """Return the kinds of the latent frames of a GOP, int64 `t`: the number of a phase, or `phases` for later ones.

    Args:
        latents: The number of latent frames.
        phases: The number of latent frames that hold the first frame of the GOP.
        begin: The number of the first of the latent frames within the GOP.
    """
    return torch.arange(begin, begin + latents).clamp(max=phases)


def _shifted(padded: Tensor, down: int, right: int, rows: int, columns: int) -> Tensor:
    """Return the part of `B t h w C`, padded by `_MARGIN` before, that lies `down` and `right` of each position."""
    return padded[:, :, _MARGIN + down : _MARGIN + down + rows, _MARGIN + right : _MARGIN + right + columns]
