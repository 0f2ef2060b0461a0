"""The warm start from the KLT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import LANES, TINY, pixels_of, psnr_db
from training_helpers import sampler_of

from vtok_codec.models.fsq import FSQ
from vtok_codec.models.onevae import OneVAE
from vtok_codec.training.codec import klt
from vtok_codec.training.codec.klt import _equalizing_rotation, warm_start

pytestmark = pytest.mark.usefixtures("one_thread")


def test_equalizing_rotation_shares_the_variance() -> None:
    variances = torch.tensor([100.0, 20.0, 5.0, 2.0, 1.0, 0.1])
    rotation = _equalizing_rotation(variances)
    assert torch.allclose(rotation.T @ rotation, torch.eye(6), atol=1e-6)
    shared = (rotation.T @ torch.diag(variances) @ rotation).diagonal()
    assert torch.allclose(shared, variances.mean().expand(6), rtol=1e-4)


def test_warm_start_codes_real_video_untrained(tmp_path: Path) -> None:
    """A fresh model, no training: each further token must bring it nearer."""
    (tmp_path / "lanes.mp4").symlink_to(LANES)
    model = OneVAE(TINY).eval()
    start = warm_start(model, sampler_of(tmp_path), batches=2)
    assert start.psnr_db > 20
    video = torch.from_numpy(np.stack(pixels_of(LANES)[:8])).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.inference_mode():
        digits, _ = model.encode_digits(video, None)
        quality = [
            psnr_db(model.decode_digits(digits[:, : 6 * k], None)[0].numpy() * 127.5, video.numpy() * 127.5)
            for k in (1, 2, 4)
        ]
    assert 19 < quality[0] < quality[1] < quality[2]


def test_the_error_of_a_fit_is_that_of_its_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """It follows from the sums over all blocks, however few are fitted at once."""
    monkeypatch.setattr(klt, "_ROWS", 64)
    torch.manual_seed(0)
    blocks, fsq = torch.randn(300, 20) @ torch.randn(20, 20) + 3, FSQ((8, 8, 8, 5, 5, 5), tokens=1)
    fit = klt._fit(fsq, blocks, blocks.mean(0), torch.randn(20, 6) / 10)
    (to_codes, shift), (to_pixels, offset) = fit.encoder, fit.decoder
    latents = blocks @ to_codes.T + shift
    codes = fsq.quantize(latents.T[None, :, :, None, None]).codes[0, :, :, 0, 0].T
    error = codes @ to_pixels.T + offset - blocks
    assert fit.mse == pytest.approx(float(error.square().mean()), rel=1e-4)
    # No other offset or factor is better.
    assert error.mean(0).abs().max() < 1e-3 and (codes.T @ error / len(codes)).abs().max() < 1e-3


@pytest.mark.parametrize("kinds", [1, 2, 5, 25])
def test_blocks_that_are_all_alike_have_a_warm_start(kinds: int) -> None:
    """Flat or synthetic clips may have fewer kinds of blocks than a position has codes."""
    torch.manual_seed(kinds)
    blocks = (torch.rand(kinds, 1) * 2 - 1).expand(-1, 64) if kinds <= 5 else torch.rand(kinds, 64) * 2 - 1
    blocks = blocks.repeat(40, 1)
    mean = blocks.mean(0)
    components, scale = klt._balanced_klt(blocks - mean, digits=6, tokens=4)
    fit = klt._fit(FSQ((8, 8, 8, 5, 5, 5), tokens=4), blocks, mean, components / scale)
    assert torch.isfinite(torch.cat([part.flatten() for path in (fit.encoder, fit.decoder) for part in path])).all()
    assert klt.WarmStart(1.0, fit.mse).psnr_db > 20
