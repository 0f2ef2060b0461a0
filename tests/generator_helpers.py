"""What the tests of generators share: a small generator with random weights, and its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from helpers import TINY

from vtok_codec.models.config import GeneratorConfig
from vtok_codec.models.generator import Generator
from vtok_codec.models.weights import dump_weights
from vtok_codec.registry import CODEC_SHA256, WeightsFile

ENHANCED = replace(TINY, enhanced_first_frame=True)
"""A codec whose first frame has four phases."""
SMALL = GeneratorConfig(ENHANCED, tokens=2, width=32, blocks=2, heads=2, reach=2)


def random_generator(config: GeneratorConfig = SMALL, seed: int = 0) -> Generator:
    """A generator whose every weight is random, so that every path counts."""
    model = Generator(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def generator_weights(folder: Path, codec: Path, classes: tuple[str, ...] = ()) -> Path:
    """The weights file of a small generator for the tokens of a codec, with two per position."""
    weights = WeightsFile(codec.stem, codec)
    config = replace(SMALL, codec=weights.codec_config, classes=classes)
    path = folder / "generator.safetensors"
    metadata = {"codec": weights.name, CODEC_SHA256: weights.sha256}
    path.write_bytes(dump_weights(random_generator(config), config, metadata))
    return path
