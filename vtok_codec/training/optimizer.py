"""The optimizer of a stage: AdamW for all weights, or Muon for the matrices of hidden layers and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vtok_codec.models.causal import FrameConv
from vtok_codec.training.muon import Muon
from vtok_codec.training.objective import Model
from vtok_codec.training.recipe import Recipe
from vtok_codec.training.subject import Subject

_LINEAR_STEP = 2.0
"""The size of a step of a linear path relative to the root mean square of its weights, at a learning rate of 1.

This is about a tenth of what suits the networks. With larger steps the pixel offsets of the decoder jitter, and every
picture shows the latent grid.
"""


class StageOptimizer:
    """Updates every weight of a model that requires a gradient, with a learning rate that suits its kind.

    AdamW updates each linear path with a learning rate in proportion to the size of its weights, since the weights of
    the KLT are tiny compared with those of a network. If the recipe names Muon (`vtok_codec.training.muon`), it updates
    the convolutions inside the networks, as matrices `out × (k·k·in)`, and their linear layers; AdamW updates all other
    weights.
    """

    def __init__(
        self, model: Model, subject: Subject[Model, Any], others: Iterable[nn.Parameter], recipe: Recipe
    ) -> None:
        """Create the optimizer.

        Args:
            model: The model, after `Subject.freeze`.
            subject: The properties of the model's kind.
            others: Further parameters to train, such as those of the objective.
            recipe: The settings of the stage.
        """
        hidden = [layer for network in subject.networks(model) for layer in _hidden_layers(network)]
        matrices = [layer for layer in hidden if layer.weight.requires_grad] if recipe.optimizer == "muon" else []
        self._matrices = [(layer.weight, _matrix_view(layer.weight)) for layer in matrices]
        self._adamw = torch.optim.AdamW(
            _adamw_groups(model, subject.linear_paths(model), others, {id(layer.weight) for layer in matrices}),
            lr=recipe.learning_rate,
            betas=recipe.betas,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self._muon = Muon([view for _, view in self._matrices], recipe.weight_decay)
        self.rate = 0.0
        """The learning rate of the next step, before the factors of groups."""

    @property
    def parameters(self) -> list[Tensor]:
        """All weights that are updated, including `others`."""
        weights = [p for group in self._adamw.param_groups for p in group["params"]]
        return weights + [weight for weight, _ in self._matrices]

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the steps that follow."""
        self.rate = rate
        for group in self._adamw.param_groups:
            group["lr"] = rate * group["rate_scale"]
        self._muon.rate = rate

    def zero_grad(self) -> None:
        """Drop the gradients of all weights."""
        for weight in self.parameters:
            weight.grad = None

    def step(self) -> None:
        """Update all weights that have a gradient."""
        self._adamw.step()
        self._muon.step([None if weight.grad is None else _as_matrix(weight.grad) for weight, _ in self._matrices])

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both optimizers."""
        return {"adamw": self._adamw.state_dict(), "muon": self._muon.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned; the settings stay those of the recipe.

        Raises:
            KeyError, ValueError: The state belongs to other weights.
        """
        chosen = [{name: group[name] for name in ("weight_decay", "betas")} for group in self._adamw.param_groups]
        self._adamw.load_state_dict(state["adamw"])
        for group, settings in zip(self._adamw.param_groups, chosen, strict=True):
            group.update(settings)
        self._muon.load_state_dict(state["muon"])


def _hidden_layers(module: nn.Module) -> list[FrameConv | nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, FrameConv | nn.Linear)]


def _as_matrix(weight: Tensor) -> Tensor:
    """Return a weight as a matrix: a convolution's `out in k k` as `out (k·k·in)`, and a linear layer's as it is.

    The matrix shares the weight's memory if that is channels-last.
    """
    return weight if weight.ndim == 2 else weight.permute(0, 2, 3, 1).flatten(1)


def _matrix_view(weight: Tensor) -> Tensor:
    """Return a weight as a matrix that shares its memory."""
    view = _as_matrix(weight.detach())
    if view.data_ptr() != weight.data_ptr():
        raise ValueError("Muon steps views of channels-last weights")
    return view


def _adamw_groups(
    model: nn.Module, linear: Sequence[FrameConv], others: Iterable[nn.Parameter], stepped: set[int]
) -> list[dict[str, Any]]:
    """Return the parameter groups of AdamW, each with the factor `rate_scale` for its learning rate.

    Args:
        model: The model.
        linear: The linear paths of the model.
        others: Further parameters to train.
        stepped: The ids of the parameters that Muon updates.
    """
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
