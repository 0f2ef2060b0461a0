"""The networks of a prior as they are trained: in floating point, with weights and activations rounded as in files.

`vtok_codec.tokens.prior.network` runs the same networks in whole numbers. Rounding has no gradient, so the gradient
passes through it unchanged (the straight-through estimator).

Digits may carry a gradient, so that an encoder can learn to choose cheap ones. They are whole numbers then too. The
gradient with respect to a digit is the slope between the results for its next smaller and next larger value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtok_codec.tokens.prior.layers import LARGEST
from vtok_codec.tokens.prior.network import MAX_LEVELS, NEIGHBOURS, NetworkConfig, input_table

ABSENT = 255
"""Stands for a digit outside the picture or of a latent frame that is missing."""
MAX_SHIFT = 14
"""The largest shift that is chosen for an output."""
LOGITS_PER_NAT = 16
"""By how much a logit grows for each nat."""
_BIAS_STEP = 32.0
"""The unit in which biases are stored, so that they learn about as fast as weights."""
_KERNEL = 3
_VALUE_SLOTS = 2


def shift_of(largest: Tensor) -> Tensor:
    """Return the shift of each output from the largest magnitude of its weights, so that they fill int8."""
    return torch.floor(torch.log2(LARGEST / largest.clamp_min(1e-4))).clamp(0, MAX_SHIFT)


def rounded(values: Tensor, shift: Tensor) -> Tensor:
    """Round values to multiples of 2⁻ˢ; the shifts s belong to the first axes. The gradient passes through."""
    scale = torch.exp2(shift).view(*shift.shape, *[1] * (values.dim() - shift.dim()))
    return values + (torch.round(values * scale) / scale - values).detach()


class _RoundedClip(torch.autograd.Function):
    """Rounds to whole numbers and clips to 0…127. The gradient passes where nothing is clipped."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        return torch.floor(values + 0.5).clamp_(0, LARGEST)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (values,) = ctx.saved_tensors
        return gradients[0] * ((values >= 0) & (values <= LARGEST))


def activation(values: Tensor) -> Tensor:
    """Round to whole numbers and clip to 0…127."""
    return _RoundedClip.apply(values)


def _normal(*shape: int, scale: float) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * scale)


