"""The choice of the floating-point type in which networks compute."""

from __future__ import annotations

import torch


def fast_type(device: torch.device) -> torch.dtype:
    """Return bf16 for GPUs and for CPUs with bf16 instructions, and fp32 for all other CPUs.

    A CPU without such instructions emulates bf16, which takes many times as long as fp32.
    """
    if device.type != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return torch.bfloat16
    return torch.float32
