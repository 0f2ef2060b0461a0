"""The stage that trains a generator of tokens, as data. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from vtok_codec.training.recipe import CropShape, Phase, TransformerRecipe


@dataclass(frozen=True)
class GeneratorRecipe(TransformerRecipe):
    """The settings of a stage that trains a generator."""

    tokens: int = 0
    """Tokens per latent position to predict; 0 for all that the corpus has."""
    order: str = "waves"
    """The order of the positions within a latent frame: `raster`, or `waves`, which draws faster."""
    label: str = ""
    """The column of the corpora whose values are the classes of the clips; empty for none."""
    label_dropout: float = 0.1
    """The probability with which a window is trained on as if its class were not known, so that classes can guide."""
    drawn_share: float = 0.0
    """The largest share of a window's positions at which the network sees what it drew itself in place of the tokens of
    the video (scheduled sampling, arXiv:1506.03099); each window has a random share up to this. A step then has a
    second pass forward."""


_GENERATOR = GeneratorRecipe(
    phases=(Phase(0.0, CropShape(batch=2, frames=48, size=256)),),
    learning_rate=1e-3,
    weight_decay=0.05,
    warmup_steps=100,
    ema_decay=0.998,
)

STAGES: dict[str, tuple[str, GeneratorRecipe, str]] = {
    "generator": ("rate", _GENERATOR, "a generator of the tokens of a corpus (--data), for 'vtok continue'"),
}
"""For each stage by name: the stage that usually comes before it, its recipe, and a summary."""