class TrainedNetwork(nn.Module):
    """A network that predicts the digits of one latent frame; see `vtok_codec.tokens.prior.network.Network`."""

    def __init__(self, config: NetworkConfig, levels: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        planes, features, channels, inputs = len(levels), config.features, config.channels, config.inputs
        self.planes = planes
        self.table: Tensor
        self.register_buffer("table", torch.from_numpy(input_table(levels)), persistent=False)
        value = torch.arange(MAX_LEVELS)
        self.highest: Tensor
        """The largest value of the digits of each plane, int64 `P`."""
        self.register_buffer("highest", torch.tensor(levels) - 1, persistent=False)
        highest = self.highest[:, None]
        self.above: Tensor
        """The next larger value of each digit, if there is one, int64 `P MAX_LEVELS`."""
        self.register_buffer("above", torch.minimum(value + 1, highest), persistent=False)
        self.below: Tensor
        """The next smaller value of each digit, if there is one, int64 `MAX_LEVELS`."""
        self.register_buffer("below", (value - 1).clamp(min=0), persistent=False)
        fan = config.slots * planes / 2 * inputs * _KERNEL**2
        if config.slots:
            self.trunk_in = _normal(channels, config.slots, planes, inputs, _KERNEL, _KERNEL, scale=(1 / fan) ** 0.5)
            self.trunk_in_bias = nn.Parameter(torch.zeros(config.places, channels))
            deep = (2 / (channels * _KERNEL**2)) ** 0.5
            self.trunk = nn.ParameterList(
                _normal(channels, channels, _KERNEL, _KERNEL, scale=deep / (1 + half))
                for _ in range(config.blocks)
                for half in range(2)
            )
            self.trunk_bias = nn.ParameterList(nn.Parameter(torch.zeros(channels)) for _ in self.trunk)
            self.from_trunk = _normal(planes, features, channels, scale=(1 / channels) ** 0.5)
            self.from_before = _normal(planes, features, _KERNEL**2 * inputs, scale=0.1)
            self.from_values = _normal(planes, features, min(config.slots, _VALUE_SLOTS) * MAX_LEVELS, scale=0.05)
        window = inputs * config.reach**2
        self.from_planes = _normal(
            planes, features, planes, inputs, config.reach, config.reach, scale=(2 / (window * planes)) ** 0.5
        )
        self.own = _normal(planes, features, (config.steps - 1) * 4 * inputs, scale=0.2)
        self.head_bias = nn.Parameter(torch.zeros(config.steps, planes, features))
        self.hidden = _normal(planes, features, features, scale=(2 / features) ** 0.5)
        self.hidden_bias = nn.Parameter(torch.zeros(planes, features))
        self.logits = _normal(planes, MAX_LEVELS, features, scale=0.1)
        self.logits_bias = nn.Parameter(torch.zeros(planes, MAX_LEVELS))
        order = torch.arange(planes)
        self.earlier: Tensor
        self.register_buffer("earlier", (order[:, None] > order).float(), persistent=False)
        self.missing: Tensor
        self.register_buffer("missing", value > highest, persistent=False)

    def head_weights(self) -> dict[str, Tensor]:
        """Return the weights of the head by name, before rounding, each `P F` and further axes.

        Those from planes that are not earlier are 0.
        """
        weights = {"planes": self.from_planes * self.earlier[:, None, :, None, None, None], "own": self.own}
        if self.config.slots:
            weights |= {"trunk": self.from_trunk, "before": self.from_before, "values": self.from_values}
        return weights

    @staticmethod
    def bias(stored: Tensor) -> Tensor:
        """Return biases in the unit of activations."""
        return _BIAS_STEP * stored

    def forward(self, past: Tensor, digits: Tensor, place: Tensor) -> Tensor:
        """Predict the digits of latent frames.

        Args:
            past: The latent frames before each, `B S P h w`, the last one first; `ABSENT` where there is none. Their
                first row and column are even ones of the picture. They are uint8, or whole numbers of another type,
                which may carry a gradient.
            digits: The latent frames, `B P h w`, as `past`. P may be smaller than the planes of the network.
            place: The place of each in its GOP, int64 `B`.

        Returns:
            The logits of the digits in sixteenths of a nat, whole numbers `P B h w MAX_LEVELS`, in fp32.
        """
        config, (batch, planes, height, width) = self.config, digits.shape
        before = past[:, 0] if config.slots else None
        inputs = self._inputs(digits, before, compared=config.slots > 0)
        weights, head_bias = self._rounded_head(planes)
        flat = inputs.flatten(1, 2).contiguous(memory_format=torch.channels_last)
        kernel = weights["planes"].flatten(2, 3).flatten(0, 1)
        sums = F.conv2d(flat, kernel, padding=config.reach // 2)
        if config.slots:
            sums = sums + F.conv2d(self._trunk(past, place), weights["trunk"].flatten(0, 1)[:, :, None, None])
        sums = sums.permute(0, 2, 3, 1).reshape(-1, planes, config.features)
        steps = F.one_hot(self._steps(height, width), config.steps).to(sums.dtype).expand(batch, -1, -1, -1)
        sums = sums + (steps.reshape(-1, config.steps) @ head_bias.flatten(1)).view(-1, planes, config.features)
        local, local_weights = self._local(inputs, past, weights, height, width)
        sums = sums.transpose(0, 1) + torch.bmm(local, local_weights.mT)
        hidden = activation(self._layer(activation(sums), self.hidden, self.hidden_bias, planes))
        logits = self._layer(hidden, self.logits, self.logits_bias, planes).float()
        logits = logits + (torch.floor(logits + 0.5) - logits).detach()
        return logits.view(planes, batch, height, width, MAX_LEVELS)

    def bits(self, past: Tensor, digits: Tensor, place: Tensor) -> Tensor:
        """Return the cost of each digit in bits, `B P h w`; see `forward`. That of absent digits is finite, no more."""
        logits = self(past, digits, place) / LOGITS_PER_NAT
        logits = logits.masked_fill(self.missing[: digits.shape[1], None, None, None], -math.inf)
        costs = logits.log_softmax(-1) / -math.log(2)
        indices = self._indices(digits).transpose(0, 1)
        chosen = costs.gather(-1, indices[..., None])[..., 0]
        if digits.requires_grad:
            above, below = self._neighbours(indices)
            step = costs.gather(-1, above[..., None]) - costs.gather(-1, below[..., None])
            chosen = chosen + _moved(digits).transpose(0, 1) * (step[..., 0] / (above - below)).detach()
        return chosen.transpose(0, 1)

    def _indices(self, digits: Tensor) -> Tensor:
        """Return digits `B P h w` as indices of values, int64. Absent digits get that of the largest possible value."""
        return torch.minimum(digits.detach().long(), self.highest[: digits.shape[1], None, None])

    def _neighbours(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next larger and the next smaller value of digits with indices `P …`, int64."""
        above = self.above[: len(indices)].gather(1, indices.flatten(1)).view_as(indices)
        return above, self.below[indices]

    def _rounded_head(self, planes: int) -> tuple[dict[str, Tensor], Tensor]:
        """Return the rounded weights of the head for the first planes, and its biases, `steps P F`."""
        weights = {name: weight[:planes] for name, weight in self.head_weights().items()}
        weights["planes"] = weights["planes"][:, :, :planes]
        with torch.no_grad():
            shift = shift_of(torch.stack([weight.abs().flatten(2).amax(2) for weight in weights.values()]).amax(0))
        bias = torch.stack([rounded(self.bias(each[:planes]), shift) for each in self.head_bias])
        return {name: rounded(weight, shift) for name, weight in weights.items()}, bias

    def _layer(self, values: Tensor, weight: Tensor, bias: Tensor, planes: int) -> Tensor:
        """Apply a layer of each plane to values `P n F`."""
        weight, bias = weight[:planes], self.bias(bias[:planes])
        with torch.no_grad():
            shift = shift_of(weight.abs().amax(2))
        return torch.baddbmm(rounded(bias, shift)[:, None], values.to(weight.dtype), rounded(weight, shift).mT)

    def _trunk(self, past: Tensor, place: Tensor) -> Tensor:
        """Return the activations of the trunk, `B C h w`."""
        slots, planes = self.config.slots, past.shape[2]
        following = [past[:, slot + 1] if slot + 1 < slots else None for slot in range(slots)]
        inputs = [self._inputs(past[:, slot], following[slot], slot + 1 < slots) for slot in range(slots)]
        flat = torch.stack(inputs, 1).flatten(1, 3).contiguous(memory_format=torch.channels_last)
        kernel = self.trunk_in[:, :, :planes].flatten(1, 3)
        with torch.no_grad():
            # As in files, the unit of a channel follows from its weights for all planes.
            shift = shift_of(self.trunk_in.abs().flatten(1).amax(1))
        bias = rounded(self.bias(self.trunk_in_bias).T, shift).T[place]
        state = activation(F.conv2d(flat, rounded(kernel, shift), padding=1) + bias[:, :, None, None])
        for block in range(self.config.blocks):
            hidden = activation(self._convolution(state, 2 * block))
            state = activation(state + self._convolution(hidden, 2 * block + 1))
        return state

    def _convolution(self, values: Tensor, number: int) -> Tensor:
        weight, bias = self.trunk[number], self.bias(self.trunk_bias[number])
        with torch.no_grad():
            shift = shift_of(weight.abs().flatten(1).amax(1))
        return F.conv2d(values, rounded(weight, shift), rounded(bias, shift), padding=1)

    def _inputs(self, digits: Tensor, before: Tensor | None, compared: bool) -> Tensor:
        """Return the inputs of digits `B P h w` as `B P I h w`; they are 0 for absent digits."""
        planes = torch.arange(digits.shape[1], device=digits.device)[:, None, None]
        present = digits != ABSENT
        made = self._looked_up(self.table, digits, planes)
        if compared and before is not None:
            made = torch.cat([made[..., :2], LARGEST * _changed(digits, before)[..., None]], -1)
        made = made * present[..., None]
        return made[..., : self.config.inputs].movedim(-1, 2)

    def _looked_up(self, table: Tensor, digits: Tensor, planes: Tensor) -> Tensor:
        """Return the entries of a table `P MAX_LEVELS K` for digits `B P h w`, as `B P h w K`."""
        indices = self._indices(digits)
        found = table[planes, indices]
        if not digits.requires_grad:
            return found
        above, below = (side.transpose(0, 1) for side in self._neighbours(indices.transpose(0, 1)))
        slope = (table[planes, above] - table[planes, below]) / (above - below)[..., None]
        return found + _moved(digits)[..., None] * slope

    def _steps(self, height: int, width: int) -> Tensor:
        """Return the step of each position, int64 `h w`."""
        row = torch.arange(height, device=self.table.device)[:, None]
        column = torch.arange(width, device=self.table.device)
        steps = (row + column) % 2 * (self.config.steps - 1)
        return steps + (row % 2) * (column % 2) if self.config.steps > 2 else steps

    def _local(
        self, inputs: Tensor, past: Tensor, weights: dict[str, Tensor], height: int, width: int
    ) -> tuple[Tensor, Tensor]:
        """Return what each plane reads of itself, `P n K`, and the weights for it, `P F K`."""
        steps, planes = self._steps(height, width), inputs.shape[1]
        parts = []
        for step, offsets in enumerate(NEIGHBOURS[self.config.steps], 1):
            taps = torch.stack([_shifted(inputs, *offset) for offset in offsets], 2)
            parts.append(_per_plane(taps * (steps == step)))
        kernels = [weights["own"]]
        if self.config.slots:
            following = past[:, 1] if self.config.slots > 1 else None
            before = self._inputs(past[:, 0], following, following is not None)
            window = torch.stack([_shifted(before, dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)], 2)
            parts.append(_per_plane(window))
            hot = torch.stack([self._one_hot(frame) for frame in past[:, :_VALUE_SLOTS].unbind(1)], 1)
            parts.append(hot.permute(2, 0, 3, 4, 1, 5).reshape(planes, -1, hot.shape[1] * MAX_LEVELS))
            kernels += [weights["before"], weights["values"]]
        return torch.cat(parts, 2), torch.cat(kernels, 2)

    def _one_hot(self, digits: Tensor) -> Tensor:
        """Return `LARGEST` at the value of each digit `B P h w`, as `B P h w MAX_LEVELS`; all 0 for absent ones."""
        table = LARGEST * torch.eye(MAX_LEVELS, device=digits.device).expand(digits.shape[1], -1, -1)
        planes = torch.arange(digits.shape[1], device=digits.device)[:, None, None]
        return self._looked_up(table, digits, planes) * (digits != ABSENT)[..., None]


def _moved(digits: Tensor) -> Tensor:
    """Return zeros with the gradient of digits."""
    return digits - digits.detach()


def _changed(digits: Tensor, before: Tensor) -> Tensor:
    """Return 1 where digits differ from those before, else 0."""
    changed = (digits != before).float()
    if not (digits.requires_grad or before.requires_grad):
        return changed
    apart = (digits.float() - before.float()).detach()
    return changed + torch.where(apart.abs() == 1, apart / 2, 0) * (_moved(digits) - _moved(before))


def _per_plane(taps: Tensor) -> Tensor:
    """Turn taps `B P k I h w` into rows for each plane, `P B·h·w k·I`."""
    return taps.permute(1, 0, 4, 5, 2, 3).flatten(4).flatten(1, 3)


def _shifted(values: Tensor, down: int, right: int) -> Tensor:
    """Return values `… h w` at the positions `down` rows below and `right` columns to the right, 0 outside."""
    height, width = values.shape[-2:]
    padded = F.pad(values, (1, 1, 1, 1))
    return padded[..., 1 + down : 1 + down + height, 1 + right : 1 + right + width]


class PriorModel(nn.Module):
    """The two networks of a prior."""

    def __init__(self, first: NetworkConfig, later: NetworkConfig, levels: Sequence[int], tokens: int) -> None:
        super().__init__()
        self.levels, self.tokens = tuple(levels), tokens
        self.first = TrainedNetwork(first, self.levels * tokens)
        self.later = TrainedNetwork(later, self.levels * tokens)
