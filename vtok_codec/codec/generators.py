"""Loads generators of either kind: those that predict tokens, and latent flows."""

from __future__ import annotations

from pathlib import Path

from vtok_codec.codec.generation import TokenGenerator
from vtok_codec.codec.latent_generation import LatentGenerator
from vtok_codec.models.config import LatentFlowConfig
from vtok_codec.registry import find_generator


def load_generator(
    name: str | Path | None = None, device: str = "auto", codec_hashes: frozenset[str] | None = None
) -> TokenGenerator | LatentGenerator:
    """Load a generator.

    Args:
        name: The name of shipped weights, or the path of a weights file or of a training run's folder; None for the
            first shipped generator, if there is one.
        device: `auto`, `cpu` or `cuda`.
        codec_hashes: The hashes of the codec weights whose tokens it must draw (`WeightsFile.reads`); None for any.

    Returns:
        A `TokenGenerator` or a `LatentGenerator`.

    Raises:
        ModelError: There is none, or it draws the tokens of other weights.
        SettingError: The device cannot be used.
    """
    weights = find_generator(name, codec_hashes)
    kind = LatentGenerator if isinstance(weights.config, LatentFlowConfig) else TokenGenerator
    return kind(weights, device)
