"""Measures how much an error of a digit harms the picture, for coders that choose digits by rate and error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vtok_codec.codec.tokenizer import Tokenizer
from vtok_codec.tokens.prior.prior import ErrorWeights
from vtok_codec.tokens.radix import Digits

_SHARE = 0.06
"""The share of the digits of a plane that are changed at once: so few that changes hardly meet."""
_MAX_LATENTS = 5
"""The latent frames of a clip that are used, phases not counted."""
_MAX_SIDE = 128
"""The height and width of a clip that are used, in pixels."""


def error_weights(clips: Sequence[Digits], tokenizer: Tokenizer, seed: int) -> ErrorWeights:
    """Measure the squared error of the picture that a digit causes which is off by 1.

    Digits of one plane are changed at random places, and the clip is decoded with and without the changes.

    Args:
        clips: The digits of clips with all tokens, `P t h w` each; at least one, and each longer than its first latent
            frame.
        tokenizer: The codec that made them.
        seed: The seed of the random places.

    Returns:
        See `Prior.errors`. The mean of all weights for a number of tokens is 1.
    """
    rng, digits = np.random.default_rng(seed), len(tokenizer.id.levels)
    phases = tokenizer.layout.phases
    rows, columns = (_MAX_SIDE // side for side in tokenizer.layout.stride[1:])
    cut = [clip[:, : phases + _MAX_LATENTS, :rows, :columns] for clip in clips]
    made = {}
    for count in range(1, tokenizer.max_tokens + 1):
        planes = count * digits
        sums, changes = np.zeros((2, planes)), np.zeros((2, planes))
        for clip in cut:
            whole = _decoded(clip[:planes], tokenizer)
            for plane in range(planes):
                for later, latents in enumerate((slice(0, phases), slice(phases, None))):
                    changed = clip[:planes].copy()
                    part = changed[plane, latents]
                    draws = rng.random(part.shape)
                    # At least one digit changes, however small the clip is.
                    places = (draws < _SHARE) | (draws == draws.min())
                    part[places] = _neighbour(part[places], tokenizer.id.levels[plane % digits], rng)
                    sums[later, plane] += np.square(_decoded(changed, tokenizer) - whole).sum()
                    changes[later, plane] += places.sum()
        harm = sums / changes
        weights = harm / harm.mean() if harm.any() else np.ones_like(harm)
        first, later_weights = (tuple(round(max(value, 0.01), 4) for value in row) for row in weights.tolist())
        made[str(count)] = first, later_weights
    return made


def _neighbour(values: NDArray[np.uint8], levels: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return digits that are one higher or lower, at random."""
    step = np.where(rng.random(values.shape) < 0.5, 1, -1)
    step = np.where(values == 0, 1, np.where(values == levels - 1, -1, step))
    return (values + step).astype(np.uint8)


def _decoded(digits: Digits, tokenizer: Tokenizer) -> NDArray[np.float32]:
    size = tokenizer.layout.picture(*digits.shape[2:])
    frames = tokenizer.layout.frames(digits.shape[1], first=True)
    pixels, _ = tokenizer.decode(digits, size, frames, None)
    return pixels.astype(np.float32)
