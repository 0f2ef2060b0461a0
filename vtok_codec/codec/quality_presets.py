"""The quality presets of `vtok encode`: a model and its settings under one name. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from vtok_codec.errors import SettingError
from vtok_codec.registry import DEFAULT_MODEL

_COARSE_MODEL = "onevae-nano-4x16x16"


@dataclass(frozen=True)
class QualityPreset:
    """A model and its settings, with what they gave on the held-out clips of the model's card."""

    model: str
    """The name of the shipped model."""
    tokens_per_position: int
    """Tokens written per latent position."""
    stickiness: float
    """How far beyond half a step a latent may move before its digit changes; see `EncodeSettings`."""
    bits_per_pixel: float
    """Measured bits per pixel of whole files, mean over clips."""
    psnr_db: float
    """Measured PSNR in dB, mean over clips."""


QUALITIES = {
    "tiny": QualityPreset(_COARSE_MODEL, 2, 0.085, 0.0200, 27.41),
    "small": QualityPreset(DEFAULT_MODEL, 1, 0.05, 0.0305, 28.80),
    "medium": QualityPreset(DEFAULT_MODEL, 2, 0.0, 0.0612, 30.52),
    "best": QualityPreset(DEFAULT_MODEL, 4, 0.0, 0.1177, 31.70),
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
