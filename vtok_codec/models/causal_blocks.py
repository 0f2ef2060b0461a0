"""Transformer blocks over the latent frames of a video, each of which attends to its own frame and to those before."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtok_codec.models.transformer import Block, rotations


class Past(NamedTuple):
    """What blocks remember of the latent frames so far."""

    keys: tuple[Tensor, ...]
    """The keys of the last latent frames in each block, `B R heads h·w features`, the last frame last."""
    values: tuple[Tensor, ...]
    """The values, of the same shape."""
    frames: int
    """The number of latent frames so far."""


class CausalBlocks(nn.ModuleList):
    """Transformer blocks that take a video frame by frame, or many latent frames at once.

    Args:
        width: Features per position.
        heads: Attention heads.
        blocks: The number of blocks.
        reach: The latent frames before its own that each block attends to, R.
    """

    def __init__(self, width: int, heads: int, blocks: int, reach: int) -> None:
        super().__init__(Block(width, heads) for _ in range(blocks))
        self.reach = reach
        self._heads, self._features = heads, width // heads

    @property
    def typed(self) -> list[Block]:
        """The blocks in order."""
        return cast(list[Block], list(self))

    def drop(self, probability: float) -> None:
        """Set the probability with which, in training, what a block adds to a feature is left out."""
        for block in self.typed:
            block.dropout = probability

    def start(self, batch: int, positions: int, like: Tensor) -> Past:
        """Return the past of videos that have not begun.

        Args:
            batch: The number of videos.
            positions: The positions of a latent frame.
            like: A tensor of the type and on the device of the features.
        """
        shape = (batch, self.reach, self._heads, positions, self._features)
        empty = tuple(like.new_zeros(shape) for _ in self)
        return Past(empty, empty, 0)

    def rotation(self, past: Past, frames: int, grid: tuple[int, int], like: Tensor) -> Tensor:
        """Return the rotations of the latent frames that follow on a past, as cosines and sines, `t h·w 2 features/2`.

        Args:
            past: The latent frames before.
            frames: The number of latent frames.
            grid: Their rows and columns.
            like: A tensor of the type and on the device that the rotations shall have.
        """
        times = range(past.frames, past.frames + frames)
        return rotations(times, range(grid[0]), range(grid[1]), self._features, like)

    def forward(self, x: Tensor, grid: tuple[int, int], rank: Tensor, past: Past) -> tuple[Tensor, Past]:
        """Apply the blocks to latent frames.

        Args:
            x: The features of their positions, `B t h·w width`.
            grid: Their rows and columns.
            rank: The rank of each position, int64 `h·w`: within its own frame, a position attends to those of its rank
                and of earlier ones.
            past: The latent frames before.

        Returns:
            New features of the same shape, and the past of what follows.
        """
        batch, frames = x.shape[:2]
        rotation = self.rotation(past, frames, grid, x)
        mask = _reach_mask(rank, self.reach, past.frames, batch, frames)
        keys, values = [], []
        for block, key_before, value_before in zip(self.typed, past.keys, past.values, strict=True):
            query, key, value = block.projections(x, rotation)
            all_keys, all_values = torch.cat([key_before, key], 1), torch.cat([value_before, value], 1)
            attended = F.scaled_dot_product_attention(
                query.flatten(0, 1), _within_reach(all_keys, self.reach), _within_reach(all_values, self.reach), mask
            )
            x = block.rest(x, attended.unflatten(0, (batch, frames)))
            keys.append(all_keys[:, frames:].detach())
            values.append(all_values[:, frames:].detach())
        return x, Past(tuple(keys), tuple(values), past.frames + frames)


class GrowingFrame:
    """Takes one latent frame through blocks in parts, rank after rank, as `CausalBlocks.forward` takes it at once.

    Args:
        blocks: The blocks.
        grid: The rows and columns of the latent frame.
        order: The numbers of its positions, int64 `h·w`, in the order in which they will come.
        past: The latent frames before.
        like: A tensor of the type and on the device of the features.
    """

    def __init__(self, blocks: CausalBlocks, grid: tuple[int, int], order: Tensor, past: Past, like: Tensor) -> None:
        self._blocks, self._order, self._before = blocks, order, past
        self._rotation = blocks.rotation(past, 1, grid, like)[0]
        # Keys and values of the frames before, then room for this frame's, in the order in which they come.
        self._keys, self._values = (
            [F.pad(each, (0, 0, 0, 0, 0, 0, 0, 1)).transpose(1, 2).flatten(2, 3) for each in pasts]
            for pasts in (past.keys, past.values)
        )
        self._begin = blocks.reach * len(order)
        self._first = max(0, blocks.reach - past.frames) * len(order)
        self._done = 0

    def add(self, x: Tensor, place: Tensor) -> Tensor:
        """Apply the blocks to the next positions.

        Args:
            x: Their features, `B n width`.
            place: Their numbers, int64 `n`.

        Returns:
            New features of the same shape.
        """
        begin, end = self._begin + self._done, self._begin + self._done + len(place)
        turn = self._rotation[place]
        for block, keys, values in zip(self._blocks.typed, self._keys, self._values, strict=True):
            query, keys[:, :, begin:end], values[:, :, begin:end] = block.projections(x, turn)
            seen = slice(self._first, end)
            x = block.rest(x, F.scaled_dot_product_attention(query, keys[:, :, seen], values[:, :, seen]))
        self._done += len(place)
        return x

    def past(self) -> Past:
        """Return the past of what follows, once all positions have been added."""
        inverse = torch.argsort(self._order)
        keys, values = (
            tuple(
                torch.cat([before[:, 1:], grown[:, :, self._begin :][:, :, inverse][:, None]], 1)
                for before, grown in zip(pasts, each, strict=True)
            )
            for pasts, each in ((self._before.keys, self._keys), (self._before.values, self._values))
        )
        return Past(keys, values, self._before.frames + 1)


def _within_reach(every: Tensor, reach: int) -> Tensor:
    """Stack what each latent frame attends to: `B (R + t) heads n f` → `(B·t) heads (R + 1)·n f`.

    Args:
        every: Keys or values of `reach` latent frames before, then of those that attend.
        reach: The latent frames before its own that each attends to, R.
    """
    frames = every.shape[1] - reach
    windows = torch.stack([every[:, age : age + frames] for age in range(reach + 1)], 4)
    return windows.flatten(0, 1).movedim(3, 2).flatten(2, 3)


def _reach_mask(rank: Tensor, reach: int, before: int, batch: int, frames: int) -> Tensor:
    """Return which keys of `_within_reach` each query attends to, bool `(B·t) 1 n (R + 1)·n`.

    Args:
        rank: The rank of each position of a latent frame, int64 `n`: within its own frame, a position attends to those
            of its rank and of earlier ones.
        reach: The latent frames before its own that each attends to.
        before: The number of latent frames before the first that attends.
        batch: The number of videos.
        frames: The number of latent frames that attend.
    """
    own = rank[None] <= rank[:, None]
    age = torch.arange(reach, 0, -1, device=rank.device)
    there = age <= torch.arange(before, before + frames, device=rank.device)[:, None]
    past = there.repeat_interleave(len(rank), 1)[:, None].expand(-1, len(rank), -1)
    mask = torch.cat([past, own.expand(frames, -1, -1)], 2)
    return mask[:, None].repeat(batch, 1, 1, 1)
