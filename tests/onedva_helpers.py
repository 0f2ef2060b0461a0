"""What tests of One-DVA share: a tiny codec with an enhanced first frame, and tiny transformers for it."""

from __future__ import annotations

from dataclasses import replace

import torch
from helpers import TINY

from vtok_codec.models.config import Level, OneDVAConfig
from vtok_codec.models.onedva import OneDVA

ENHANCED = replace(TINY, levels=(*TINY.levels, Level((1, 2, 2), 24, 1, 2)), enhanced_first_frame=True)
TINY_DVA = OneDVAConfig(ENHANCED, width=32, blocks=1, heads=2, queries=6, window_rows=2, window_columns=3)


def random_onedva(config: OneDVAConfig = TINY_DVA, seed: int = 0) -> OneDVA:
    """Transformers with every weight random, the zero-initialized ones too, so that every path counts."""
    generator = torch.Generator().manual_seed(seed)
    model = OneDVA(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("homes"):
                fan_in = max(1, parameter.shape[-1])
                parameter += torch.randn(parameter.shape, generator=generator) * (1 / fan_in) ** 0.5
    return model
