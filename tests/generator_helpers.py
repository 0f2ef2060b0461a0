"""What the tests of generators share: a small generator and a latent flow with random weights, and their files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from helpers import TINY
from torch import nn

from vtok_codec.models.config import GeneratorConfig, LatentFlowConfig
from vtok_codec.models.generator import Generator
from vtok_codec.models.latent_flow import LatentFlow
from vtok_codec.models.weights import dump_weights
from vtok_codec.weights_file import CODEC_SHA256, WeightsFile

ENHANCED = replace(TINY, enhanced_first_frame=True)
"""A codec whose first frame has four phases."""
SMALL = GeneratorConfig(ENHANCED, tokens=2, width=32, blocks=2, heads=2, reach=2)

SMALL_FLOW = LatentFlowConfig(ENHANCED, tokens=2, width=32, blocks=2, heads=2, reach=2)


def random_generator(config: GeneratorConfig = SMALL, seed: int = 0) -> Generator:
    """A generator whose every weight is random, so that every path counts."""
    model = Generator(config).eval()
    _randomize(model, seed)
    return model


def random_flow(config: LatentFlowConfig = SMALL_FLOW, seed: int = 0) -> LatentFlow:
    """A latent flow whose every weight is random."""
    model = LatentFlow(config).eval()
    _randomize(model, seed)
    model.mean.fill_(0.1)
    model.deviation.fill_(0.5)
    return model


def _randomize(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def generator_weights(folder: Path, codec: Path, classes: tuple[str, ...] = ()) -> Path:
    """The weights file of a small generator for the tokens of a codec, with two per position."""
    weights = WeightsFile(codec.stem, codec)
    config = replace(SMALL, codec=weights.codec_config, classes=classes)
    path = folder / "generator.safetensors"
    metadata = {"codec": weights.name, CODEC_SHA256: weights.sha256}
    path.write_bytes(dump_weights(random_generator(config), config, metadata))
    return path


def flow_weights(folder: Path, codec: Path) -> Path:
    """The weights file of a small latent flow for a codec, with the channels of two tokens."""
    weights = WeightsFile(codec.stem, codec)
    config = replace(SMALL_FLOW, codec=weights.codec_config)
    path = folder / "flow.safetensors"
    metadata = {"codec": weights.name, CODEC_SHA256: weights.sha256}
    path.write_bytes(dump_weights(random_flow(config), config, metadata))
    return path
