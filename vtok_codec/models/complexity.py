"""What a model costs: parameters, and multiplications a frame."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from vtok_codec.models.onevae import RGB, OneVAE

_PICTURE = 256


@dataclass(frozen=True)
class Complexity:
    """Of one model."""

    parameters: int
    encoder_gmac: float
    """10⁹ multiply-accumulates a frame of 256×256."""
    decoder_gmac: float

    def __str__(self) -> str:
        return (
            f"{self.parameters / 1e6:.1f} M parameters, {self.encoder_gmac:.2f} GMAC to encode and "
            f"{self.decoder_gmac:.2f} GMAC to decode a frame of {_PICTURE}x{_PICTURE}"
        )


@torch.inference_mode()
def complexity(model: OneVAE) -> Complexity:
    """Counted on shapes alone, without computing anything."""
    shadow = copy.deepcopy(model).to("meta")
    frames = 4 * model.config.stride[0]
    video = torch.empty(1, RGB, frames, _PICTURE, _PICTURE, device="meta")
    with FlopCounterMode(display=False) as encoding:
        latents, _ = shadow.encoder(video, None)
    with FlopCounterMode(display=False) as decoding:
        shadow.decoder(latents, None)
    encode, decode = (counter.get_total_flops() / 2e9 / frames for counter in (encoding, decoding))
    return Complexity(sum(parameter.numel() for parameter in model.parameters()), encode, decode)
