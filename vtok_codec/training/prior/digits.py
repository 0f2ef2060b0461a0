"""The training data of a prior: the digits of whole clips, and random latent frames of them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vtok_codec.codec.pixel_decoder import check_fits
from vtok_codec.codec.tokenizer import Tokenizer
from vtok_codec.container import is_vtk_name
from vtok_codec.container.reader import VtkReader
from vtok_codec.errors import FormatError, InputError, VtokWarning
from vtok_codec.stream.reading import read_gops
from vtok_codec.stream.settings import EncodeSettings
from vtok_codec.tokens.radix import Digits, tokens_to_digits
from vtok_codec.training.data.held_out import as_pixels
from vtok_codec.training.data.library import ClipLibrary, clips_to_encode, files_in
from vtok_codec.training.prior.network import ABSENT
from vtok_codec.training.prior.stages import PriorRecipe
from vtok_codec.training.recipe import CropShape


class FrameBatch(NamedTuple):
    """Latent frames to predict, with those before them."""

    past: Tensor
    """The latent frames before each, the last one first: uint8 `B S P h w`, `ABSENT` where there is none."""
    digits: Tensor
    """The latent frames, uint8 `B P h w`; `ABSENT` beyond the picture."""
    place: Tensor
    """The place of each within its GOP, int64 `B`."""

    def to(self, device: torch.device) -> FrameBatch:
        """Return the batch on a device."""
        return FrameBatch(*(part.to(device) for part in self))


class DigitBatch(NamedTuple):
    """A batch for both networks."""

    first: FrameBatch
    """Latent frames for the network `first`."""
    later: FrameBatch
    """Latent frames for the network `later`."""

    def to(self, device: torch.device) -> DigitBatch:
        """Return the batch on a device."""
        return DigitBatch(self.first.to(device), self.later.to(device))


def digits_of(pixels: NDArray[np.uint8], tokenizer: Tokenizer) -> Digits:
    """Encode a clip `T H W 3` as one GOP. Returns its digits with all tokens, `P t h w`."""
    parts, state = [], None
    for begin, end in tokenizer.layout.chunks(len(pixels), EncodeSettings.chunk_latents):
        digits, state = tokenizer.encode(pixels[begin:end], tokenizer.max_tokens, state)
        parts.append(digits)
    return np.concatenate(parts, axis=1)


def held_out_digits(clip: Tensor, tokenizer: Tokenizer) -> Digits:
    """Encode a held-out clip, `3 T H W` in [−1, 1], as one GOP. Returns its digits with all tokens, `P t h w`."""
    return digits_of(as_pixels(clip), tokenizer)


def all_digits(library: ClipLibrary, tokenizer: Tokenizer, mirrored: bool, quiet: bool) -> list[Digits]:
    """Encode every clip of a library, with a progress bar on stderr.

    Args:
        library: The clips.
        tokenizer: The codec.
        mirrored: Whether to encode the mirror image of each clip as well.
        quiet: Whether to show no progress bar.
    """
    paths: Sequence[Path] = [*library.videos, *library.images]
    return [digits_of(clip, tokenizer) for clip in clips_to_encode(library, paths, mirrored, quiet)]


def digits_of_files(folders: Sequence[str], tokenizer: Tokenizer) -> list[list[Digits]]:
    """Read the files of a codec's tokens in some folders, with the digits that their encoder chose.

    A file that cannot be read, or that holds other tokens, is skipped with a `VtokWarning`.

    Args:
        folders: The folders, which are searched recursively.
        tokenizer: The codec.

    Returns:
        For each file, the digits `P t h w` of its GOPs, with as many planes P as its tokens have.

    Raises:
        ModelError: The prior that a file was packed with is not here.
    """
    paths = [path for path in files_in(map(Path, folders)) if is_vtk_name(path.name)]
    made: list[list[Digits]] = []
    for path in paths:
        try:
            with path.open("rb") as stream:
                reader = VtkReader(stream)
                model = reader.header.model
                if model.weights_sha256 not in tokenizer.weights.reads:
                    raise InputError(f"it holds tokens of {model.name}, by other weights than {tokenizer.weights.path}")
                check_fits(tokenizer, reader.header)
                gops = read_gops(reader, tokenizer.find_prior)
                made.append([tokens_to_digits(gop.tokens, model.levels) for gop in gops])
        except (InputError, FormatError, OSError) as error:
            warnings.warn(f"{path}: {error}; skipped", VtokWarning, stacklevel=2)
    return made


class DigitBatches:
    """Cuts random latent frames out of encoded clips. A batch depends only on the seed and its number."""

    def __init__(
        self,
        clips: Sequence[Sequence[Digits]],
        recipe: PriorRecipe,
        tokenizer: Tokenizer,
        slots: tuple[int, int],
        seed: int,
    ) -> None:
        """Create the batches.

        Args:
            clips: The digits `P t h w` of the GOPs of each clip, which may have fewer tokens than the codec gives.
            recipe: The settings of the stage.
            tokenizer: The codec that made the digits.
            slots: The latent frames before that the networks `first` and `later` read.
            seed: The seed of all random choices.
        """
        self._clips, self._recipe, self._seed = clips, recipe, seed
        self._stride, self._phases, self._slots = tokenizer.layout.stride, tokenizer.layout.phases, slots
        self._planes = len(tokenizer.id.levels) * tokenizer.max_tokens
        longer = [[gop for gop in clip if gop.shape[1] > self._phases] for clip in clips]
        self._longer = [clip for clip in longer if clip] or clips
        # Long and large clips are drawn more often, but not in full proportion to what they hold.
        sizes = np.sqrt([sum(gop[0].size for gop in clip) for clip in self._longer])
        self._weights = sizes / sizes.sum()

    def batch(self, number: int, shape: CropShape) -> DigitBatch:
        """Return batch `number`."""
        rng = np.random.default_rng((self._seed, number))
        first = max(1, round(self._recipe.first_share * shape.batch))
        side = (shape.size // self._stride[1], shape.size // self._stride[2])
        later = max(1, shape.batch - first)
        return DigitBatch(self._frames(rng, first, side, first=True), self._frames(rng, later, side, first=False))

    def close(self) -> None:
        """Do nothing: no batch is prepared ahead."""

    def _frames(self, rng: np.random.Generator, count: int, side: tuple[int, int], first: bool) -> FrameBatch:
        slots = self._slots[0 if first else 1]
        planes = self._planes
        past = np.full((count, slots, planes, *side), ABSENT, np.uint8)
        digits = np.full((count, planes, *side), ABSENT, np.uint8)
        places = np.zeros(count, np.int64)
        for sample in range(count):
            if first:
                clip = _drawn_gop(rng, self._clips[int(rng.integers(len(self._clips)))])
                latent = int(rng.integers(min(self._phases, clip.shape[1])))
            else:
                clip = _drawn_gop(rng, self._longer[int(rng.choice(len(self._longer), p=self._weights))])
                latent = int(rng.integers(min(self._phases, clip.shape[1] - 1), clip.shape[1]))
            # Even offsets keep the checkerboard of the picture.
            spare = (max(0, whole - part) for whole, part in zip(clip.shape[2:], side, strict=True))
            top, left = (2 * int(rng.integers(most // 2 + 1)) for most in spare)
            window = clip[:, :, top : top + side[0], left : left + side[1]]
            inside = tuple(slice(size) for size in (len(window), *window.shape[2:]))
            digits[sample][inside] = window[:, latent]
            for slot in range(min(slots, latent)):
                past[sample, slot][inside] = window[:, latent - 1 - slot]
            places[sample] = latent if first else max(0, latent - self._phases)
        return FrameBatch(*map(torch.from_numpy, (past, digits, places)))


def _drawn_gop(rng: np.random.Generator, gops: Sequence[Digits]) -> Digits:
    """Draw one of the GOPs of a clip, large ones in proportion more often."""
    if len(gops) == 1:
        return gops[0]
    sizes = np.array([gop[0].size for gop in gops], np.float64)
    return gops[int(rng.choice(len(gops), p=sizes / sizes.sum()))]
