"""The sharpness of pictures, measured by their gradients. Training uses it too, so it needs nothing but torch."""

from __future__ import annotations

from torch import Tensor


def gradient_energy(pictures: Tensor) -> float:
    """Return the mean squared difference between horizontal neighbours plus that between vertical neighbours.

    Args:
        pictures: `… H W`. A side of one pixel has no neighbours and adds nothing.
    """
    return float(sum(pictures.diff(dim=axis).square().mean() for axis in (-1, -2) if pictures.shape[axis] > 1))
