"""The training data of a latent flow: the continuous latents of whole clips, and random parts of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vtok_codec.codec.tokenizer import Tokenizer
from vtok_codec.layout import GopLayout
from vtok_codec.media.types import Pixels
from vtok_codec.models.causal import State
from vtok_codec.stream.settings import EncodeSettings
from vtok_codec.tokens.codes import values_to_codes
from vtok_codec.training.data.library import ClipLibrary, clips_to_encode
from vtok_codec.training.processes import Processes
from vtok_codec.training.recipe import CropShape

HalfLatents: TypeAlias = NDArray[np.float16]
"""Latents `t C h w`, in half precision to save memory."""


class LatentBatch(NamedTuple):
    """A batch of latents."""

    latents: Tensor
    """The latents, float32 `B t C h w`."""
    kinds: Tensor
    """The kind of each latent frame, int64 `B t` (`vtok_codec.models.generator.kinds`)."""

    def to(self, device: torch.device) -> LatentBatch:
        """Return the batch on a device."""
        return LatentBatch(*(part.to(device) for part in self))


def latents_of(pixels: Pixels, tokenizer: Tokenizer, tokens: int) -> HalfLatents:
    """Encode a clip `T H W 3` as one GOP. Returns the channels of its first tokens, unrounded."""
    parts = []
    state: State = None
    for begin, end in tokenizer.layout.chunks(len(pixels), EncodeSettings.chunk_latents):
        values, state = tokenizer.encode_values(pixels[begin:end], tokens, state)
        parts.append(values_to_codes(values, tokenizer.id.levels))
    return np.ascontiguousarray(np.concatenate(parts, axis=1).swapaxes(0, 1).astype(np.float16))


def all_latents(
    library: ClipLibrary, tokenizer: Tokenizer, tokens: int, mirrored: bool, quiet: bool
) -> list[HalfLatents]:
    """Encode every video of a library, with a progress bar on stderr.

    Args:
        library: The clips.
        tokenizer: The codec.
        tokens: The tokens per position whose channels to keep.
        mirrored: Whether to encode the mirror image of each clip as well.
        quiet: Whether to show no progress bar.
    """
    clips = clips_to_encode(library, library.videos, mirrored, quiet)
    return [latents_of(clip, tokenizer, tokens) for clip in clips]


def moments(clips: Sequence[HalfLatents]) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of each channel over all clips, `C 1 1` each."""
    count = sum(clip[:, 0].size for clip in clips)
    mean = sum(clip.sum((0, 2, 3), dtype=np.float64) for clip in clips) / count
    square = sum(np.square(clip, dtype=np.float64).sum((0, 2, 3)) for clip in clips) / count
    deviation = np.sqrt(np.maximum(square - mean**2, 1e-6))
    return _per_channel(mean), _per_channel(deviation)


def _per_channel(values: NDArray[np.float64]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None, None]


class LatentBatches:
    """Cuts random parts out of encoded clips. A batch depends only on the seed and its number."""

    def __init__(self, clips: Sequence[HalfLatents], layout: GopLayout, seed: int, processes: Processes) -> None:
        """Create the batches.

        Args:
            clips: The latents of the clips, each one GOP.
            layout: The layout of the codec.
            seed: The seed of all random choices.
            processes: The processes that train together, each of which draws batches of its own.
        """
        self._clips, self._layout = clips, layout
        self._seed = (seed, processes.rank)
        sizes = np.array([clip[:, 0].size for clip in clips], np.float64)
        self._weights = sizes / sizes.sum()

    def batch(self, number: int, shape: CropShape) -> LatentBatch:
        """Return batch `number`. Clips that are shorter or smaller than the shape make all parts of the batch so."""
        rng = np.random.default_rng((*self._seed, number))
        chosen = [self._clips[int(rng.choice(len(self._clips), p=self._weights))] for _ in range(shape.batch)]
        wanted = (shape.frames // self._layout.stride[0], *self._layout.grid(shape.size, shape.size))
        sizes = [(len(clip), *clip.shape[2:]) for clip in chosen]
        size = tuple(min(most, *each) for most, each in zip(wanted, zip(*sizes, strict=True), strict=True))
        parts, kinds = zip(*self._parts(chosen, size, rng), strict=True)
        return LatentBatch(torch.from_numpy(np.stack(parts)).float(), torch.from_numpy(np.stack(kinds)))

    def close(self) -> None:
        """Do nothing: no batch is prepared ahead."""

    def _parts(
        self, clips: Sequence[HalfLatents], size: tuple[int, ...], rng: np.random.Generator
    ) -> Iterator[tuple[HalfLatents, NDArray[np.int64]]]:
        """Yield a random part of each clip, and the kinds of its latent frames."""
        latents, rows, columns = size
        for clip in clips:
            whole = (len(clip), *clip.shape[2:])
            begin, top, left = (int(rng.integers(all_ - part + 1)) for all_, part in zip(whole, size, strict=True))
            kinds = np.minimum(np.arange(begin, begin + latents), self._layout.phases)
            yield clip[begin : begin + latents, :, top : top + rows, left : left + columns], kinds
