"""How an encoder refines its choice of digits: how much work it puts into it, and what for.

Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from vtok_codec.errors import SettingError


@dataclass(frozen=True)
class Effort:
    """How an encoder refines the digits of a chunk; see `vtok_codec.codec.refinement`."""

    steps: int
    """The gradient steps per chunk. With 0, the digits are those that the encoder network gives."""
    bit_factor: float
    """The factor of `EncodeSettings.rdo`. Refined digits make up for each other's errors, so an error costs less, and a
    bit weighs more."""
    summary: str
    """A short description for help texts."""


EFFORTS = {
    "fast": Effort(0, 1.0, "as fast as the model"),
    "normal": Effort(2, 4.0, "about an eighth smaller at equal quality, in 7 times the time"),
    "slow": Effort(5, 6.0, "about a sixth smaller, in 13 times the time"),
}
"""All efforts by name, the fastest first."""


@dataclass(frozen=True)
class Tune:
    """What an encoder minimizes when it refines digits; see `vtok_codec.codec.distortion`."""

    lpips_weight: float
    """How much LPIPS counts. With 1, a change of LPIPS by one percent counts as much as one of the squared error."""
    summary: str
    """A short description for help texts."""


TUNES = {
    "psnr": Tune(0.0, "the squared error of pixels"),
    "lpips": Tune(0.5, "LPIPS as well, for pictures that look closer to their source"),
}
"""All tunes by name."""
DEFAULT_TUNE = "psnr"
"""The tune if none is named."""
MAX_REFINED_PIXELS = 1 << 22
"""The most pixels of a picture whose digits are refined, which takes about 2.5 KB of memory for each, on a processor
without bf16 5 KB."""
DEFAULT_EFFORT = "fast"
"""The effort if none is named. It keeps up with a live source."""


def find_effort(name: str) -> Effort:
    """Find an effort by name.

    Raises:
        SettingError: There is no such effort.
    """
    if name not in EFFORTS:
        raise SettingError(f"effort {name}: choose from {', '.join(EFFORTS)}")
    return EFFORTS[name]


def find_tune(name: str) -> Tune:
    """Find a tune by name.

    Raises:
        SettingError: There is no such tune.
    """
    if name not in TUNES:
        raise SettingError(f"tune {name}: choose from {', '.join(TUNES)}")
    return TUNES[name]
