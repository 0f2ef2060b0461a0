"""Turns the integer tensors of a prior's file back into a prior that can be trained; the inverse of `export`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vtok_codec.tokens.prior.layers import Tensors
from vtok_codec.tokens.prior.prior import prior_parts
from vtok_codec.training.prior.network import PriorModel, TrainedNetwork

_KERNEL = 3


def restored_prior(data: bytes) -> PriorModel:
    """Return the prior that a file holds, ready to be trained on. It predicts exactly what the file does.

    Args:
        data: The bytes of a file that `vtok_codec.tokens.prior.prior.parse_prior` accepts.

    Raises:
        ValueError: The bytes are not a prior that this version can use.
    """
    parts = prior_parts(data)
    (first, first_tensors), (later, later_tensors) = parts.networks
    model = PriorModel(first, later, parts.levels, parts.tokens)
    for network, tensors in ((model.first, first_tensors), (model.later, later_tensors)):
        if network.config.slots:
            _restore_trunk(network, tensors)
        _restore_head(network, tensors)
    return model


def _restore_trunk(network: TrainedNetwork, tensors: Tensors) -> None:
    """Restore the layers that read the latent frames before, except those of the head."""
    config, read = network.config, _Reader(tensors)
    unit = read.unit("trunk.in")
    window = (_KERNEL, _KERNEL, config.slots, network.planes, config.inputs, config.channels)
    _put(network.trunk_in, (read("trunk.in.weight") * unit).view(window).permute(5, 2, 3, 4, 0, 1))
    _put_bias(network.trunk_in_bias, read("trunk.in.bias") * unit)
    for number, (weight, bias) in enumerate(zip(network.trunk, network.trunk_bias, strict=True)):
        layer = f"trunk.{number // 2}.{number % 2}"
        unit = read.unit(layer)
        square = (_KERNEL, _KERNEL, config.channels, config.channels)
        _put(weight, (read(f"{layer}.weight") * unit).view(square).permute(3, 2, 0, 1))
        _put_bias(bias, read(f"{layer}.bias") * unit)


def _restore_head(network: TrainedNetwork, tensors: Tensors) -> None:
    """Restore the layers that each plane has of its own."""
    config, planes, read = network.config, network.planes, _Reader(tensors)
    unit = read.unit("head")
    _put_bias(network.head_bias, read("head.bias") * unit)
    _put(network.own, (read("head.own") * unit[:, None]).permute(1, 3, 0, 2))
    if config.slots:
        _put(network.from_trunk, (read("head.trunk") * unit[:, None]).mT)
        _put(network.from_before, (read("head.before") * unit[:, None]).mT)
        _put(network.from_values, (read("head.values") * unit[:, None]).permute(1, 3, 0, 2))
    window = (config.reach, config.reach, config.inputs)
    kernels = torch.zeros(planes, config.features, planes, config.inputs, config.reach, config.reach)
    for plane in range(planes - 1):
        later = read(f"head.plane.{plane}") * unit[plane + 1 :]
        kernels[plane + 1 :, :, plane] = later.view(*window, -1, config.features).permute(3, 4, 2, 0, 1)
    _put(network.from_planes, kernels)
    for layer, weight, bias in (
        ("hidden", network.hidden, network.hidden_bias),
        ("logits", network.logits, network.logits_bias),
    ):
        unit = read.unit(layer)
        _put(weight, (read(f"{layer}.weight") * unit[:, None]).mT)
        _put_bias(bias, read(f"{layer}.bias") * unit)


class _Reader:
    """Reads integer tensors by name."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors

    def __call__(self, name: str) -> Tensor:
        """Return a tensor in fp32, which holds its whole numbers exactly."""
        return torch.from_numpy(self._tensors[name]).float()

    def unit(self, layer: str) -> Tensor:
        """Return the unit 2⁻ˢ in which the weights and the bias of each output of a layer are stored."""
        return torch.exp2(-self(f"{layer}.shift"))


@torch.no_grad()
def _put(parameter: nn.Parameter, value: Tensor) -> None:
    parameter.copy_(value.reshape(parameter.shape))


def _put_bias(parameter: nn.Parameter, value: Tensor) -> None:
    _put(parameter, value / TrainedNetwork.bias(torch.ones(())))
