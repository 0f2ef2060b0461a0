"""Turns a trained prior into the integer tensors of its file."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vtok_codec.tokens.prior.layers import Tensors
from vtok_codec.tokens.prior.network import NetworkConfig
from vtok_codec.tokens.prior.prior import ErrorWeights, dump_prior
from vtok_codec.training.prior.network import PriorModel, TrainedNetwork, shift_of


def export_prior(model: PriorModel, metadata: Mapping[str, str], errors: ErrorWeights | None = None) -> bytes:
    """Serialize a trained prior.

    Args:
        model: The prior.
        metadata: Further entries of the metadata.
        errors: See `vtok_codec.tokens.prior.prior.Prior.errors`.

    Returns:
        The bytes of a safetensors file that `vtok_codec.tokens.prior.prior.parse_prior` reads.
    """
    here = copy.deepcopy(model).cpu()
    networks: dict[str, tuple[NetworkConfig, Tensors]] = {
        name: (network.config, _integer_tensors(network))
        for name, network in (("first", here.first), ("later", here.later))
    }
    return dump_prior(model.levels, model.tokens, networks, metadata, errors)


@torch.no_grad()
def _integer_tensors(network: TrainedNetwork) -> dict[str, NDArray[np.generic]]:
    """Return the tensors of a network as `docs/reference/format.md` lists them."""
    tensors: dict[str, NDArray[np.generic]] = {}

    def put(name: str, weight: Tensor, bias: Tensor, axes: tuple[int, ...], inputs: int, lead: int = 1) -> None:
        """Add a layer: weights whose first `lead` axes are the outputs, written with `axes` and `inputs` rows."""
        shift = shift_of(weight.abs().flatten(lead).amax(lead))
        tensors[f"{name}.shift"] = shift.numpy().astype(np.uint8)
        tensors[f"{name}.bias"] = _whole(bias, shift, np.int32)
        whole = _whole(weight, shift, np.int8, lead).transpose(axes)
        tensors[f"{name}.weight"] = whole.reshape(*whole.shape[: lead - 1], inputs, -1)

    config = network.config
    if config.slots:
        channels = config.channels
        bias = network.bias(network.trunk_in_bias)
        put("trunk.in", network.trunk_in, bias, (4, 5, 1, 2, 3, 0), network.trunk_in[0].numel())
        for number, (weight, stored) in enumerate(zip(network.trunk, network.trunk_bias, strict=True)):
            put(f"trunk.{number // 2}.{number % 2}", weight, network.bias(stored), (2, 3, 1, 0), 9 * channels)
    put("hidden", network.hidden, network.bias(network.hidden_bias), (0, 2, 1), config.features, lead=2)
    put("logits", network.logits, network.bias(network.logits_bias), (0, 2, 1), config.features, lead=2)
    return tensors | _head(network)


def _head(network: TrainedNetwork) -> dict[str, NDArray[np.generic]]:
    """Return the tensors of the head, which share their shifts."""
    config, planes, features = network.config, network.planes, network.config.features
    weights = network.head_weights()
    shift = shift_of(torch.stack([weight.abs().flatten(2).amax(2) for weight in weights.values()]).amax(0))
    whole = {name: _whole(weight, shift, np.int8, 2) for name, weight in weights.items()}
    own = whole["own"].reshape(planes, features, config.steps - 1, -1).transpose(2, 0, 3, 1)
    tensors: dict[str, NDArray[np.generic]] = {
        "head.shift": shift.numpy().astype(np.uint8),
        "head.bias": _whole(network.bias(network.head_bias), shift, np.int32),
        "head.own": own,
    }
    for plane in range(planes - 1):
        window = whole["planes"][plane + 1 :, :, plane].transpose(3, 4, 2, 0, 1)
        tensors[f"head.plane.{plane}"] = window.reshape(-1, planes - 1 - plane, features)
    if config.slots:
        tensors["head.trunk"] = whole["trunk"].transpose(0, 2, 1)
        tensors["head.before"] = whole["before"].transpose(0, 2, 1)
        values = whole["values"].reshape(planes, features, -1, network.table.shape[1])
        tensors["head.values"] = values.transpose(2, 0, 3, 1)
    return tensors


def _whole(values: Tensor, shift: Tensor, kind: type[np.generic], lead: int = 0) -> NDArray[np.generic]:
    """Return values in units of 2⁻ˢ; shifts s belong to the first `lead` axes, or to the last axes if `lead` is 0."""
    scale = torch.exp2(shift.double())
    if lead:
        scale = scale.view(*shift.shape, *[1] * (values.dim() - lead))
    return torch.round(values.double() * scale).numpy().astype(kind)
