"""Measures One-DVA on held-out clips during training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vtok_codec.codec.onedva import ONEDVA_STEPS
from vtok_codec.metrics.lpips import LPIPS
from vtok_codec.models.onedva import Group, OneDVA, Prediction, following, joined
from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.sampling import sample_second
from vtok_codec.models.windows import group_ends
from vtok_codec.training.codec.validation import decode_codes
from vtok_codec.training.data.held_out import filled_clip
from vtok_codec.training.measures import mean_lpips, psnr_db, to_levels
from vtok_codec.training.onedva.objective import CodecLatents, codec_latents, decoded

_SEED = 1
"""The seed of the noise."""


@torch.inference_mode()
def validate(
    model: OneDVA, codec: OneVAE, clips: Sequence[Tensor], lpips: LPIPS | None, noisy: bool = False
) -> dict[str, float]:
    """Measure One-DVA on held-out clips.

    Args:
        model: The model.
        codec: The codec that it is for.
        clips: Clips, each `3 T H W` in [−1, 1].
        lpips: The LPIPS network, to measure LPIPS as well.
        noisy: Whether to decode from noise too.

    Returns:
        Means over clips: PSNR in dB and LPIPS of the codec with one and with two tokens (`psnr_1_token`), and with one
        token and some numbers of 1D tokens per window (`psnr_64`), also from noise (`psnr_64_from_noise`).
    """
    figures: dict[str, list[float]] = {}
    for clip in clips:
        source = filled_clip(clip[None].to(codec.device), codec.config.layout)
        for name, made in reconstructions(model, codec, source, noisy).items():
            skipped = codec.config.layout.repeated_frames
            levels = to_levels(source)[:, :, skipped:], to_levels(made)[:, :, skipped:]
            figures.setdefault(f"psnr_{name}", []).append(psnr_db(levels[1], levels[0]))
            if lpips:
                figures.setdefault(f"lpips_{name}", []).append(mean_lpips(lpips, levels[1], levels[0]))
    return {name: float(np.mean(values)) for name, values in figures.items()}


def reconstructions(model: OneDVA, codec: OneVAE, video: Tensor, noisy: bool = False) -> dict[str, Tensor]:
    """Decode a video that starts a GOP, `1 3 T H W`, from different numbers of tokens; see `validate`."""
    given = codec_latents(codec, video)
    latents, _ = codec.encoder(video.to(codec.dtype), None)
    codes = codec.fsq.quantize(latents).codes
    made = {f"{count}_token{'s' * (count > 1)}": decode_codes(codec, codes, count) for count in (1, 2)}
    queries = model.config.queries
    for count in sorted({0, queries // 4, queries // 2, queries}):
        made[f"{count}"] = decoded(codec, given.structural, predicted(model, given, count))
    for count in sorted({0, queries}) if noisy else ():
        noise = torch.randn(given.second.shape, generator=torch.Generator().manual_seed(_SEED))
        drawn = predicted(model, given, count, noise.to(given.second.device))
        made[f"{count}_from_noise"] = decoded(codec, given.structural, drawn)
    return made


def predicted(model: OneDVA, given: CodecLatents, count: int, noise: Tensor | None = None) -> Prediction:
    """Return what `count` 1D tokens per window add to a video that starts a GOP, drawn from noise if that is given."""
    begin, group, parts = 0, Group(True, None), list[Prediction]()
    for end in group_ends(given.structural.shape[2], model.config.codec.layout.phases, model.config.window_steps):
        structural = given.structural[:, :, begin:end]
        tokens = model.codes(model.encode(given.smooth[:, :, begin:end], structural, group))
        counts = torch.full((len(tokens),), count, device=tokens.device)
        if noise is None:
            parts.append(model.decode(structural, tokens, counts, group))
        else:
            part = noise[:, :, begin:end]
            parts.append(sample_second(model, structural, tokens, counts, group, part, ONEDVA_STEPS))
        begin, group = end, following(structural, parts[-1].second.float())
    return joined(parts)
