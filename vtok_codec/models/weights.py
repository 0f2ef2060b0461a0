"""Model weights as safetensors bytes, with what is needed to rebuild the model in their metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as dump_safetensors
from torch import Tensor, nn

from vtok_codec.errors import ModelError
from vtok_codec.models.denoiser import Denoiser
from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.presets import DENOISERS, PRESETS

Model = TypeVar("Model", bound=nn.Module)


def dump_weights(model: nn.Module, preset: str, metadata: Mapping[str, str]) -> bytes:
    """The model's weights in fp16, ready to be written to a file."""
    tensors = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    return dump_safetensors(tensors, {"preset": preset, **metadata})


def parse_tensors(data: bytes, source: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file. `source` names it in errors.

    Raises:
        ModelError: the bytes are no safetensors file, or hold a value that is not finite.
    """
    try:
        tensors = parse_safetensors(data)
    except SafetensorError as error:
        raise ModelError(f"{source} is not a readable safetensors file: {error}") from error
    for name, value in tensors.items():
        if not torch.isfinite(value.float()).all():
            raise ModelError(f"{source}: tensor {name} holds values that are not finite")
    return tensors


def build_model(preset: str, data: bytes, source: str) -> OneVAE:
    """The model of a preset with the weights in `data`, fp32, on the CPU, in evaluation mode.

    Raises:
        ModelError: the preset is unknown, or the weights do not fit it.
    """
    if preset in DENOISERS:
        raise ModelError(f"{source} is a diffusion decoder, which has no encoder; name it as the decoder")
    if preset not in PRESETS:
        raise _unknown(preset, source)
    return _loaded(OneVAE(PRESETS[preset]), preset, data, source)


def build_denoiser(preset: str, data: bytes, source: str) -> Denoiser:
    """The same for a diffusion decoder.

    Raises:
        ModelError: the preset is unknown, or the weights do not fit it.
    """
    if preset in PRESETS:
        raise ModelError(f"{source} is no diffusion decoder; use the deterministic decoder")
    if preset not in DENOISERS:
        raise _unknown(preset, source)
    return _loaded(Denoiser(DENOISERS[preset]), preset, data, source)


def _unknown(preset: str, source: str) -> ModelError:
    return ModelError(f"{source} is for the preset {preset!r}, which this version does not know")


def _loaded(model: Model, preset: str, data: bytes, source: str) -> Model:
    tensors = {name: value.float() for name, value in parse_tensors(data, source).items()}
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelError(
            f"{source} does not fit the preset {preset!r}: {str(error).splitlines()[-1].strip()}"
        ) from None
    return model.eval()
