"""The Fréchet distance between two sets of videos in the features of a network: do they look alike as sets?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from vtok_codec.media.types import Pixels

Features = NDArray[np.float64]
"""A vector of features, float64."""


class FeatureNetwork(Protocol):
    """A frozen network that computes features of videos."""

    @property
    def name(self) -> str:
        """The name of the distance in its features, such as `FVD`."""

    @property
    def identity(self) -> str:
        """What the features depend on, such as the hash of the network's file."""

    def features(self, frames: Sequence[Pixels]) -> list[Features]:
        """Compute the features of a video, one vector or one for each of its parts.

        Args:
            frames: The frames, uint8 RGB `H W 3`.
        """


def frechet_distance(source: Sequence[Features], output: Sequence[Features]) -> float | None:
    """Compute the Fréchet distance between two sets of features, each modelled as a Gaussian.

    Args:
        source: The features of the source videos.
        output: The features of the decoded videos.

    Returns:
        The distance, or None if a set has fewer than two vectors.
    """
    if min(len(source), len(output)) < 2:
        return None
    a, b = np.stack(source), np.stack(output)
    mean = a.mean(0) - b.mean(0)
    cov_a, cov_b = (np.cov(x, rowvar=False) for x in (a, b))
    # tr √(AB) is computed from the eigenvalues of √A B √A. That matrix is symmetric, so this also works for a singular
    # covariance, which fewer vectors than dimensions have.
    root = _root(cov_a)
    eigenvalues = linalg.eigvalsh(root @ cov_b @ root)
    cross = np.sqrt(np.clip(eigenvalues, 0, None)).sum()
    return float(mean @ mean + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def _root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the square root of a symmetric positive semidefinite matrix."""
    values, vectors = linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T)
