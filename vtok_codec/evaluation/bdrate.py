"""The Bjøntegaard rate difference (BD-rate, VCEG-M33): how much larger one codec's files are at equal quality.

The logarithm of the rate is interpolated over quality by a monotone cubic (PCHIP), and averaged over the range of
quality that both curves cover.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

_LEAST_OVERLAP = 0.1
"""The least range of quality in common, as a part of the shorter curve's range."""


@dataclass(frozen=True)
class RatePoint:
    """The rate and the quality of one coded file."""

    rate: float
    """The rate in any unit, such as bits per pixel; above 0."""
    quality: float
    """The value of a measure of quality."""


def bd_rate(anchor: Sequence[RatePoint], test: Sequence[RatePoint], higher_is_better: bool = True) -> float | None:
    """Compute the mean relative difference of rate at equal quality.

    Points that have a higher rate than another point without a better quality are left out.

    Args:
        anchor: The points of the codec to compare with.
        test: The points of the codec that is compared.
        higher_is_better: Whether a higher value of the measure means a better quality.

    Returns:
        The difference of `test` relative to `anchor`: 0.25 if `test` needs a quarter more bits. None if fewer than two
        points of a curve are left, or the curves share less than a tenth of the shorter curve's range of quality, which
        is too little to tell.
    """
    sign = 1 if higher_is_better else -1
    curves = [_curve(points, sign) for points in (anchor, test)]
    if any(len(qualities) < 2 for qualities, _ in curves):
        return None
    low = max(qualities[0] for qualities, _ in curves)
    high = min(qualities[-1] for qualities, _ in curves)
    shorter = min(qualities[-1] - qualities[0] for qualities, _ in curves)
    if high - low < _LEAST_OVERLAP * shorter:
        return None
    means = [PchipInterpolator(*curve).integrate(low, high) / (high - low) for curve in curves]
    return math.exp(float(means[1]) - float(means[0])) - 1


def _curve(points: Iterable[RatePoint], sign: int) -> tuple[list[float], list[float]]:
    """Return a curve as rising qualities and the natural logarithms of their rates."""
    qualities: list[float] = []
    rates: list[float] = []
    for point in sorted(points, key=lambda point: (point.rate, -sign * point.quality)):
        quality = sign * point.quality
        if np.isfinite(quality) and (not qualities or quality > qualities[-1]):
            qualities.append(quality)
            rates.append(math.log(point.rate))
    return qualities, rates
