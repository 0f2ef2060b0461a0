"""The stages that train One-DVA, as data. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from vtok_codec.training.recipe import Augmentation, CropShape, Phase, Recipe


@dataclass(frozen=True)
class OneDVARecipe(Recipe):
    """The settings of a stage that trains One-DVA."""

    unused: ClassVar[frozenset[str]] = Recipe.unused | {"token_weights"}

    whole_share: float = 1.0
    """The share of windows that read all their 1D tokens."""
    structural_share: float = 0.0
    """The share of windows that read none. The others read as many as their motion asks for, times a random factor."""
    pixel_start: float = 1.0
    """The fraction of the stage after which the error of pixels is the loss; before it, that of the second token. Steps
    from noise have the latter throughout."""
    noisy_share: float = 0.0
    """The share of steps that train a diffusion decoder instead of decoding without noise."""
    noise_only_share: float = 0.1
    """The share of the samples in them that see pure noise; the others have a logit-normal time."""
    alignment_weight: float = 0.0
    """The weight of the cosine distance from each 1D token to the structural token most like it (One-DVA, 3.5)."""
    similarity_weight: float = 0.0
    """The weight of the cosine distance from each 1D token to the one before it (One-DVA, 3.5)."""


_ALL_QUERIES = OneDVARecipe(
    phases=(Phase(0.0, CropShape(batch=1, frames=32, size=256)),),
    learning_rate=2e-3,
    warmup_steps=100,
    ema_decay=0.998,
    augmentation=Augmentation(gop_start=1.0),
)
_LENGTHS = replace(
    _ALL_QUERIES, learning_rate=1.5e-3, whole_share=0.1, structural_share=0.1, pixel_start=0.6, lpips_weight=0.02
)
_NOISE = replace(_LENGTHS, learning_rate=1e-3, lpips_weight=0.0, noisy_share=0.8)

STAGES: dict[str, tuple[str, OneDVARecipe, str]] = {
    "onedva": (
        "rate",
        _ALL_QUERIES,
        "1D tokens beside the first token of --codec (One-DVA, stage 1)",
    ),
    "onedva-lengths": ("onedva", _LENGTHS, "1D tokens that may be cut off at any length (One-DVA, stage 2)"),
    "onedva-noise": ("onedva-lengths", _NOISE, "the same for decoding from noise by flow matching (One-DVA, stage 2)"),
}
"""For each stage by name: the stage that usually comes before it, its recipe, and a summary."""
