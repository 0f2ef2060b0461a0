"""Muon for many matrices at once (Jordan 2024): as `torch.optim.Muon`, but with all matrices of one shape together.

`torch.optim.Muon` updates one matrix after another with many small kernels, so that a GPU mostly waits for their
launches. A model has only a few shapes of matrices, and stacking the matrices of each shape needs far fewer kernels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vtok_codec.models.precision import fast_type

_MOMENTUM = 0.95
"""The decay of the momentum per step."""
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the odd polynomial of degree five in the Newton–Schulz iteration."""
_ITERATIONS = 5
"""The number of Newton–Schulz iterations."""
_EPSILON = 1e-7
"""The smallest norm that a matrix is divided by."""
_ADAMW_RMS = 0.2
"""The root mean square of a typical step of AdamW at a learning rate of 1 (Liu et al. 2025, arXiv:2502.16982)."""


class Muon:
    """Updates matrices along their orthogonalized momentum.

    Updates are scaled so that their root mean square is about that of AdamW, and both can share a learning rate.
    """

    def __init__(self, matrices: Sequence[Tensor], weight_decay: float) -> None:
        """Create the optimizer.

        Args:
            matrices: The matrices to update in place, each `M N`.
            weight_decay: Decoupled weight decay.
        """
        self.rate = 0.0
        """The learning rate of the next step."""
        self._matrices = list(matrices)
        self._weight_decay = weight_decay
        self._momenta = [torch.zeros_like(matrix) for matrix in matrices]
        shapes = dict.fromkeys(matrix.shape for matrix in matrices)
        self._alike = [[i for i, matrix in enumerate(matrices) if matrix.shape == shape] for shape in shapes]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """Update the matrices in place.

        Args:
            gradients: The gradient of each matrix, or None for a matrix that keeps its values.
        """
        for alike in self._alike:
            given = [(place, gradient) for place in alike if (gradient := gradients[place]) is not None]
            if not given:
                continue
            matrices = [self._matrices[place] for place, _ in given]
            momenta = [self._momenta[place] for place, _ in given]
            found = [gradient for _, gradient in given]
            torch._foreach_lerp_(momenta, found, 1 - _MOMENTUM)
            updates = _orthogonalized(torch.stack(torch._foreach_lerp(found, momenta, _MOMENTUM)))
            scale = _ADAMW_RMS * math.sqrt(max(matrices[0].shape))
            torch._foreach_mul_(matrices, 1 - self.rate * self._weight_decay)
            torch._foreach_add_(matrices, list(updates.to(matrices[0].dtype)), alpha=-self.rate * scale)

    def state_dict(self) -> dict[str, Any]:
        """Return the momenta of all matrices."""
        return {"momenta": self._momenta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned.

        Raises:
            ValueError: The state belongs to matrices of other shapes.
        """
        for mine, kept in zip(self._momenta, state["momenta"], strict=True):
            if mine.shape != kept.shape:
                raise ValueError(f"momenta of shape {tuple(kept.shape)} for matrices of {tuple(mine.shape)}")
            mine.copy_(kept)


def _orthogonalized(matrices: Tensor) -> Tensor:
    """Return matrices close to the nearest orthogonal ones, `B M N`: all singular values become about 0.7 to 1.2."""
    a, b, c = _COEFFICIENTS
    x = matrices.to(fast_type(matrices.device))
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / x.flatten(1).norm(dim=1).clamp_min(_EPSILON)[:, None, None]
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
