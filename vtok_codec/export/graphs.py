"""The parts of a codec as functions of plain tensors: digits or pixels in, pixels or digits out, state in and out.

Each call codes one time step of the latent grid: the first frame of a GOP, or the frames of one later latent frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from vtok_codec.models.causal import State
from vtok_codec.models.onevae import RGB, OneVAE
from vtok_codec.models.onnx_parts import CodecPart, StateShape

_GRID = (3, 5)
"""The rows and columns of the latent grid of example inputs."""


@dataclass(frozen=True)
class Graph:
    """A part of a codec, ready to be exported."""

    module: nn.Module
    """The part, as a module whose inputs and outputs are all tensors."""
    inputs: tuple[Any, ...]
    """Example inputs: tensors, and a tuple of those of the state."""
    input_names: tuple[str, ...]
    """The names of the inputs."""
    output_names: tuple[str, ...]
    """The names of the outputs."""
    dynamic: tuple[Any, ...]
    """The dimensions of each input that may vary, in the form of `torch.export`."""
    states: tuple[StateShape, ...]
    """The shapes of the state."""


class _Decoder(nn.Module):
    """A codec's decoder: digits and state in, pixels and state out."""

    def __init__(self, model: OneVAE, spec: pytree.TreeSpec | None) -> None:
        super().__init__()
        self.decoder, self.fsq = model.decoder, model.fsq
        self._spec = spec

    def forward(self, digits: Tensor, tokens: Tensor, states: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
        """Decode `digits`, uint8 `1 C t h w`, of which the first `tokens` (int64 `1`) per position count."""
        state: State = pytree.tree_unflatten(list(states), self._spec) if self._spec else None
        video, after = self.decoder(self.fsq.codes(digits), state, tokens)
        pixels = video[0].permute(1, 2, 3, 0).add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        return pixels, *pytree.tree_leaves(after)


class _Encoder(nn.Module):
    """A codec's encoder: pixels and state in, digits and state out."""

    def __init__(self, model: OneVAE, spec: pytree.TreeSpec | None) -> None:
        super().__init__()
        self.encoder, self.fsq = model.encoder, model.fsq
        self._spec = spec

    def forward(self, pixels: Tensor, states: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
        """Encode `pixels`, uint8 `T H W 3`."""
        state: State = pytree.tree_unflatten(list(states), self._spec) if self._spec else None
        video = pixels.permute(3, 0, 1, 2)[None].float().div(127.5).sub(1)
        latents, after = self.encoder(video, state)
        return self.fsq.digits(latents), *pytree.tree_leaves(after)


def graph_of(model: OneVAE, part: CodecPart) -> Graph:
    """Make a part of a codec ready to be exported.

    Args:
        model: The codec.
        part: Which part.

    Returns:
        The part. Parts with a state begin a GOP from a state of zeros, unless there is a part for its first frame.
    """
    rows, columns = _GRID
    phases, (frames, height, width) = model.config.layout.phases, model.config.stride
    h, w = torch.export.Dim("h", min=1, max=4096), torch.export.Dim("w", min=1, max=4096)
    inputs: list[Any] = []
    dynamic: list[Any] = []
    if part.decodes:
        latents = phases if part.is_first else 1
        inputs = [torch.zeros(1, model.config.latent_channels, latents, rows, columns, dtype=torch.uint8)]
        inputs.append(torch.tensor([1]))
        dynamic = [{3: h, 4: w}, {}]
    else:
        inputs = [torch.zeros(frames, rows * height, columns * width, RGB, dtype=torch.uint8)]
        dynamic = [{1: height * h, 2: width * w}]
    leaves, spec = pytree.tree_flatten(_state_after_first(model, part.decodes))
    shapes = tuple(map(_shape, leaves))
    numbers = range(len(leaves))
    names = ["digits", "tokens"] if part.decodes else ["pixels"]
    if not part.is_first:
        inputs.append(tuple(leaves))
        dynamic.append(tuple({3: shape.rows * h, 4: shape.columns * w} for shape in shapes))
        names += [f"state_{number}" for number in numbers]
    kind = _Decoder if part.decodes else _Encoder
    outputs = ["pixels" if part.decodes else "digits", *(f"next_{number}" for number in numbers)]
    module = kind(model, None if part.is_first else spec).eval()
    return Graph(module, tuple(inputs), tuple(names), tuple(outputs), tuple(dynamic), shapes)


@torch.no_grad()
def _state_after_first(model: OneVAE, decodes: bool) -> State:
    """Return the state of the decoder or the encoder after the first frame of a GOP, with the grid of the examples."""
    rows, columns = _GRID
    phases, (frames, height, width) = model.config.layout.phases, model.config.stride
    if decodes:
        codes = torch.zeros(1, model.config.latent_channels, phases, rows, columns)
        state: State = model.decoder(codes, None, torch.tensor([1]))[1]
    else:
        state = model.encoder(torch.zeros(1, RGB, frames, rows * height, columns * width), None)[1]
    return state


def _shape(leaf: Tensor) -> StateShape:
    _, channels, frames, height, width = leaf.shape
    return StateShape(channels, frames, height // _GRID[0], width // _GRID[1])
