"""How much work an encoder puts into the choice of digits. Nothing here imports torch."""

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
MAX_REFINED_PIXELS = 1 << 22
"""The most pixels of a picture whose digits are refined, which takes about 2.5 KB of memory for each."""
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
