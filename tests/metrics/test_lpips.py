"""LPIPS and its shipped weights."""

from __future__ import annotations

import pytest
import torch
from helpers import LANES, pixels_of

from vtok_codec.metrics.lpips import LPIPS
from vtok_codec.models.weights import parse_tensors
from vtok_codec.registry import find_weights

pytestmark = pytest.mark.usefixtures("one_thread")


def test_lpips_stays_what_it_is() -> None:
    """Other scales of the input, orders of the channels, or pooling give other numbers by a tenth and more."""
    weights = find_weights("lpips-alex")
    lpips = LPIPS(parse_tensors(weights.data, str(weights.path)))
    source = torch.from_numpy(pixels_of(LANES)[0][:128, :128]).permute(2, 0, 1)[None].float() / 127.5 - 1
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(source.shape, generator=generator)
    assert lpips(source, source).item() == 0
    weak, strong = (lpips(source, (source + level * noise).clamp(-1, 1)).item() for level in (0.05, 0.3))
    assert (weak, strong) == pytest.approx((0.2870, 0.9016), abs=1e-3)
