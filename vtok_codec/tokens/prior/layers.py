"""The layers of an integer network, and how they are read from the tensors of a file.

Every sum stays below 2²⁴, so that float32 holds it exactly (`vtok_codec.tokens.prior.network`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

LARGEST = 127
"""The largest activation, and the largest magnitude of a weight."""
EXACT = 1 << 24
"""Every sum is below this in magnitude."""
_MAX_SHIFT = 20

Tensors: TypeAlias = Mapping[str, NDArray[np.generic]]
"""The tensors of a network by name."""
Whole: TypeAlias = NDArray[np.float32]
"""Whole numbers below `EXACT` in magnitude."""


@dataclass(frozen=True)
class Layer:
    """A linear layer. Its sums are multiplied by `scale`, which is a power of two for each output, and rounded."""

    weight: Whole
    """Weights; the last axis but one is the input, the last axis the output."""
    bias: Whole
    """Biases plus half a unit of the result, so that rounding down afterwards rounds to the nearest."""
    scale: NDArray[np.float32]
    """The factor of each output."""

    def __call__(self, inputs: Whole) -> Whole:
        """Return the rounded outputs."""
        return self.finished(inputs @ self.weight)

    def finished(self, sums: Whole) -> Whole:
        """Add the biases to products, scale and round them in place, and return them."""
        sums += self.bias
        return self.scaled(sums)

    def scaled(self, sums: Whole) -> Whole:
        """Scale sums in place, round them, and return them."""
        sums *= self.scale
        return np.floor(sums, out=sums)

    def first(self, outputs: int) -> Layer:
        """Return the layer without all but its first outputs."""
        return Layer(np.ascontiguousarray(self.weight[:, :outputs]), self.bias[:outputs], self.scale[:outputs])

    def worst(self) -> float:
        """Return a limit of the magnitude of all sums and partial sums."""
        return float((LARGEST * np.abs(self.weight).sum(-2) + np.abs(self.bias)).max())


class LayerSource:
    """Checked access to the tensors of a network.

    All methods raise `ValueError` for a tensor that is missing, of another shape or type, or out of range.
    """

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors

    def weight(self, name: str, shape: tuple[int, ...]) -> Whole:
        """Return weights, stored as int8."""
        values = self._get(name, np.int8, shape)
        if (values < -LARGEST).any():
            raise ValueError(f"a weight of {name} is below {-LARGEST}")
        return values

    def bias(self, name: str, shape: tuple[int, ...]) -> Whole:
        """Return biases, stored as int32."""
        values = self._get(name, np.int32, shape)
        if (np.abs(values) >= EXACT).any():
            raise ValueError(f"a bias of {name} is out of range")
        return values

    def scale(self, name: str, shape: tuple[int, ...]) -> tuple[NDArray[np.float32], Whole]:
        """Return 2⁻ˢ and half of 2ˢ for shifts s, stored as uint8."""
        shift = self._get(name, np.uint8, shape)
        if (shift > _MAX_SHIFT).any():
            raise ValueError(f"a shift of {name} is above {_MAX_SHIFT}")
        exponent = shift.astype(np.int32)
        return np.ldexp(np.float32(1), -exponent), np.floor(np.ldexp(np.float32(1), exponent - 1))

    def layer(self, name: str, inputs: int, outputs: int, places: tuple[int, ...] = ()) -> Layer:
        """Return a layer; with `places`, it has biases for each of several places."""
        scale, half = self.scale(f"{name}.shift", (outputs,))
        bias = self.bias(f"{name}.bias", (*places, outputs)) + half
        return Layer(self.weight(f"{name}.weight", (inputs, outputs)), bias, scale)

    def layers(self, name: str, planes: int, inputs: int, outputs: int) -> list[Layer]:
        """Return one layer per plane."""
        scale, half = self.scale(f"{name}.shift", (planes, outputs))
        bias = self.bias(f"{name}.bias", (planes, outputs)) + half
        weight = self.weight(f"{name}.weight", (planes, inputs, outputs))
        return [Layer(weight[plane], bias[plane], scale[plane]) for plane in range(planes)]

    def _get(self, name: str, kind: type[np.generic], shape: tuple[int, ...]) -> NDArray[np.float32]:
        values = self._tensors.get(name)
        if values is None or values.dtype != kind or values.shape != shape:
            raise ValueError(f"tensor {name} is missing, or is not {kind.__name__} {shape}")
        return values.astype(np.float32)
