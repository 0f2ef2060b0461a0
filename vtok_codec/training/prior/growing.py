"""Makes the networks of a prior larger without changing what they predict, so that training goes on from there.

New units start from random weights, and nothing that was there before reads them at first; the last layer of a new
block starts from 0. The idea is that of Net2Net (Chen, Goodfellow and Shlens, arXiv:1511.05641).
"""

from __future__ import annotations

from dataclasses import replace

import torch

from vtok_codec.tokens.prior.network import NetworkConfig
from vtok_codec.training.prior.network import PriorModel, TrainedNetwork


def can_grow(old: NetworkConfig, new: NetworkConfig) -> bool:
    """Return whether a network has the shape of another one with more channels, blocks or features."""
    larger = new.channels >= old.channels and new.blocks >= old.blocks and new.features >= old.features
    return larger and replace(new, channels=old.channels, blocks=old.blocks, features=old.features) == old


def grown(model: PriorModel, first: NetworkConfig, later: NetworkConfig) -> PriorModel:
    """Return a prior with larger networks that predicts exactly what the given one does.

    Args:
        model: The prior.
        first: The shape of the new network `first`; see `can_grow`.
        later: The shape of the new network `later`.
    """
    made = PriorModel(first, later, model.levels, model.tokens)
    with torch.no_grad():
        for old, new in ((model.first, made.first), (model.later, made.later)):
            if old.config.slots:
                _grow_trunk(old, new)
            _grow_head(old, new)
    return made


def _grow_trunk(old: TrainedNetwork, new: TrainedNetwork) -> None:
    """Copy the trunk into the larger one."""
    channels, features = old.config.channels, old.config.features
    new.trunk_in[:channels] = old.trunk_in
    new.trunk_in_bias[:, :channels] = old.trunk_in_bias
    for number, (weight, bias) in enumerate(zip(new.trunk, new.trunk_bias, strict=True)):
        if number < len(old.trunk):
            weight[:channels, channels:] = 0
            weight[:channels, :channels] = old.trunk[number]
            bias[:channels] = old.trunk_bias[number]
        elif number % 2:
            # A new block adds nothing at first.
            weight.zero_()
    new.from_trunk[:, :features, channels:] = 0
    new.from_trunk[:, :features, :channels] = old.from_trunk
    new.from_before[:, :features] = old.from_before
    new.from_values[:, :features] = old.from_values


def _grow_head(old: TrainedNetwork, new: TrainedNetwork) -> None:
    """Copy the layers of each plane into the larger ones."""
    features = old.config.features
    new.from_planes[:, :features] = old.from_planes
    new.own[:, :features] = old.own
    new.head_bias[:, :, :features] = old.head_bias
    new.hidden[:, :features, features:] = 0
    new.hidden[:, :features, :features] = old.hidden
    new.hidden_bias[:, :features] = old.hidden_bias
    new.logits[:, :, features:] = 0
    new.logits[:, :, :features] = old.logits
    new.logits_bias.copy_(old.logits_bias)
