"""Transformer blocks with rotary position embeddings in three axes, which several kinds of models are made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_GROWTH = 4
"""How much wider the hidden layer of a block is."""
_ROTATION_BASE = 100.0
"""The base of the rotations' frequencies, small since latent frames have few rows and columns."""


class Norm(nn.RMSNorm):
    """Root mean square normalization over features, computed in the floating-point type of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize features `… width`."""
        assert self.weight is not None
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Block(nn.Module):
    """A transformer block whose attention is computed by the caller."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = 0.0
        self.attention_norm = Norm(width)
        self.attention_in = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.hidden_norm = Norm(width)
        self.hidden_in = nn.Linear(width, _GROWTH * width)
        self.hidden_out = nn.Linear(_GROWTH * width, width)
        nn.init.zeros_(self.attention_out.weight)
        nn.init.zeros_(self.hidden_out.weight)
        nn.init.zeros_(self.hidden_out.bias)

    def projections(self, x: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, `… heads n features`, of features `… n width`."""
        parts = self.attention_in(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.movedim(-3, 0).transpose(-3, -2)
        return rotated(query, rotation), rotated(key, rotation), value

    def rest(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add what was attended to, `… heads n features`, and the hidden layer to features `… n width`."""
        x = x + self._dropped(self.attention_out(attended.transpose(-3, -2).flatten(-2)))
        hidden = F.gelu(self.hidden_in(self.hidden_norm(x)), approximate="tanh")
        return x + self._dropped(self.hidden_out(hidden))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


def rotations(times: Sequence[int], rows: Sequence[int], columns: Sequence[int], features: int, like: Tensor) -> Tensor:
    """Return the rotations of positions on a grid, as cosines and sines, `t h·w 2 features/2`.

    A quarter of the pairs of features turns with the time, the others with the row and with the column.

    Args:
        times: The time of each latent frame, in latent frames.
        rows: The number of each row.
        columns: The number of each column.
        features: Features of an attention head.
        like: A tensor of the type and on the device that the rotations shall have.
    """
    numbers = [torch.tensor(list(axis), device=like.device) for axis in (times, rows, columns)]
    places = torch.stack(torch.meshgrid(*numbers, indexing="ij"), -1)
    return rotations_at(places.flatten(1, 2), features, like)


def rotations_at(places: Tensor, features: int, like: Tensor) -> Tensor:
    """Return the rotations of places `… 3`, each a time, a row and a column, as `… 2 features/2`; see `rotations`."""
    pairs = features // 2
    counts = [pairs - 2 * (3 * pairs // 8), 3 * pairs // 8, 3 * pairs // 8]
    angles = [
        places[..., axis, None] * _ROTATION_BASE ** (-torch.arange(count, device=places.device) / max(1, count))
        for axis, count in enumerate(counts)
    ]
    angle = torch.cat(angles, -1)
    return torch.stack([angle.cos(), angle.sin()], -2).to(like.dtype)


def rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate pairs of features `… heads n f` by the angles of `… n 2 f/2` (RoPE, Su et al. 2021, eq. 34)."""
    cos, sin = rotation.unsqueeze(-4).unbind(-2)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
