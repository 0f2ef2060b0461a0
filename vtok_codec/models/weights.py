"""Reading and writing model weights as safetensors bytes, whose metadata carry the configuration of the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as dump_safetensors
from torch import Tensor, nn

from vtok_codec.errors import ModelError
from vtok_codec.models.config import (
    CONFIG_KEY,
    DenoiserConfig,
    GeneratorConfig,
    LatentFlowConfig,
    ModelConfig,
    OneDVAConfig,
    OneVAEConfig,
    SharpConfig,
    config_to_json,
    not_a_codec,
)
from vtok_codec.models.denoiser import Denoiser
from vtok_codec.models.generator import Generator
from vtok_codec.models.latent_flow import LatentFlow
from vtok_codec.models.onedva import OneDVA
from vtok_codec.models.onevae import Decoder, OneVAE

Model = TypeVar("Model", bound=nn.Module)


def dump_weights(model: nn.Module, config: ModelConfig, metadata: Mapping[str, str]) -> bytes:
    """Serialize the weights of a model in fp16.

    Args:
        model: The model.
        config: The model's configuration, which goes into the metadata so that later versions can rebuild the model.
        metadata: Further entries of the metadata.

    Returns:
        The bytes of a safetensors file.
    """
    tensors = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    return dump_safetensors(tensors, {**metadata, CONFIG_KEY: config_to_json(config)})


def parse_tensors(data: bytes, source: str) -> dict[str, Tensor]:
    """Parse the tensors of a safetensors file.

    Args:
        data: The bytes of the file.
        source: The name of the file in error messages.

    Returns:
        The tensors by name.

    Raises:
        ModelError: The bytes are not a safetensors file, or a value is not finite.
    """
    try:
        tensors = parse_safetensors(data)
    except SafetensorError as error:
        raise ModelError(f"{source} is not a readable safetensors file: {error}") from error
    for name, value in tensors.items():
        if not torch.isfinite(value.float()).all():
            raise ModelError(f"{source}: tensor {name} holds values that are not finite")
    return tensors


def build_model(config: ModelConfig, data: bytes, source: str) -> OneVAE:
    """Build a codec model with the weights in `data`, in fp32, on the CPU and in evaluation mode.

    Args:
        config: The configuration of the weights (`WeightsFile.config`).
        data: The bytes of the weights file.
        source: The name of the file in error messages.

    Raises:
        ModelError: The weights are not those of a codec, or do not fit the configuration.
    """
    if not isinstance(config, OneVAEConfig):
        raise ModelError(f"{source} {not_a_codec(config)}")
    return _loaded(OneVAE(config), data, source)


def build_denoiser(config: ModelConfig, data: bytes, source: str) -> Denoiser:
    """Build a diffusion decoder with the weights in `data`, in fp32, on the CPU and in evaluation mode.

    Args:
        config: The configuration of the weights (`WeightsFile.config`).
        data: The bytes of the weights file.
        source: The name of the file in error messages.

    Raises:
        ModelError: The weights are not those of a diffusion decoder, or do not fit the configuration.
    """
    if not isinstance(config, DenoiserConfig):
        raise ModelError(f"{source} is not a diffusion decoder; use the deterministic decoder")
    return _loaded(Denoiser(config), data, source)


def build_decoder(config: ModelConfig, data: bytes, source: str) -> Decoder:
    """Build a sharp decoder with the weights in `data`, in fp32, on the CPU and in evaluation mode.

    Args:
        config: The configuration of the weights (`WeightsFile.config`).
        data: The bytes of the weights file.
        source: The name of the file in error messages.

    Raises:
        ModelError: The weights are not those of a sharp decoder, or do not fit the configuration.
    """
    if not isinstance(config, SharpConfig):
        raise ModelError(f"{source} is not a sharp decoder")
    return _loaded(Decoder(config.codec), data, source)


def build_generator(config: ModelConfig, data: bytes, source: str) -> Generator:
    """Build the generator that a weights file holds.

    Args:
        config: The configuration of the model.
        data: The bytes of the weights file.
        source: The name of the file in error messages.

    Raises:
        ModelError: The weights are not those of a generator, or do not fit the configuration.
    """
    if not isinstance(config, GeneratorConfig):
        raise ModelError(f"{source} is not a generator")
    return _loaded(Generator(config), data, source)


def build_latent_flow(config: ModelConfig, data: bytes, source: str) -> LatentFlow:
    """Build the latent flow that a weights file holds.

    Args:
        config: The configuration of the model.
        data: The bytes of the weights file.
        source: The name of the file in error messages.

    Raises:
        ModelError: The weights are not those of a latent flow, or do not fit the configuration.
    """
    if not isinstance(config, LatentFlowConfig):
        raise ModelError(f"{source} is not a latent flow")
    return _loaded(LatentFlow(config), data, source)


def build_onedva(config: ModelConfig, data: bytes, source: str) -> OneDVA:
    """Build One-DVA's transformers with the weights in `data`, in fp32, on the CPU and in evaluation mode.

    Args:
        config: The configuration of the weights (`WeightsFile.config`).
        data: The bytes of the weights file.
        source: The name of the file in error messages.

    Raises:
        ModelError: The weights are not those of One-DVA, or do not fit the configuration.
    """
    if not isinstance(config, OneDVAConfig):
        raise ModelError(f"{source} is not a One-DVA model")
    return _loaded(OneDVA(config), data, source)


def _loaded(model: Model, data: bytes, source: str) -> Model:
    tensors = {name: value.float() for name, value in parse_tensors(data, source).items()}
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ModelError(f"{source} does not fit the model that its configuration describes: {reason}") from None
    return model.eval()
