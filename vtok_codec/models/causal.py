"""Causal layers with explicit state.

Features have the shape `B C T H W` and are channels-last in memory, so that folding time into the batch for 2D
convolutions needs no copy.

A causal layer maps `(x, state)` to `(y, state)`. The state holds what the layer needs to know about the frames before
`x`; None stands for the start of a group of pictures (GOP). A state is a pytree: a tensor or nested tuples of tensors.
The caller may keep it, copy it or move it to another device.

No causal layer looks at later frames, and none pools over time or over a frame. Processing a clip chunk by chunk
therefore gives the same result as processing the whole clip at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from vtok_codec.layout import Stride

State: TypeAlias = "Tensor | tuple[State, ...] | None"
"""What a causal layer remembers: a tensor, a tuple of the states of its parts, or None at the start of a GOP."""

Factor: TypeAlias = Stride
"""A resampling factor over time, height and width."""


def fold_time(x: Tensor) -> Tensor:
    """Fold time into the batch: `B C T H W` → `(B·T) C H W`, without a copy if `x` is channels-last."""
    return x.transpose(1, 2).flatten(0, 1)


def unfold_time(x: Tensor, batch: int) -> Tensor:
    """Take time out of the batch again: `(B·T) C H W` → `B C T H W`, the inverse of `fold_time`."""
    return x.unflatten(0, (batch, -1)).transpose(1, 2)


def unshuffle(x: Tensor, factor: Factor) -> Tensor:
    """Move blocks of space-time into channels: `B C T H W` → `B (C·ft·fh·fw) T/ft H/fh W/fw`.

    Args:
        x: Features or video `B C T H W`; T, H and W must be multiples of `factor`.
        factor: The size of a block over time, height and width, `(ft, fh, fw)`.

    Returns:
        A tensor that is channels-last in memory.
    """
    ft, fh, fw = factor
    b, c, t, h, w = x.shape
    x = x.reshape(b, c, t // ft, ft, h // fh, fh, w // fw, fw)
    x = x.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, t // ft, h // fh, w // fw, c * ft * fh * fw)
    return x.permute(0, 4, 1, 2, 3)


def shuffle(x: Tensor, factor: Factor) -> Tensor:
    """Move channels into blocks of space-time: `B (C·ft·fh·fw) T H W` → `B C T·ft H·fh W·fw`.

    This is the inverse of `unshuffle`.

    Args:
        x: Features `B (C·ft·fh·fw) T H W`.
        factor: The size of a block over time, height and width, `(ft, fh, fw)`.

    Returns:
        A tensor that is channels-last in memory.
    """
    ft, fh, fw = factor
    b, c, t, h, w = x.shape
    channels = c // math.prod(factor)
    x = x.permute(0, 2, 3, 4, 1).reshape(b, t, h, w, channels, ft, fh, fw)
    x = x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, t * ft, h * fh, w * fw, channels)
    return x.permute(0, 4, 1, 2, 3)


class PositionNorm(nn.Module):
    """Layer norm over the channels of each position, independently of all other positions and frames."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize features `B C T H W`; return features of the same shape."""
        last = x.permute(0, 2, 3, 4, 1)
        # On a GPU, autocast would run everything from here to the next convolution in fp32. That is not needed, since
        # the kernel accumulates in fp32 in any case.
        with torch.autocast("cuda", enabled=False):
            normed = F.layer_norm(last, (x.shape[1],), eps=1e-6)
        # Scale outside the kernel: on the CPU, the kernel accumulates the gradients of its parameters in bf16 and gets
        # them badly wrong (torch 2.13). The gradients of a separate operation are accumulated in fp32.
        scaled = torch.addcmul(self.bias.to(normed.dtype), normed, self.weight.to(normed.dtype))
        return scaled.permute(0, 4, 1, 2, 3)


