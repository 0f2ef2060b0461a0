"""Causal layers with explicit state.

Features are `B C T H W`, kept channels-last in memory, so that folding time into the batch for 2D convolutions is
free. A causal layer maps `(x, state)` to `(y, state)`: `state` holds what it needs of the frames before `x`, and
`None` stands for the start of a GOP. A state is a pytree of tensors (nested tuples): it can be kept, copied, or
moved to another device by whoever holds it. No layer here looks at a later frame, and none pools over time or over
the frame, so a clip read chunk by chunk gives what the whole clip gives.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

State: TypeAlias = "Tensor | tuple[State, ...] | None"
"""What a causal layer remembers: a tensor, a tuple of the states of its parts, or None at the start of a GOP."""

Factor: TypeAlias = tuple[int, int, int]
"""A resampling factor over time, height and width."""


def fold_time(x: Tensor) -> Tensor:
    """`B C T H W` → `(B·T) C H W`, without a copy where `x` is channels-last."""
    return x.transpose(1, 2).flatten(0, 1)


def unfold_time(x: Tensor, batch: int) -> Tensor:
    """`(B·T) C H W` → `B C T H W`: the inverse of `fold_time`."""
    return x.unflatten(0, (batch, -1)).transpose(1, 2)


def unshuffle(x: Tensor, factor: Factor) -> Tensor:
    """Space-time to channels: `B C T H W` → `B (C·ft·fh·fw) T/ft H/fh W/fw`, channels-last.

    The time, height and width of `x` must be multiples of `factor`.
    """
    ft, fh, fw = factor
    b, c, t, h, w = x.shape
    x = x.reshape(b, c, t // ft, ft, h // fh, fh, w // fw, fw)
    x = x.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, t // ft, h // fh, w // fw, c * ft * fh * fw)
    return x.permute(0, 4, 1, 2, 3)


def shuffle(x: Tensor, factor: Factor) -> Tensor:
    """Channels to space-time: `B (C·ft·fh·fw) T H W` → `B C T·ft H·fh W·fw`, the inverse of `unshuffle`."""
    ft, fh, fw = factor
    b, c, t, h, w = x.shape
    channels = c // math.prod(factor)
    x = x.permute(0, 2, 3, 4, 1).reshape(b, t, h, w, channels, ft, fh, fw)
    x = x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, t * ft, h * fh, w * fw, channels)
    return x.permute(0, 4, 1, 2, 3)


class PositionNorm(nn.Module):
    """Layer norm over the channels of each position: it sees neither other positions nor other frames."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        last = x.permute(0, 2, 3, 4, 1)
        # On a GPU autocast would make it, and all up to the next convolution, fp32; the kernel sums in fp32 anyhow.
        with torch.autocast("cuda", enabled=False):
            normed = F.layer_norm(last, (x.shape[1],), eps=1e-6)
        # Scaled outside the kernel, which on the CPU sums the gradients of its parameters in bf16 (torch 2.13): over
        # 20,000 positions they come out 65 % wrong. A sum of its own accumulates in fp32.
        scaled = torch.addcmul(self.bias.to(normed.dtype), normed, self.weight.to(normed.dtype))
        return scaled.permute(0, 4, 1, 2, 3)


class FrameConv(nn.Conv2d):
    """A `1×k×k` convolution, zero-padded to the same size, over every frame of `B C T H W`."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3) -> None:
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        frames = fold_time(x)
        if self.kernel_size == (1, 1) and not torch.is_grad_enabled() and _has_two_kernels(frames):
            frames = torch.mkldnn_convolution(frames, self.weight, self.bias, (0, 0), (1, 1), (1, 1), 1)
        else:
            frames = super().forward(frames)
        return unfold_time(frames, x.shape[0])


def _has_two_kernels(x: Tensor) -> bool:
    """Whether torch (2.13) takes another kernel for a `1×1` convolution in one thread than in several, which sums in
    another order. What is decoded must not depend on the number of threads; training may."""
    plain = x.dtype is torch.float32 and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()
    return x.device.type == "cpu" and plain and torch.backends.mkldnn.is_available()


class CausalLayer(nn.Module):
    """A layer with memory. `forward(x, state)` gives `(y, state after x)`."""

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        raise TypeError(f"{type(self).__name__} defines no forward")


class _SlotStack(torch.autograd.Function):
    """`_stack_slots` with a gradient in the layout of its input.

    That of a slice is summed up in frames of another layout, which costs a training step on the CPU a sixth of its time
    (torch 2.13).
    """

    @staticmethod
    def forward(ctx: FunctionCtx, slots: Tensor) -> Tensor:
        frames = slots.shape[2] - TemporalConv.MEMORY
        return torch.cat([slots[:, :, i : i + frames] for i in range(TemporalConv.MEMORY + 1)], dim=1)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        b, _, frames, h, w = gradient.shape
        parts = gradient.chunk(TemporalConv.MEMORY + 1, dim=1)
        total = gradient.new_zeros(b, frames + TemporalConv.MEMORY, h, w, parts[0].shape[1]).permute(0, 4, 1, 2, 3)
        for place, part in enumerate(parts):
            total[:, :, place : place + frames] += part
        return total


def _stack_slots(slots: Tensor) -> Tensor:
    """`B C (T + 2) H W` → `B (3·C) T H W`: what a causal convolution of three frames sees at each of T frames."""
    stacked: Tensor = _SlotStack.apply(slots)
    return stacked


class TemporalConv(CausalLayer):
    """A causal `3×k×k` convolution: a frame sees itself and the two before it; before a GOP stand zeros.

    It is written as one `k×k` convolution over the three time slots stacked on the channels, since `conv3d` with a
    `(3, 1, 1)` kernel gives NaN gradients in bf16 on the CPU (torch 2.13, contiguous input of two frames).
    """

    MEMORY = 2
    """Frames of input kept as state."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, causal: bool = True) -> None:
        """Without `causal` a frame sees one before and one after it: for whole clips only, which have no state."""
        super().__init__()
        self.causal = causal
        self.mix = FrameConv((self.MEMORY + 1) * in_channels, out_channels, kernel)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        b, c, _, h, w = x.shape
        if not self.causal:
            slots = F.pad(x, (0, 0, 0, 0, 1, 1))
            return self.mix(_stack_slots(slots)), None
        if state is None:
            state = x.new_zeros(b, self.MEMORY, h, w, c).permute(0, 4, 1, 2, 3)
        assert isinstance(state, Tensor)
        slots = torch.cat([state, x], dim=2)
        # A copy, since a view would keep the whole chunk alive.
        return self.mix(_stack_slots(slots)), slots[:, :, -self.MEMORY :].clone()


class CausalChain(CausalLayer):
    """Layers one after another; those with memory each have their place in the chain's state tuple."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, state: State, added: Mapping[int, Tensor] | None = None) -> tuple[Tensor, State]:
        """`added`, by the numbers of layers: features to add to what those layers read."""
        causal = sum(isinstance(layer, CausalLayer) for layer in self.layers)
        before: tuple[State, ...] = (None,) * causal if state is None else tuple(state)
        after: list[State] = []
        for number, layer in enumerate(self.layers):
            if added and number in added:
                x = x + added[number]
            if isinstance(layer, CausalLayer):
                x, kept = layer(x, before[len(after)])
                after.append(kept)
            else:
                x = layer(x)
        return x, tuple(after)


def zero_init(conv: nn.Conv2d) -> None:
    """Set weight and bias to zero, so that what the layer adds starts as nothing."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
