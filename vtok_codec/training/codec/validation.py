"""Measures a codec on held-out clips during training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vtok_codec.metrics.lpips import LPIPS
from vtok_codec.models.fsq import FSQ
from vtok_codec.models.onevae import OneVAE
from vtok_codec.stream.settings import EncodeSettings
from vtok_codec.tokens.coders import WAVES, DigitLayout, fitting_coder
from vtok_codec.tokens.radix import Digits
from vtok_codec.training.codec.rate import RateEstimate
from vtok_codec.training.data.held_out import filled_clip
from vtok_codec.training.measures import mean_lpips, psnr_db, to_levels


@torch.inference_mode()
def validate(
    model: OneVAE,
    clips: Sequence[Tensor],
    counts: Sequence[int],
    rate: RateEstimate | None = None,
    lpips: LPIPS | None = None,
) -> dict[str, float]:
    """Measure a codec on held-out clips.

    Args:
        model: The codec.
        clips: Clips, each `3 T H W` in [−1, 1].
        counts: The numbers of tokens to decode.
        rate: The rate term, if its prior trains along.
        lpips: The LPIPS network, to measure LPIPS as well.

    Returns:
        Means over clips for each number of tokens: PSNR in dB of all frames, of the first frame, of the later frames,
        and of the continuous path; LPIPS, if its network is given; and the size of the tokens in bits per pixel as
        `raw`, `packed`, `order0` and `prior`:

        - `raw`: log₂ of the size of the codebook for each token.
        - `packed`: the size in a file.
        - `order0`: the entropy of each channel of digits by itself.
        - `prior`: the cost by the prior of `rate`.

        The last three need a quantizer with digits.
    """
    figures: dict[str, list[float]] = {}
    for clip in clips:
        layout = model.config.layout
        skipped = layout.repeated_frames
        padded = filled_clip(clip[None].to(model.device), layout)
        source = to_levels(padded)[:, :, skipped:]
        latents, _ = model.encoder(padded, None)
        codes, indices, _ = model.quantizer.quantize(latents)
        for count in counts:
            output = to_levels(decode_codes(model, codes, count))[:, :, skipped:]
            figures.setdefault(f"psnr_{count}", []).append(psnr_db(output, source))
            figures.setdefault(f"psnr_first_{count}", []).append(psnr_db(output[:, :, :1], source[:, :, :1]))
            if source.shape[2] > 1:
                figures.setdefault(f"psnr_later_{count}", []).append(psnr_db(output[:, :, 1:], source[:, :, 1:]))
            if lpips:
                figures.setdefault(f"lpips_{count}", []).append(mean_lpips(lpips, output, source))
            smooth = to_levels(decode_codes(model, model.quantizer.continuous(latents), count))[:, :, skipped:]
            figures.setdefault(f"psnr_continuous_{count}", []).append(psnr_db(smooth, source))
            for name, bits in _sizes(model, codes, indices, count, rate).items():
                figures.setdefault(f"{name}_bpp_{count}", []).append(bits / source[0, 0].numel())
    return {name: float(np.mean(values)) for name, values in figures.items()}


def decode_codes(model: OneVAE, codes: Tensor, count: int) -> Tensor:
    """Decode the first `count` tokens of each position.

    Args:
        model: The codec.
        codes: Codes, `B (N·d) t h w` in [−1, 1].
        count: The number of tokens to read, 1…N.

    Returns:
        The video, `B 3 T H W` in [−1, 1] (not clamped), in fp32.
    """
    counts = torch.full((len(codes),), count, device=codes.device)
    video: Tensor = model.decoder(codes.to(model.dtype), None, counts)[0].float()
    return video


def _sizes(model: OneVAE, codes: Tensor, indices: Tensor, count: int, rate: RateEstimate | None) -> dict[str, float]:
    """Return the bits of the first `count` tokens of a clip by each of the measures that `validate` lists."""
    quantizer = model.quantizer
    sizes = {"raw": math.log2(quantizer.codebook_size) * indices[:, :count].numel()}
    if not isinstance(quantizer, FSQ):
        return sizes
    kept = count * quantizer.channels
    digits = (codes * quantizer.zero_digit).round() + quantizer.zero_digit
    planes = digits[0, :kept].to(torch.uint8).cpu().numpy()
    sizes["packed"] = 8.0 * _packed_bytes(planes, model)
    sizes["order0"] = sum(_entropy_bits(plane) * plane.size for plane in planes)
    if rate:
        sizes["prior"] = float(rate(codes[:, :kept]).sum())
    return sizes


def _packed_bytes(planes: Digits, model: OneVAE) -> int:
    """Return the bytes of a clip in a file, packed by waves as one GOP in chunks of the default length.

    Args:
        planes: Digits, `P t h w`.
        model: The codec.
    """
    levels, chunk = model.config.fsq_levels, EncodeSettings.chunk_latents
    layout = DigitLayout(levels, len(planes) // len(levels), model.config.layout.phases)
    coder = fitting_coder(WAVES, layout, planes.size).make()
    starts = [0, *range(model.config.layout.stored_latents(chunk, first=True), planes.shape[1], chunk)]
    ends = [*starts[1:], planes.shape[1]]
    return sum(len(coder.pack(planes[:, start:end])) for start, end in zip(starts, ends, strict=True))


def _entropy_bits(plane: np.ndarray) -> float:
    """Return the entropy of the values of a plane in bits per value."""
    share = np.bincount(plane.ravel()) / plane.size
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())
