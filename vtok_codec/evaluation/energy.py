"""How sharp pictures are, by their gradients. Training watches it too, so that nothing but torch is needed here."""

from __future__ import annotations

from torch import Tensor


def gradient_energy(pictures: Tensor) -> float:
    """Mean square of the differences between neighbours in a row, and the same in a column, of pictures `… H W`."""
    return float(sum(pictures.diff(dim=axis).square().mean() for axis in (-1, -2) if pictures.shape[axis] > 1))
