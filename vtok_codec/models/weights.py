"""Reading and writing model weights as safetensors bytes, whose metadata carry the configuration of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

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

Config = TypeVar("Config", bound=ModelConfig)
Network = TypeVar("Network", bound=nn.Module)


def dump_weights(model: nn.Module, config: ModelConfig, metadata: Mapping[str, str]) -> bytes:
    """Serialize the weights of a model in fp16, or in fp32 where a value is too large for it.

    Args:
        model: The model.
        config: The model's configuration, which goes into the metadata so that later versions can rebuild the model.
        metadata: Further entries of the metadata.

    Returns:
        The bytes of a safetensors file.
    """
    tensors = {name: _halved(value).contiguous() for name, value in model.state_dict().items()}
    return dump_safetensors(tensors, {**metadata, CONFIG_KEY: config_to_json(config)})


def _halved(value: Tensor) -> Tensor:
    """Return a tensor in fp16, or as it is if that would make one of its values infinite."""
    half = value.half()
    return value if (half.isinf() & value.isfinite()).any() else half


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


@dataclass(frozen=True)
class Kind(Generic[Config, Network]):
    """A kind of model that a weights file can hold."""

    config: type[Config]
    """The class of its configurations."""
    network: Callable[[Config], Network]
    """Makes the network that a configuration describes."""
    refusal: Callable[[ModelConfig], str]
    """Says what is wrong with weights that have another configuration, as the end of a sentence about their file."""


CODEC = Kind(OneVAEConfig, OneVAE, not_a_codec)
DIFFUSION_DECODER = Kind(
    DenoiserConfig, Denoiser, lambda config: "is not a diffusion decoder; use the deterministic decoder"
)
SHARP_DECODER = Kind(SharpConfig, lambda config: Decoder(config.codec), lambda config: "is not a sharp decoder")
GENERATOR = Kind(GeneratorConfig, Generator, lambda config: "is not a generator")
LATENT_FLOW = Kind(LatentFlowConfig, LatentFlow, lambda config: "is not a latent flow")
ONE_DVA = Kind(OneDVAConfig, OneDVA, lambda config: "is not a One-DVA model")


class StoredWeights(Protocol):
    """What building a model needs of a weights file."""

    @property
    def path(self) -> Path:
        """Where the file lies, for messages."""
        ...

    @property
    def config(self) -> ModelConfig:
        """The configuration of the model."""
        ...

    @property
    def data(self) -> bytes:
        """The bytes of the file."""
        ...


def build(kind: Kind[Config, Network], weights: StoredWeights) -> Network:
    """Build a model from its weights, in fp32, on the CPU and in evaluation mode.

    Args:
        kind: The kind of model that is wanted.
        weights: The weights.

    Raises:
        ModelError: The weights are of another kind, or do not fit the configuration.
    """
    config, source = weights.config, str(weights.path)
    if not isinstance(config, kind.config):
        raise ModelError(f"{source} {kind.refusal(config)}")
    model = kind.network(config)
    tensors = {name: value.float() for name, value in parse_tensors(weights.data, source).items()}
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ModelError(f"{source} does not fit the model that its configuration describes: {reason}") from None
    return model.eval()