class FrameConv(nn.Conv2d):
    """A `1×k×k` convolution over every frame of `B C T H W`, zero-padded so that frames keep their size.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: The height and width of the kernel, k; an odd number.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3) -> None:
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve every frame of `B C T H W`; return features `B C' T H W`."""
        frames = fold_time(x)
        if self.kernel_size == (1, 1) and not torch.is_grad_enabled() and _has_two_kernels(frames):
            frames = torch.mkldnn_convolution(frames, self.weight, self.bias, (0, 0), (1, 1), (1, 1), 1)
        else:
            frames = super().forward(frames)
        return unfold_time(frames, x.shape[0])


def _has_two_kernels(x: Tensor) -> bool:
    """Whether torch (2.13) chooses the kernel of a `1×1` convolution of `x` by the number of threads.

    The two kernels sum in different orders. Decoded video must not depend on the number of threads; training may.
    """
    plain = x.dtype is torch.float32 and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()
    return x.device.type == "cpu" and plain and torch.backends.mkldnn.is_available()


class CausalLayer(nn.Module):
    """The base class of layers with state."""

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Process a chunk of frames.

        Args:
            x: Features of the chunk, `B C T H W`.
            state: The state after the preceding chunk, or None at the start of a GOP.

        Returns:
            The features that the layer makes of the chunk, and the state after it.
        """
        raise TypeError(f"{type(self).__name__} defines no forward")


class _SlotStack(torch.autograd.Function):
    """The implementation of `_stack_slots`, with a gradient in the same memory layout as the input.

    Autograd would accumulate the gradients of the slices in another layout, which slows down training on the CPU
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
    """Stack what a convolution over three frames sees at each of T frames: `B C (T + 2) H W` → `B (3·C) T H W`."""
    stacked: Tensor = _SlotStack.apply(slots)
    return stacked


class TemporalConv(CausalLayer):
    """A causal `3×k×k` convolution: each frame sees itself and the two frames before it, or zeros before a GOP.

    It runs as one `k×k` convolution over three frames stacked on the channels, since `conv3d` with a `(3, 1, 1)` kernel
    gives NaN gradients in bf16 on the CPU (torch 2.13, contiguous input of two frames).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: The height and width of the kernel, k; an odd number.
        causal: If False, each frame sees itself, the frame before it and the frame after it. Such a layer keeps no
            state, so it must be given whole clips.
    """

    MEMORY = 2
    """The number of input frames that the state holds."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, causal: bool = True) -> None:
        super().__init__()
        self.causal = causal
        self.mix = FrameConv((self.MEMORY + 1) * in_channels, out_channels, kernel)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Convolve a chunk.

        Args:
            x: Features of the chunk, `B C T H W`.
            state: The last two frames before the chunk, `B C 2 H W`, or None at the start of a GOP.

        Returns:
            Features `B C' T H W` and the state after the chunk, which is None if the layer is not causal.
        """
        b, c, _, h, w = x.shape
        if not self.causal:
            slots = F.pad(x, (0, 0, 0, 0, 1, 1))
            return self.mix(_stack_slots(slots)), None
        if state is None:
            state = x.new_zeros(b, self.MEMORY, h, w, c).permute(0, 4, 1, 2, 3)
        assert isinstance(state, Tensor)
        slots = torch.cat([state, x], dim=2)
        # Clone, since a view would keep the memory of the whole chunk alive.
        return self.mix(_stack_slots(slots)), slots[:, :, -self.MEMORY :].clone()


class CausalChain(CausalLayer):
    """A sequence of layers. Its state is the tuple of the states of its causal layers, in order.

    Args:
        layers: Causal layers and layers without state, in the order in which they run.
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, state: State, added: Mapping[int, Tensor] | None = None) -> tuple[Tensor, State]:
        """Run the layers one after another.

        Args:
            x: Features of a chunk, `B C T H W`.
            state: The state after the preceding chunk, or None at the start of a GOP.
            added: Features to add to the input of some layers, by the index of the layer.

        Returns:
            The output of the last layer and the state after the chunk.
        """
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
    """Set the weight and bias of a convolution to zero, so that it contributes nothing to a sum at first."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
