"""What steps the weights: AdamW for everything, or Muon for the matrices of the hidden layers beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vtok_codec.errors import SettingError
from vtok_codec.models.causal import FrameConv
from vtok_codec.training.muon import Muon
from vtok_codec.training.stages import Stage
from vtok_codec.training.subjects import Model, Subject

_LINEAR_STEP = 2.0
"""Step of a linear path's weights over their root mean square, at a learning rate of 1: a tenth of a network's. With
more, the decoder's pixel offsets jitter, and every picture shows the grid of latents."""


class StageOptimizer:
    """Steps every weight of a model that requires a gradient, at the rate of its kind.

    With AdamW alone each linear path steps in proportion to its weights: the KLT's are tiny next to a network's. With
    Muon (`vtok_codec.training.muon`) the convolutions inside the two networks step along the orthogonalized
    momentum of their `out × (in·k·k)` matrices, scaled so that the root mean square of a step is AdamW's.
    """

    def __init__(self, model: Model, subject: Subject[Model], others: Iterable[nn.Parameter], stage: Stage) -> None:
        if stage.optimizer not in ("adamw", "muon"):
            raise SettingError(f"no optimizer {stage.optimizer!r}; use adamw or muon")
        hidden = [conv for network in subject.networks(model) for conv in _convolutions(network)]
        matrices = [conv for conv in hidden if conv.weight.requires_grad] if stage.optimizer == "muon" else []
        self._matrices = [(conv.weight, _matrix_view(conv.weight)) for conv in matrices]
        self._adamw = torch.optim.AdamW(
            _adamw_groups(model, subject.linear_paths(model), others, {id(conv.weight) for conv in matrices}),
            lr=stage.learning_rate,
            betas=stage.betas,
            weight_decay=stage.weight_decay,
            fused=True,
        )
        self._muon = Muon([view for _, view in self._matrices], stage.weight_decay)
        self.rate = 0.0

    @property
    def parameters(self) -> list[Tensor]:
        """Every weight that steps, `others` among them."""
        weights = [p for group in self._adamw.param_groups for p in group["params"]]
        return weights + [weight for weight, _ in self._matrices]

    def set_rate(self, rate: float) -> None:
        """The learning rate of the steps that follow."""
        self.rate = rate
        for group in self._adamw.param_groups:
            group["lr"] = rate * group["rate_scale"]
        self._muon.rate = rate

    def zero_grad(self) -> None:
        for weight in self.parameters:
            weight.grad = None

    def step(self) -> None:
        self._adamw.step()
        self._muon.step([None if weight.grad is None else _as_matrix(weight.grad) for weight, _ in self._matrices])

    def state_dict(self) -> dict[str, Any]:
        return {"adamw": self._adamw.state_dict(), "muon": self._muon.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._adamw.load_state_dict(state["adamw"])
        self._muon.load_state_dict(state["muon"])


def _convolutions(module: nn.Module) -> list[FrameConv]:
    return [layer for layer in module.modules() if isinstance(layer, FrameConv)]


def _as_matrix(weight: Tensor) -> Tensor:
    """A convolution's `out in k k` as `out (k·k·in)`: without a copy where it lies channels-last."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def _matrix_view(weight: Tensor) -> Tensor:
    view = _as_matrix(weight.detach())
    if view.data_ptr() != weight.data_ptr():
        raise ValueError("Muon steps views of channels-last weights")
    return view


def _adamw_groups(
    model: nn.Module, linear: Sequence[FrameConv], others: Iterable[nn.Parameter], stepped: set[int]
) -> list[dict[str, Any]]:
    """AdamW's groups, each with `rate_scale`, its part of the learning rate."""
    special = stepped | {id(p) for layer in linear for p in layer.parameters()}
    rest = [p for p in model.parameters() if id(p) not in special and p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.ndim > 1], "rate_scale": 1.0},
        {"params": [p for p in rest if p.ndim <= 1], "rate_scale": 1.0, "weight_decay": 0.0},
        {"params": list(others), "rate_scale": 1.0, "weight_decay": 0.0},
    ]
    for layer in linear:
        if not layer.weight.requires_grad:
            continue
        scale = float(layer.weight.detach().square().mean().sqrt()) * _LINEAR_STEP
        groups.append({"params": list(layer.parameters()), "rate_scale": scale, "weight_decay": 0.0})
    return groups
