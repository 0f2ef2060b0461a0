"""The quality presets of `vtok encode`: a model and its settings under one name. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from vtok_codec.errors import SettingError
from vtok_codec.registry import DEFAULT_MODEL

COARSE_MODEL = "onevae-nano-4x16x16"


@dataclass(frozen=True)
class QualityPreset:
    """A model and its settings, with what they gave on the held-out clips of the model's card."""

    model: str
    """The name of the shipped model."""
    tokens_per_position: int
    """Tokens written per latent position."""
    rdo: float
    """What a bit costs when digits are chosen by rate and error; see `EncodeSettings`."""
    bits_per_pixel: float
    """Bits per pixel of whole files, mean over clips; the model's card tells which were measured."""
    psnr_db: float
    """Measured PSNR in dB, mean over clips."""


QUALITIES = {
    "tiny": QualityPreset(COARSE_MODEL, 2, 0.02, 0.0145, 27.58),
    "small": QualityPreset(DEFAULT_MODEL, 1, 0.02, 0.0264, 28.76),
    "medium": QualityPreset(DEFAULT_MODEL, 2, 0.02, 0.0433, 30.21),
    "best": QualityPreset(DEFAULT_MODEL, 4, 0.02, 0.0864, 31.35),
}
"""All quality presets by name, from the smallest file to the best picture. The models' cards say how the figures were
measured."""
DEFAULT_QUALITY = "medium"
"""The quality preset that is used when none is named."""


def find_quality(name: str) -> QualityPreset:
    """Find a quality preset by name.

    Raises:
        SettingError: There is no such preset.
    """
    if name not in QUALITIES:
        raise SettingError(f"quality {name}: choose from {', '.join(QUALITIES)}")
    return QUALITIES[name]
