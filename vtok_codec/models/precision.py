"""The floating-point type that networks compute in."""

from __future__ import annotations

import torch


def fast_type(device: torch.device) -> torch.dtype:
    """bf16 where the device computes in it. A CPU without it emulates it, many times slower than fp32."""
    if device.type != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return torch.bfloat16
    return torch.float32
