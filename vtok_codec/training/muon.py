"""Muon for many matrices at once (Jordan 2024): what `torch.optim.Muon` does, matrices of one shape together.

That one steps matrix after matrix, by 25 kernels each: some 1,500 a step for the 60 matrices of a model, each so small
that a GPU waits for its launch. Stacked they are 25 for each shape of matrix, of which a model has six or so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vtok_codec.models.precision import fast_type

_MOMENTUM = 0.95
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the Newton–Schulz iteration's odd polynomial of degree five."""
_ITERATIONS = 5
_EPSILON = 1e-7
_ADAMW_RMS = 0.2
"""Root mean square of AdamW's steps at a learning rate of 1 (Liu et al. 2025, arXiv:2502.16982)."""


class Muon:
    """Steps matrices along their orthogonalized momentum, scaled so that the root mean square of a step is AdamW's."""

    def __init__(self, matrices: Sequence[Tensor], weight_decay: float) -> None:
        self.rate = 0.0
        """Learning rate of the next step."""
        self._matrices = list(matrices)
        self._weight_decay = weight_decay
        self._momenta = [torch.zeros_like(matrix) for matrix in matrices]
        shapes = dict.fromkeys(matrix.shape for matrix in matrices)
        self._alike = [[i for i, matrix in enumerate(matrices) if matrix.shape == shape] for shape in shapes]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """One step; a matrix without a gradient stays."""
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
        return {"momenta": self._momenta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises:
        ValueError: the state is of other matrices.
        """
        for mine, kept in zip(self._momenta, state["momenta"], strict=True):
            if mine.shape != kept.shape:
                raise ValueError(f"momenta of shape {tuple(kept.shape)} for matrices of {tuple(mine.shape)}")
            mine.copy_(kept)


def _orthogonalized(matrices: Tensor) -> Tensor:
    """The nearest orthogonal matrices, roughly: every singular value of each becomes one of about 0.7 to 1.2."""
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
