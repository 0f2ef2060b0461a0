"""The choice of the floating-point type in which networks compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch


def fast_type(device: torch.device) -> torch.dtype:
    """Return bf16 for processors and GPUs that have instructions for it, else fp32.

    Those without, such as NVIDIA's before Ampere, emulate bf16, which takes many times as long as fp32.
    """
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        has_bf16 = _cpu_has("avx512_bf16") or _cpu_has("amx_tile")
    else:
        has_bf16 = True
    return torch.bfloat16 if has_bf16 else torch.float32


def _cpu_has(instructions: str) -> bool:
    """Return whether torch says that the processor has instructions; it has no public function for it."""
    return bool(getattr(torch.cpu, f"_is_{instructions}_supported", lambda: False)())


@contextmanager
def plain_types() -> Iterator[None]:
    """Compute in the types that the weights have, whatever autocast says around the block or the function."""
    with torch.autocast("cpu", enabled=False), _plain_cuda():
        yield


def _plain_cuda() -> AbstractContextManager[object]:
    # Where there is no such device, torch would warn.
    return torch.autocast("cuda", enabled=False) if torch.cuda.is_available() else nullcontext()
