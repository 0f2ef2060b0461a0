"""Starts the linear path of One-DVA from the Karhunen–Loève transform of the second token's codes."""

from __future__ import annotations

import torch
from torch import Tensor

from vtok_codec.models.onedva import OneDVA
from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.windows import cut_windows, group_ends
from vtok_codec.training.data.crops import CropSampler
from vtok_codec.training.onedva.objective import codec_latents
from vtok_codec.training.recipe import CropShape

_CROPS = 192
"""The number of crops whose windows the transform is taken of. Mirroring makes four windows of each."""
_SPREAD = 0.7
"""The standard deviation of a latent before training, so that few of them reach the ends of their range."""
_LEAST_DEVIATION = 1e-3


@torch.no_grad()
def warm_start(model: OneDVA, codec: OneVAE, sampler: CropSampler) -> float:
    """Start the linear path of a model.

    Args:
        model: The model, which is changed in place.
        codec: Its codec.
        sampler: The training videos.

    Returns:
        The share of the variance of the second token's codes, in later groups, that the tokens of a window keep with
        the linear path alone.
    """
    config = model.config
    rows, columns = config.window_rows * config.codec.stride[1], config.window_columns * config.codec.stride[2]
    frames = 2 * config.window_steps * config.codec.stride[0]
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for number in range(_CROPS):
        crop = sampler.batch(number, CropShape(1, frames, max(rows, columns))).to(codec.device)
        second = codec_latents(codec, crop).second.float()
        begin = 0
        for end in group_ends(second.shape[2], config.codec.layout.phases, config.window_steps):
            cut = cut_windows(second[:, :, begin:end].movedim(1, -1), config, margin=0)
            full = cut.shape[1] * cut.shape[2] * cut.shape[3] == model.linear.into[1 if begin else 0].shape[1]
            found[1 if begin else 0].extend([*_mirrored(cut)] if full else [])
            begin = end
    kept = 0.0
    for later, samples in enumerate(found):
        kept = _start(model, torch.cat(samples).flatten(1, 3), first=not later)
    return kept


def _mirrored(window: Tensor) -> tuple[Tensor, ...]:
    """Return windows `N T r c d` and their mirror images in space."""
    return window, window.flip(2), window.flip(3), window.flip(2, 3)


def _start(model: OneDVA, samples: Tensor, first: bool) -> float:
    """Start the directions from windows `N positions d`. Returns the share of their variance that is kept."""
    queries = model.config.queries
    into, back, kept, whole = [], [], 0.0, 0.0
    for digit, values in enumerate(samples.unbind(-1)):
        centred = values - values.mean(0)
        _, vectors = torch.linalg.eigh(centred.T @ centred / len(values))
        directions = vectors.flip(1)[:, :queries]
        projected = centred @ directions
        scale = projected.std(0).clamp_min(_LEAST_DEVIATION) / _SPREAD
        latents = torch.zeros(len(values), queries, samples.shape[-1], device=values.device)
        latents[..., digit] = values @ directions / scale
        codes = model.codes(latents)[..., digit]
        # The gain that turns the codes of each token back into projections with the least error.
        gain = (codes * projected).sum(0) / codes.square().sum(0).clamp_min(_LEAST_DEVIATION)
        into.append(directions / scale)
        back.append(directions * gain)
        error = centred - (codes * gain - (codes * gain).mean(0)) @ directions.T
        kept, whole = kept + float(error.square().sum()), whole + float(centred.square().sum())
    model.linear.start(first, torch.stack(into), torch.stack(back))
    return 1 - kept / whole
