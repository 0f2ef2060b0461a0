"""Fréchet video distance (FVD). It needs the I3D network, a TorchScript file that vtok is not allowed to ship."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import linalg

from vtok_codec.errors import ModelError
from vtok_codec.media.types import Pixels

Features = NDArray[np.float64]
"""The features of a clip: a vector of float64."""


class I3D:
    """The I3D network, which computes the features of clips (Unterthiner 2018).

    The file is the `i3d_torchscript.pt` that papers on video use (from StyleGAN-V). The network is called as
    `network(video, rescale=True, resize=True, return_features=True)` with float `B 3 T H W` in 0…255.

    Args:
        path: The file of the network.
        device: Where the network runs.

    Raises:
        ModelError: The file is not a TorchScript file.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        try:
            self.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            self._network = torch.jit.load(str(path), map_location=device).eval()
        except (RuntimeError, ValueError, OSError) as error:
            reason = str(error).strip().splitlines()[:1] or ["unreadable"]
            raise ModelError(f"{path} is not a TorchScript file that can be read: {reason[0]}") from error
        self._path, self._device = path, device

    @torch.inference_mode()
    def features(self, frames: Sequence[Pixels]) -> Features:
        """Compute the features of one clip. The whole clip is held in memory.

        Args:
            frames: The frames, uint8 RGB `H W 3`.

        Raises:
            ModelError: The network does not accept such a clip.
        """
        video = torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2)[None].float().to(self._device)
        try:
            vector = self._network(video, rescale=True, resize=True, return_features=True)
        except RuntimeError as error:
            last = (str(error).strip().splitlines() or ["it said nothing"])[-1]
            raise ModelError(f"{self._path} does not take a clip of {len(frames)} frames: {last}") from error
        return vector.flatten().double().cpu().numpy()


def frechet_distance(source: Sequence[Features], output: Sequence[Features]) -> float | None:
    """Compute the Fréchet distance between two sets of clips, each modelled as a Gaussian.

    Args:
        source: The features of the source clips.
        output: The features of the decoded clips.

    Returns:
        The distance, or None if a set has fewer than two clips.
    """
    if min(len(source), len(output)) < 2:
        return None
    a, b = np.stack(source), np.stack(output)
    mean = a.mean(0) - b.mean(0)
    cov_a, cov_b = (np.cov(x, rowvar=False) for x in (a, b))
    # tr √(AB) is computed from the eigenvalues of √A B √A. That matrix is symmetric, so this also works for a singular
    # covariance, which fewer clips than dimensions have.
    root = _root(cov_a)
    eigenvalues = linalg.eigvalsh(root @ cov_b @ root)
    cross = np.sqrt(np.clip(eigenvalues, 0, None)).sum()
    return float(mean @ mean + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def _root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the square root of a symmetric positive semidefinite matrix."""
    values, vectors = linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T)
