"""Refines the digits of a chunk by gradient steps through the decoder, for smaller files at the same quality.

An encoder network rounds every latent by itself. The decoder, however, makes each pixel from several digits, so a digit
can make up for the rounding errors of its neighbours. Each step decodes the chunk, moves the values of all digits
against the gradient of the distortion (`vtok_codec.codec.distortion`), and chooses the digits anew by rate and error.
The idea is that of Yang et al., "Improving Inference for Neural Image Compression" (arXiv:2006.04240), with the
quantizer and the entropy coder of the file itself in the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from vtok_codec.codec.distortion import Distortion
from vtok_codec.codec.slices import slices
from vtok_codec.codec.tokenizer import Tokenizer, to_pixels
from vtok_codec.media.types import Pixels
from vtok_codec.metrics.squared_error import SquaredError
from vtok_codec.models.causal import State
from vtok_codec.stream.effort import Effort
from vtok_codec.tokens.radix import Digits, Values

_STEP = 0.03
"""The root mean square of the first step, in units of digits."""
_LAST_STEP = 0.1
"""The size of a step at the end, relative to the first one."""
_FARTHEST = 1.5
"""How far a value may lie from its digit, so that it can still return."""
_WORSE_DB = 1.0
"""By how much refining may lower the PSNR of a chunk: digits that save bits may. On flat pictures, where every digit
moves all of the picture, steps can overshoot far beyond it."""
_GRAPH_BYTES_PER_PIXEL = 1300
"""The memory in bytes that the gradient of each of four latent time steps takes for each pixel of a frame, measured in
bf16 at 256×256. In fp32, it takes twice as much."""
_MAX_GRAPH_BYTES = 1 << 30
"""The most memory, in bytes, that a gradient takes, unless a single latent time step takes more."""

Choice: TypeAlias = "Callable[[Values, float], Digits]"
"""Chooses the digits of a chunk from values before rounding and the cost of a bit."""


def refining_bytes_per_pixel(tokenizer: Tokenizer, latents: int = 4) -> int:
    """Return the memory in bytes that the gradient of some latent time steps takes for each pixel of a frame."""
    return latents * _GRAPH_BYTES_PER_PIXEL * tokenizer.placement.dtype.itemsize // torch.bfloat16.itemsize


class _Slice(NamedTuple):
    """Latent time steps of a chunk that go through the decoder at once."""

    digits: Digits
    """Their digits, uint8 `P t h w`."""
    frames: Pixels
    """The frames that they stand for, uint8 RGB `T H W 3`, without those that a decoder cuts away."""
    skipped: int
    """The number of decoded frames that come before these and are cut away."""


class Refiner:
    """Refines the chunks of one GOP in order. It holds the state of the decoder.

    Args:
        tokenizer: The model.
        effort: How many steps to take.
        rdo: What a bit costs; see `EncodeSettings.rdo`.
        distortion: What the steps make small.
    """

    def __init__(self, tokenizer: Tokenizer, effort: Effort, rdo: float, distortion: Distortion) -> None:
        self._tokenizer, self._effort, self._rdo, self._distortion = tokenizer, effort, rdo, distortion
        self._state: State = None

    def refined(self, values: Values, frames: Pixels, choose: Choice) -> Digits:
        """Return the refined digits of the next chunk, uint8 `P t h w`.

        Args:
            values: The digits before rounding, float32 `P t h w`.
            frames: The frames that they stand for, uint8 RGB `T H W 3`.
            choose: Chooses digits by rate and error.
        """
        steps, weights = self._effort.steps, self._weights(*values.shape[:2])
        digits = choose(values, self._rdo)
        tried: list[tuple[float, Digits]] = []
        for step in range(steps):
            gradient, psnr_db = self._gradient(digits, frames, step)
            tried.append((psnr_db, digits))
            move = gradient / weights
            size = float(np.sqrt(np.square(move).mean()))
            if not size:
                break
            length = _STEP * (1 - (1 - _LAST_STEP) * step / steps)
            values = np.clip(values - move * (length / size), digits - _FARTHEST, digits + _FARTHEST)
            digits = choose(values, self._rdo * self._effort.bit_factor)
        made, after = self._decoded(digits, frames)
        if tried and squared_error(made, frames).psnr_db < tried[0][0] - _WORSE_DB:
            _, digits = max(tried, key=lambda each: each[0])
            _, after = self._decoded(digits, frames)
        self._state = after
        return digits

    def _decoded(self, digits: Digits, frames: Pixels) -> tuple[Pixels, State]:
        return self._tokenizer.decode(digits, frames.shape[1:3], len(frames), self._state)

    def _weights(self, planes: int, latents: int) -> NDArray[np.float32]:
        """Return how much an error of a digit harms the picture, `P t 1 1`; see `Prior.error_weight`."""
        prior = self._tokenizer.prior
        phases = self._tokenizer.layout.phases if self._state is None else 0
        weights = np.ones((planes, latents, 1, 1), np.float32)
        for plane in range(planes if prior else 0):
            assert prior is not None
            weights[plane, :phases] = prior.error_weight(planes, plane, first=True)
            weights[plane, phases:] = prior.error_weight(planes, plane, first=False)
        return weights

    def _gradient(self, digits: Digits, frames: Pixels, step: int) -> tuple[NDArray[np.float32], float]:
        """Return the gradient of the distortion of the decoded chunk by its digits, float32 `P t h w`, and its PSNR.

        The chunk goes through the decoder in slices, so that memory holds the graph of one slice at a time: forwards
        for the state before each slice, then backwards for the gradients.
        """
        parts = list(self._slices(digits, frames))
        states = [self._state]
        for part in parts[:-1]:
            states.append(self._tokenizer.decode(part.digits, frames.shape[1:3], 0, states[-1])[1])
        gradients, by_state, error = [], None, SquaredError()
        for part, state in zip(reversed(parts), reversed(states), strict=True):
            gradient, by_state, made = self._slice_gradient(part, state, by_state, step)
            gradients.append(gradient)
            error = squared_error(made, part.frames, error)
        return np.concatenate(gradients[::-1], axis=1), error.psnr_db

    def _slices(self, digits: Digits, frames: Pixels) -> Iterator[_Slice]:
        """Yield the slices of a chunk."""
        layout, (height, width) = self._tokenizer.layout, frames.shape[1:3]
        steps = max(1, _MAX_GRAPH_BYTES // (refining_bytes_per_pixel(self._tokenizer, 1) * height * width))
        first, begin = self._state is None, 0
        for part, count in slices(digits, layout, first, steps):
            yield _Slice(part, frames[begin : begin + count], layout.filled_frames(first and not begin))
            begin += count

    def _slice_gradient(
        self, part: _Slice, state: State, by_state: list[Tensor] | None, step: int
    ) -> tuple[NDArray[np.float32], list[Tensor], Pixels]:
        """Return the gradients of a slice by its digits and by the tensors of the state before it, and its frames.

        Args:
            part: The slice.
            state: The state before it.
            by_state: The gradients of all later slices by the tensors of the state after it; None for the last slice.
            step: The number of the step.
        """
        device = self._tokenizer.placement.device
        count, height, width, _ = part.frames.shape
        with torch.enable_grad():
            digits = torch.from_numpy(part.digits).to(device, torch.float32)[None].requires_grad_()
            before = tree_map(_leaf, state)
            video, after = self._tokenizer.model.decode_digits(digits, before)
            shown = video[0, :, part.skipped : part.skipped + count, :height, :width].transpose(0, 1).float()
            outputs, given = [shown], [self._distortion.gradient(shown.detach(), part.frames, step)]
            if by_state is not None:
                outputs += tree_leaves(after)
                given += by_state
            inputs = [digits, *(leaf for leaf in tree_leaves(before) if leaf is not None)]
            by_digits, *rest = torch.autograd.grad(outputs, inputs, given, materialize_grads=True)
        return by_digits[0].cpu().numpy(), rest, to_pixels(shown.detach().transpose(0, 1), (height, width))


def squared_error(made: Pixels, frames: Pixels, before: SquaredError | None = None) -> SquaredError:
    """Return the squared error between two videos `T H W 3`, added to that of the frames `before`."""
    error = before or SquaredError()
    for one, other in zip(made, frames, strict=True):
        error.add(one, other)
    return error


def _leaf(tensor: Tensor | None) -> Tensor | None:
    """Return a copy of a tensor that asks for its gradient. Only a copy can, since it was made in inference mode."""
    return None if tensor is None else tensor.clone().requires_grad_()
