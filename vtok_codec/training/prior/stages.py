"""The stage that trains the prior of a codec's tokens, as data. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vtok_codec.training.recipe import CropShape, Phase, Recipe


@dataclass(frozen=True)
class PriorRecipe(Recipe):
    """The settings of a stage that trains a prior.

    Of `phases`, only the number of crops and their size in pixels count: a crop is one latent frame, with the ones
    before it as context.
    """

    channels: int = 48
    """The channels of the trunks."""
    blocks: int = 2
    """The residual blocks of the trunk of the network for later latent frames."""
    features: int = 24
    """The features per plane of the network for later latent frames."""
    first_blocks: int = 2
    """The residual blocks of the trunk of the network for the first latent frame, if that has phases."""
    first_features: int = 24
    """The features per plane of the network for the first latent frame."""
    first_share: float = 0.25
    """The share of crops that are first latent frames of a GOP."""
    mirrored: int = 1
    """Whether the mirror image of each clip is encoded and trained on too; 1 or 0."""
    unused: ClassVar[frozenset[str]] = frozenset({"optimizer", "lpips_weight", "lpips_frames", "augmentation"})
    """The settings of all stages that this one does not use: it trains on digits, with AdamW."""


_PRIOR = PriorRecipe(
    phases=(Phase(0.0, CropShape(batch=64, frames=16, size=224)),),
    learning_rate=3e-3,
    optimizer="adamw",
    weight_decay=0.002,
    warmup_steps=100,
    ema_decay=0.998,
    token_weights=(0.2, 0.5, 0.05, 0.25),
)

STAGES: dict[str, tuple[str, PriorRecipe, str]] = {
    "prior": ("rate", _PRIOR, "the prior of the tokens of --from, for smaller files"),
}
"""For each stage by name: the stage that usually comes before it, its recipe, and a summary."""
