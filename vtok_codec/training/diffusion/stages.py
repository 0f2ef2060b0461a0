"""The stages that train diffusion decoders, as data. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from vtok_codec.training.recipe import Augmentation, CropShape, Phase, Recipe


@dataclass(frozen=True)
class DiffusionRecipe(Recipe):
    """The settings of a stage that trains a diffusion decoder."""

    lpips_start: float = 0.0
    """The fraction of the stage after which LPIPS is a term of the loss."""
    noise_only_until: float = 0.0
    """The fraction of the stage until which the decoder sees only pure noise, at time 1 (One-DVA, stage 1)."""
    noise_only_share: float = 0.1
    """The share of samples that are pure noise after `noise_only_until` (One-DVA, stage 2)."""


_DIFFUSION = DiffusionRecipe(
    phases=(Phase(0.0, CropShape(batch=8, frames=16, size=96)), Phase(0.5, CropShape(batch=4, frames=16, size=128))),
    learning_rate=3e-4,
    lpips_weight=2.0,
    lpips_frames=8,
    noise_only_until=0.7,
    noise_only_share=0.5,
    warmup_steps=100,
    ema_decay=0.998,
    token_weights=(0.5, 0.3, 0.05, 0.15),
    # If all clips were sharp, the decoder would learn to sharpen soft ones too.
    augmentation=Augmentation(shrink=0.2, skip=0.5, soft=0.35),
)

STAGES: dict[str, tuple[str, DiffusionRecipe, str]] = {
    "diffusion": ("rate", _DIFFUSION, "a diffusion decoder for the tokens of --codec"),
}
"""For each stage by name: the stage that usually comes before it, its recipe, and a summary."""
