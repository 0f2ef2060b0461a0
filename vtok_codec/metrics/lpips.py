"""LPIPS v0.1 with AlexNet (Zhang et al., arXiv:1801.03924), with the weights in `weights/lpips-alex.safetensors`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtok_codec.models.weights import parse_tensors
from vtok_codec.registry import find_weights

# Input channels, output channels, kernel, stride, padding, and whether a max-pool precedes the convolution.
_CONVOLUTIONS = (
    (3, 64, 11, 4, 2, False),
    (64, 192, 5, 1, 2, True),
    (192, 384, 3, 1, 1, True),
    (384, 256, 3, 1, 1, False),
    (256, 256, 3, 1, 1, False),
)
_WEIGHTS = "lpips-alex"
"""The name of the shipped weights."""
LEAST_SIDE = 32
"""A height and width in pixels from which on the network's strides leave something of a picture."""
_MEAN = (-0.030, -0.088, -0.188)
_STD = (0.458, 0.448, 0.450)


def grown(pictures: Tensor) -> Tensor:
    """Return pictures `B 3 H W` with copies of their last row and column where they are too small for the network."""
    height, width = pictures.shape[2:]
    missing = max(0, LEAST_SIDE - width), max(0, LEAST_SIDE - height)
    return F.pad(pictures, (0, missing[0], 0, missing[1]), mode="replicate") if any(missing) else pictures


class LPIPS(nn.Module):
    """The perceptual distance LPIPS between pictures. Its parameters are frozen.

    Args:
        weights: The tensors of the weights file, by name.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1))
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, k, s, p) for i, o, k, s, p, _ in _CONVOLUTIONS)
        for index, conv in enumerate(self.convolutions):
            conv.load_state_dict({part: weights[f"alex.conv{index}.{part}"] for part in ("weight", "bias")})
            self.register_buffer(f"head{index}", weights[f"alex.lin{index}"].float())
        self.requires_grad_(False).eval()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distance between the pictures of each pair.

        Args:
            a: The first picture of each pair, `N 3 H W` in [−1, 1].
            b: The second picture of each pair, of the same shape.

        Returns:
            The distances, fp32 `N`; 0 for equal pictures.
        """
        total = a.new_zeros(len(a), dtype=torch.float32)
        for index, (x, y) in enumerate(zip(self._taps(a), self._taps(b), strict=True)):
            difference = (_normalize(x) - _normalize(y)) ** 2
            total = total + F.conv2d(difference, self.get_buffer(f"head{index}")).mean(dim=(1, 2, 3))
        return total

    def _taps(self, pictures: Tensor) -> list[Tensor]:
        x = (pictures - self.mean) / self.std
        taps = []
        for conv, (*_, pooled) in zip(self.convolutions, _CONVOLUTIONS, strict=True):
            x = F.relu(conv(F.max_pool2d(x, 3, 2) if pooled else x))
            taps.append(x.float())
        return taps


def lpips_sha256() -> str:
    """Return the SHA-256 hash of the shipped weights of LPIPS.

    Raises:
        ModelError: They are missing.
    """
    return find_weights(_WEIGHTS).sha256


def load_lpips() -> LPIPS:
    """Load LPIPS with the shipped weights.

    Raises:
        ModelError: The weights are missing or unreadable.
    """
    weights = find_weights(_WEIGHTS)
    return LPIPS(parse_tensors(weights.data, str(weights.path)))


def _normalize(features: Tensor) -> Tensor:
    # The term under the root keeps the gradient finite where all features are zero.
    norm = (features.square().sum(dim=1, keepdim=True) + 1e-20).sqrt()
    return features / (norm + 1e-10)
