"""The floating-point type in which networks compute."""

from __future__ import annotations

import pytest
import torch

from vtok_codec.models.precision import fast_type


@pytest.mark.parametrize("has_bf16", [True, False])
def test_a_gpu_computes_in_bf16_if_it_has_instructions_for_it(has_bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Emulation, which older GPUs offer, does not count."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or has_bf16
    )
    assert fast_type(torch.device("cuda")) == (torch.bfloat16 if has_bf16 else torch.float32)
