"""The stage that trains a latent flow, as data. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from vtok_codec.training.recipe import CropShape, Phase, TransformerRecipe


@dataclass(frozen=True)
class LatentFlowRecipe(TransformerRecipe):
    """The settings of a stage that trains a latent flow."""

    tokens: int = 2
    """The tokens per latent position whose channels it draws."""
    clean_share: float = 0.4
    """The share of latent frames without noise, which are only there to go on from."""
    noise_only_share: float = 0.1
    """Of the other latent frames, the share that are nothing but noise (One-DVA, section 3.4)."""
    mirrored: int = 1
    """Whether the mirror image of each clip is encoded and trained on too; 1 or 0."""


_LATENT_FLOW = LatentFlowRecipe(
    phases=(Phase(0.0, CropShape(batch=2, frames=48, size=256)),),
    learning_rate=1e-3,
    weight_decay=0.05,
    warmup_steps=100,
    ema_decay=0.998,
)

STAGES: dict[str, tuple[str, LatentFlowRecipe, str]] = {
    "latent-flow": ("rate", _LATENT_FLOW, "a generator of the continuous latents of --codec, for 'vtok continue'"),
}
"""For each stage by name: the stage that usually comes before it, its recipe, and a summary."""
