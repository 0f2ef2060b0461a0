"""Named qualities: what a user chooses who does not want to know of tokens."""

from __future__ import annotations

from dataclasses import dataclass

from vtok_codec.errors import SettingError
from vtok_codec.registry import DEFAULT_MODEL

_COARSE_MODEL = "onevae-nano-4x16x16"


@dataclass(frozen=True)
class Quality:
    """A model and how it is used, with what it gave on the held-out clips of its card."""

    model: str
    tokens: int
    """Tokens written a latent position."""
    stickiness: float
    """See `EncodeSettings.stickiness`."""
    bits_per_pixel: float
    """Of whole files; mean over clips."""
    psnr_db: float


QUALITIES = {
    "tiny": Quality(_COARSE_MODEL, 2, 0.085, 0.0200, 27.41),
    "small": Quality(DEFAULT_MODEL, 1, 0.05, 0.0305, 28.80),
    "medium": Quality(DEFAULT_MODEL, 2, 0.0, 0.0612, 30.52),
    "best": Quality(DEFAULT_MODEL, 4, 0.0, 0.1177, 31.70),
}
"""From the smallest file to the best picture; the models' cards have the commands that measured them."""
DEFAULT_QUALITY = "medium"


def find_quality(name: str) -> Quality:
    """A quality by name.

    Raises:
        SettingError: there is none of that name.
    """
    if name not in QUALITIES:
        raise SettingError(f"quality {name}: choose from {', '.join(QUALITIES)}")
    return QUALITIES[name]
