"""The shapes that new models can start with, by name. A weights file carries its own shape and needs no preset."""

from __future__ import annotations

from typing import TypeVar

from vtok_codec.layout import Stride
from vtok_codec.models.config import DDIM, FLOW, DenoiserConfig, Level, ModelConfig, OneDVAConfig, OneVAEConfig

ConfigT = TypeVar("ConfigT", OneVAEConfig, DenoiserConfig, OneDVAConfig)

FSQ_64000 = (8, 8, 8, 5, 5, 5)
"""The levels of an FSQ codebook of 64,000 entries, about 16 bits per token (VidTok, Cosmos, OneVAE)."""


def _nano(*deeper: Level) -> OneVAEConfig:
    """Make a small model: about 11 M parameters at 4×8×8, faster than real time at 256×256 on two CPU cores.

    Args:
        *deeper: The levels below the latent grid of 4×8×8, if any.
    """
    # The latent grid has most of the depth, unless a coarser level lies below it.
    encoder_blocks, decoder_blocks = (3, 4) if deeper else (6, 8)
    levels = (
        Level(factor=(2, 4, 4), channels=64, encoder_blocks=1, decoder_blocks=2),
        Level(factor=(2, 2, 2), channels=192, encoder_blocks=encoder_blocks, decoder_blocks=decoder_blocks),
    )
    return OneVAEConfig(levels + deeper, FSQ_64000, max_tokens=4, enhanced_first_frame=_is_coarse(deeper))


def _base(*deeper: Level) -> OneVAEConfig:
    """Make a model as large as those of the papers, for GPUs: about 75 M parameters at 4×8×8.

    Args:
        *deeper: The levels below the latent grid of 4×8×8, if any.
    """
    levels = (
        Level(factor=(2, 4, 4), channels=256, encoder_blocks=2, decoder_blocks=3),
        Level(factor=(2, 2, 2), channels=512, encoder_blocks=4, decoder_blocks=8),
    )
    return OneVAEConfig(levels + deeper, FSQ_64000, max_tokens=4, enhanced_first_frame=_is_coarse(deeper))


def _is_coarse(deeper: tuple[Level, ...]) -> bool:
    """Whether the latent grid is coarser than 8×8. Such a grid harms the first frame most (OneVAE, Fig. 4)."""
    return any(level.factor[1] > 1 for level in deeper)


_DEEPER: dict[str, Stride | None] = {"4x8x8": None, "8x8x8": (2, 1, 1), "4x16x16": (1, 2, 2), "8x16x16": (2, 2, 2)}
"""The further downsampling that leads from 4×8×8 to each stride, if any."""


def _nano_level(factor: Stride) -> Level:
    # The decoder is deep since it has more to reconstruct from fewer tokens (OneVAE, expanded decoder).
    return Level(factor, channels=256, encoder_blocks=4, decoder_blocks=8)


def _base_level(factor: Stride) -> Level:
    return Level(factor, channels=512, encoder_blocks=2, decoder_blocks=6)


_CODECS = {
    f"onevae-{size}-{stride}": make(*([level(factor)] if factor else []))
    for size, make, level in (("nano", _nano, _nano_level), ("base", _base, _base_level))
    for stride, factor in _DEEPER.items()
}

_DOWN_BLOCKS = {"nano": (2, 2), "base": (2, 4)}
"""The residual blocks of a diffusion decoder's down path at each level, by size."""

_DENOISERS = {
    f"{family}-{size}-4x8x8": DenoiserConfig(_CODECS[f"onevae-{size}-4x8x8"], objective, blocks)
    for family, objective in (("cdt", DDIM), ("flow", FLOW))
    for size, blocks in _DOWN_BLOCKS.items()
}

_ONEDVA = {
    "onedva-nano-4x16x16": OneDVAConfig(_CODECS["onevae-nano-4x16x16"], width=192, blocks=6, heads=4, queries=64),
    "onedva-base-4x16x16": OneDVAConfig(_CODECS["onevae-base-4x16x16"], width=1152, blocks=24, heads=16, queries=192),
}

PRESETS: dict[str, ModelConfig] = {**_CODECS, **_DENOISERS, **_ONEDVA}
"""All presets: codecs, the diffusion decoders of CDT (`cdt-…`) and One-DVA (`flow-…`), and One-DVA's transformers."""


def presets_of(kind: type[ConfigT]) -> dict[str, ConfigT]:
    """Return the presets of a kind of model by name; the kind is the class of their configurations."""
    return {name: config for name, config in PRESETS.items() if isinstance(config, kind)}
