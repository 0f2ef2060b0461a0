"""The cost of a model: its parameters and its multiply-accumulate operations per frame."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vtok_codec.models.denoiser import Denoiser
from vtok_codec.models.onedva import Group, OneDVA
from vtok_codec.models.onevae import RGB, OneVAE

_PICTURE = 256
"""The height and width in pixels of the frames for which operations are counted."""


@dataclass(frozen=True)
class Complexity:
    """The cost of one model."""

    parameters: int
    """The number of parameters."""
    encoder_gmac: float
    """10⁹ multiply-accumulates per frame of 256×256 pixels for encoding; 0 for a diffusion decoder. Those of One-DVA do
    not include its codec's."""
    decoder_gmac: float
    """10⁹ multiply-accumulates per frame of 256×256 pixels for decoding, or for one step of a diffusion decoder."""

    def __str__(self) -> str:
        encoding = f"{self.encoder_gmac:.2f} GMAC to encode and " if self.encoder_gmac else ""
        return (
            f"{self.parameters / 1e6:.1f} M parameters, {encoding}"
            f"{self.decoder_gmac:.2f} GMAC to decode a frame of {_PICTURE}x{_PICTURE}"
        )


@torch.inference_mode()
def complexity(model: OneVAE | Denoiser | OneDVA) -> Complexity:
    """Count the parameters and operations of a model, from tensor shapes alone and without computing anything."""
    if isinstance(model, Denoiser):
        return _denoising(model)
    if isinstance(model, OneDVA):
        return _transforming(model)
    shadow = copy.deepcopy(model).float().to("meta")
    frames = 4 * model.config.stride[0]
    video = torch.empty(1, RGB, frames, _PICTURE, _PICTURE, device="meta")
    with FlopCounterMode(display=False) as encoding:
        latents, _ = shadow.encoder(video, None)
    with FlopCounterMode(display=False) as decoding:
        shadow.decoder(latents, None)
    encode, decode = (counter.get_total_flops() / 2e9 / frames for counter in (encoding, decoding))
    return Complexity(sum(parameter.numel() for parameter in model.parameters()), encode, decode)


def _denoising(model: Denoiser) -> Complexity:
    shadow = copy.deepcopy(model).float().to("meta")
    codec = model.config.codec
    frames, height, width = (4 * codec.stride[0], _PICTURE, _PICTURE)
    grid = (4, height // codec.stride[1], width // codec.stride[2])
    codes = torch.empty(1, codec.latent_channels, *grid, device="meta")
    noise = torch.empty(1, RGB, frames, height, width, device="meta")
    with FlopCounterMode(display=False) as decoding:
        condition, _ = shadow.condition(codes, None, torch.ones(1, dtype=torch.long, device="meta"))
        shadow(noise, None, torch.ones(1, device="meta"), condition)
    return Complexity(
        sum(parameter.numel() for parameter in model.parameters()), 0.0, decoding.get_total_flops() / 2e9 / frames
    )


def _transforming(model: OneDVA) -> Complexity:
    config = model.config
    codec, steps = config.codec, config.window_steps
    # The linear algebra of attention is counted as it is computed, which needs real tensors.
    shadow = copy.deepcopy(model).float().cpu()
    grid = (steps, _PICTURE // codec.stride[1], _PICTURE // codec.stride[2])
    group = Group(False, torch.zeros(1, 2 * codec.token_channels, *grid[1:]))
    structural = torch.zeros(1, codec.token_channels, *grid)
    # The fused kernel of attention is not counted.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as encoding:
        tokens = shadow.codes(shadow.encode(torch.zeros(1, codec.latent_channels, *grid), structural, group))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as decoding:
        shadow.decode(structural, tokens, torch.full((len(tokens),), config.queries), group)
    frames = steps * codec.stride[0]
    encode, decode = (counter.get_total_flops() / 2e9 / frames for counter in (encoding, decoding))
    return Complexity(sum(parameter.numel() for parameter in model.parameters()), encode, decode)
