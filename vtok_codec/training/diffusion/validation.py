"""Measures a diffusion decoder on held-out clips during training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vtok_codec.metrics.gradients import gradient_energy
from vtok_codec.metrics.lpips import LPIPS
from vtok_codec.models.denoiser import Denoiser
from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.sampling import sample
from vtok_codec.training.codec.validation import decode_codes
from vtok_codec.training.data.held_out import filled_clip
from vtok_codec.training.measures import mean_lpips, psnr_db, to_levels


@torch.inference_mode()
def validate(model: Denoiser, codec: OneVAE, clips: Sequence[Tensor], lpips: LPIPS | None) -> dict[str, float]:
    """Measure a diffusion decoder, and the codec's own decoder beside it, on held-out clips.

    Args:
        model: The diffusion decoder.
        codec: The codec whose tokens it decodes.
        clips: Clips, each `3 T H W` in [−1, 1].
        lpips: The LPIPS network, to measure LPIPS as well.

    Returns:
        Means over clips for each reconstruction from one and from two tokens, as `denoised` names them: `psnr` in dB,
        `lpips`, and `energy`, the energy of the gradients divided by that of the source, which blur lowers.
    """
    figures: dict[str, list[float]] = {}
    for number, clip in enumerate(clips):
        source, made = denoised(model, codec, clip, number, sorted({1, min(2, codec.config.max_tokens)}))
        for name, video in made.items():
            for measure, value in _look(source, video, codec.config.layout.repeated_frames, lpips).items():
                figures.setdefault(f"{measure}_{name}", []).append(value)
    return {name: float(np.mean(values)) for name, values in figures.items()}


def denoised(
    model: Denoiser, codec: OneVAE, clip: Tensor, seed: int, token_counts: Sequence[int]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Decode the first tokens of a clip by the codec's own decoder and by the diffusion decoder.

    Args:
        model: The diffusion decoder.
        codec: The codec whose tokens it decodes.
        clip: A clip, `3 T H W` in [−1, 1].
        seed: The seed of the noise.
        token_counts: The numbers of tokens to decode.

    Returns:
        The clip padded and cut to whole latent frames, `1 3 T H W`, and its reconstructions of the same shape by name.
        For K tokens, `K_base` is that of the codec's own decoder, and `K_1_steps` and `K_2_steps` are those of the
        diffusion decoder in one step and in two steps.
    """
    source = filled_clip(clip[None].to(model.device), codec.config.layout)
    codes = codec.quantizer.quantize(codec.encoder(source, None)[0]).codes
    noise = torch.randn(source.shape, generator=torch.Generator().manual_seed(seed)).to(model.device)
    made = {}
    for count in token_counts:
        counts = torch.full((1,), count, device=model.device)
        made[f"{count}_base"] = decode_codes(codec, codes, count)
        for steps in (1, 2):
            video, _ = sample(model, codes, noise, None, counts, steps)
            made[f"{count}_{steps}_steps"] = video.float()
    return source, made


def _look(source: Tensor, shown: Tensor, skipped: int, lpips: LPIPS | None) -> dict[str, float]:
    """Measure a reconstruction without its first `skipped` frames."""
    source, shown = (to_levels(video)[:, :, skipped:] for video in (source, shown))
    looks = {"psnr": psnr_db(shown, source)}
    # The ratio is not defined for a clip without any gradients.
    if (energy := gradient_energy(source)) > 0:
        looks["energy"] = gradient_energy(shown) / energy
    if lpips:
        looks["lpips"] = mean_lpips(lpips, shown, source)
    return looks
