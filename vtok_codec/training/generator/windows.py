"""The training data of a generator: random parts of the windows of corpora."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vtok_codec.corpus.joined_windows import JoinedWindows
from vtok_codec.corpus.sampler import WindowSampler
from vtok_codec.corpus.windows import text_of
from vtok_codec.layout import GopLayout
from vtok_codec.tokens.radix import Digits, tokens_to_digits
from vtok_codec.training.processes import Processes
from vtok_codec.training.recipe import CropShape


class TokenBatch(NamedTuple):
    """A batch of digits."""

    digits: Tensor
    """The digits, uint8 `B P t h w`."""
    kinds: Tensor
    """The kind of each latent frame, int64 `B t` (`vtok_codec.models.generator.kinds`)."""
    labels: Tensor
    """The class of each window, int64 `B`, counted from 1; 0 where it is not known."""

    def to(self, device: torch.device) -> TokenBatch:
        """Return the batch on a device."""
        return TokenBatch(*(part.to(device) for part in self))


class WindowBatches:
    """Cuts random rows and columns out of the windows of corpora. A batch depends only on the seed and its number."""

    def __init__(
        self,
        windows: JoinedWindows,
        levels: tuple[int, ...],
        layout: GopLayout,
        batch_size: int,
        seed: int,
        processes: Processes,
        label: str = "",
        classes: tuple[str, ...] = (),
    ) -> None:
        """Create the batches.

        Args:
            windows: The windows of the corpora.
            levels: The number of values of each digit of a token.
            layout: The layout of the codec.
            batch_size: Windows per batch and process.
            seed: The seed of all random choices.
            processes: The processes that train together.
            label: The column of the windows with the name of their class; empty for none.
            classes: The names of the classes.
        """
        self._label, self._numbers = label, {name: 1 + number for number, name in enumerate(classes)}
        self._windows, self._levels, self._layout = windows, levels, layout
        self._seed, self._rank = seed, processes.rank
        self._sampler = WindowSampler(
            windows.shards(),
            windows.grids(),
            batch_size,
            seed,
            processes.rank,
            processes.count,
            shuffle="all",
            drop_last=processes.count > 1,
        )
        self._next = 0
        self._order: Iterator[list[int]] = iter(())

    def batch(self, number: int, shape: CropShape) -> TokenBatch:
        """Return batch `number`."""
        if number != self._next or number == 0:
            self._sampler.seek(number)
            self._order = iter(self._sampler)
        chosen = next(self._order, None)
        if chosen is None:
            self._order = iter(self._sampler)
            chosen = next(self._order)
        self._next = number + 1
        rng = np.random.default_rng((self._seed, self._rank, number))
        grid = self._layout.grid(shape.size, shape.size)
        latents = shape.frames // self._layout.stride[0]
        parts = [self._part(window, rng, grid, latents) for window in chosen]
        return TokenBatch(*(torch.from_numpy(np.stack(each)) for each in zip(*parts, strict=True)))

    def close(self) -> None:
        """Do nothing: no batch is prepared ahead."""

    def _part(
        self, number: int, rng: np.random.Generator, grid: tuple[int, int], latents: int
    ) -> tuple[Digits, NDArray[np.int64], NDArray[np.int64]]:
        """Return the parts of `TokenBatch` for a random part of a window, of at most the rows and columns of `grid`."""
        window = self._windows[number]
        tokens = window["tokens"][:latents]
        spare = (max(0, whole - part) for whole, part in zip(tokens.shape[1:3], grid, strict=True))
        top, left = (int(rng.integers(most + 1)) for most in spare)
        part = tokens[:, top : top + grid[0], left : left + grid[1]]
        kinds = np.minimum(window["gop_latent"][:latents], self._layout.phases)
        label = self._numbers.get(text_of(window[self._label]), 0) if self._label else 0
        return tokens_to_digits(part, self._levels), kinds, np.asarray(label)
