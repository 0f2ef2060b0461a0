"""Bjøntegaard's rate difference: how much larger a codec's files are than another's at equal quality (VCEG-M33).

Log rate is interpolated over quality by a monotone cubic (PCHIP), and averaged over the range that both curves have.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

_LEAST_OVERLAP = 0.1


@dataclass(frozen=True)
class RatePoint:
    """One file: its size in any unit, and its quality."""

    rate: float
    quality: float


def bd_rate(anchor: Sequence[RatePoint], test: Sequence[RatePoint], higher_is_better: bool = True) -> float | None:
    """The mean relative difference of rate at equal quality: 0.25 where `test` needs a quarter more than `anchor`.

    Points that cost more than another and are no better are left out. None where fewer than two points are left of a
    curve, or the qualities in common are less than a tenth of the shorter curve's: a sliver says nothing.
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
    """Rising qualities, and the logs of their rates."""
    qualities: list[float] = []
    rates: list[float] = []
    for point in sorted(points, key=lambda point: (point.rate, -sign * point.quality)):
        quality = sign * point.quality
        if np.isfinite(quality) and (not qualities or quality > qualities[-1]):
            qualities.append(quality)
            rates.append(math.log(point.rate))
    return qualities, rates
