"""Fréchet video distance (FVD). It needs the I3D network, a TorchScript file that vtok is not allowed to ship."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vtok_codec.errors import ModelError
from vtok_codec.evaluation.frechet import Features
from vtok_codec.media.types import Pixels
from vtok_codec.text import first_line


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
        self.name = "FVD"
        """See `FeatureNetwork.name`."""
        try:
            self.identity = hashlib.sha256(path.read_bytes()).hexdigest()
            """The SHA-256 of the file."""
            self._network = torch.jit.load(str(path), map_location=device).eval()
        except (RuntimeError, ValueError, OSError) as error:
            raise ModelError(f"{path} is not a TorchScript file that can be read: {first_line(error)}") from error
        self._path, self._device = path, device

    @torch.inference_mode()
    def features(self, frames: Sequence[Pixels]) -> list[Features]:
        """Compute the vector of one clip. The whole clip is held in memory.

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
        return [vector.flatten().double().cpu().numpy()]
