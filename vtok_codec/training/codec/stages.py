"""The stages that train codec models (OneVAE, Fig. 3a), as data. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from vtok_codec.training.recipe import CropShape, Phase, Recipe

PARTS = ("encoder", "quantizer", "decoder")
"""The parts of a model that a stage can train. `quantizer` includes the layers on both sides of the quantizer."""


@dataclass(frozen=True)
class CodecRecipe(Recipe):
    """The settings of a stage that trains a codec."""

    trains: tuple[str, ...] = PARTS
    """The parts of the model that train, out of `encoder`, `quantizer` and `decoder`; the others are frozen."""
    discrete_share: float = 1.0
    """The share of samples that are rounded by the quantizer (R_dis, OneVAE eq. 5); the others stay continuous."""
    continuous_until: float = 0.0
    """The fraction of the stage until which all samples stay continuous."""
    distortion: str = "rmse"
    """The pixel loss: `rmse`, `mse`, `l1` or `charbonnier`."""
    temporal_weight: float = 0.0
    """The weight of the error of the changes from frame to frame, a temporal loss against flicker."""
    kl_weight: float = 0.0
    """The weight of the KL term on the latents. With 0 there is no such term, and the latents get no noise."""
    commitment_weight: float = 0.0
    """The weight of the commitment term, the distance between latents and their codes."""
    entropy_weight: float = 0.0
    """The weight of the entropy term (LFQ), which rewards clear choices that are spread over the whole codebook."""
    adversarial_weight: float = 0.0
    """The weight of the adversarial loss relative to the pixel loss. With 0 there is no discriminator."""
    adversarial_start: float = 0.0
    """The fraction of the stage after which the adversarial loss counts. The discriminator trains from the start."""
    latent_flow: str = ""
    """Weights of a latent flow whose latents the decoder trains on: a file or the folder of a run; empty for none."""
    redrawn_share: float = 0.0
    """The share of batches whose latents the latent flow redraws."""
    rate_weights: tuple[float, ...] = ()
    """λ of each of the N tokens: the weight of one bit per pixel relative to the pixel loss. If empty, there is no rate
    term and no prior. Later tokens gain less quality per bit, so their λ should be smaller."""


# Small crops give more steps per minute and learn faster at first; larger ones then teach the context beyond a border.
_SMALL = CropShape(batch=12, frames=16, size=64)
_MIDDLE = CropShape(batch=6, frames=16, size=96)
_LARGE = CropShape(batch=4, frames=16, size=128)
_FINE = CropShape(batch=1, frames=16, size=256)
_GROWING = (Phase(0.0, _SMALL), Phase(0.45, _MIDDLE), Phase(0.75, _LARGE))
_MOSTLY_TWO = (0.28, 0.32, 0.10, 0.30)
"""Shares of samples that read 1, 2, 3 and 4 tokens. The first two tokens matter most: `vtok encode` writes two."""

_CONTINUOUS = CodecRecipe(
    phases=(Phase(0.0, _SMALL),),
    learning_rate=1e-3,
    discrete_share=0.0,
    kl_weight=1e-4,
    token_weights=_MOSTLY_TWO,
)
_DISCRETE = CodecRecipe(
    phases=_GROWING, learning_rate=8e-4, discrete_share=0.9, lpips_weight=0.02, token_weights=_MOSTLY_TWO
)
_UNIFIED = CodecRecipe(
    phases=_GROWING, learning_rate=8e-4, discrete_share=0.5, lpips_weight=0.02, token_weights=_MOSTLY_TWO
)
_COMPRESS = CodecRecipe(
    phases=_GROWING,
    learning_rate=8e-4,
    discrete_share=0.9,
    continuous_until=0.3,
    lpips_weight=0.02,
    token_weights=_MOSTLY_TWO,
)
_RATE = CodecRecipe(
    phases=(Phase(0.0, _SMALL), Phase(0.35, _MIDDLE), Phase(0.7, _LARGE)),
    learning_rate=6e-4,
    lpips_weight=0.02,
    rate_weights=(0.21, 0.16, 0.06, 0.03),
    token_weights=(0.22, 0.28, 0.10, 0.40),
)
_DECODER = CodecRecipe(
    phases=(Phase(0.0, _LARGE), Phase(0.5, _FINE)),
    learning_rate=3e-4,
    trains=("decoder",),
    lpips_weight=0.02,
    token_weights=_MOSTLY_TWO,
)
_ADVERSARIAL = CodecRecipe(
    phases=(Phase(0.0, _MIDDLE),),
    learning_rate=2e-4,
    trains=("decoder",),
    lpips_weight=0.1,
    adversarial_weight=0.1,
    adversarial_start=0.1,
    token_weights=_MOSTLY_TWO,
)
_REDRAWN = CodecRecipe(
    phases=(Phase(0.0, _LARGE),),
    learning_rate=2e-4,
    trains=("decoder",),
    discrete_share=0.5,
    redrawn_share=0.75,
    lpips_weight=0.1,
    token_weights=_MOSTLY_TWO,
)

STAGES: dict[str, tuple[str, CodecRecipe, str]] = {
    "continuous": ("klt", _CONTINUOUS, "a fresh model without quantization"),
    "discrete": ("continuous", _DISCRETE, "insert FSQ and train nested tokens"),
    "unified": ("continuous", _UNIFIED, "as discrete, but half of the samples stay continuous"),
    "compress": ("discrete", _COMPRESS, "move to a preset with a coarser latent grid"),
    "rate": ("discrete", _RATE, "weigh bits against error, for smaller files"),
    "decoder": ("rate", _DECODER, "train the decoder alone on large crops; tokens keep their meaning"),
    "redrawn": ("rate", _REDRAWN, "train the decoder on what a latent flow (--set latent_flow=) makes of latents"),
    "adversarial": ("rate", _ADVERSARIAL, "train the decoder against a temporal PatchGAN"),
}
"""For each stage by name: the stage that usually comes before it, its recipe, and a summary."""
