"""The models by name. A preset is data: another shape of network is another entry here."""

from __future__ import annotations

from vtok_codec.models.causal import Factor
from vtok_codec.models.denoiser import DenoiserConfig
from vtok_codec.models.onevae import Level, OneVAEConfig

FSQ_64000 = (8, 8, 8, 5, 5, 5)
"""64,000 codes, about 16 bits a token (VidTok, Cosmos, OneVAE)."""


def _nano(*deeper: Level) -> OneVAEConfig:
    """About 11 M parameters at 4×8×8; encodes and decodes 256×256 faster than real time on two CPU cores."""
    # Where nothing lies below it, the latent grid has the depth.
    encoder_blocks, decoder_blocks = (3, 4) if deeper else (6, 8)
    levels = (
        Level(factor=(2, 4, 4), channels=64, encoder_blocks=1, decoder_blocks=2),
        Level(factor=(2, 2, 2), channels=192, encoder_blocks=encoder_blocks, decoder_blocks=decoder_blocks),
    )
    return OneVAEConfig(levels + deeper, FSQ_64000, max_tokens=4, enhanced_first_frame=_is_coarse(deeper))


def _base(*deeper: Level) -> OneVAEConfig:
    """The papers' scale, about 75 M parameters at 4×8×8: for GPUs, and whoever has them to train it."""
    levels = (
        Level(factor=(2, 4, 4), channels=256, encoder_blocks=2, decoder_blocks=3),
        Level(factor=(2, 2, 2), channels=512, encoder_blocks=4, decoder_blocks=8),
    )
    return OneVAEConfig(levels + deeper, FSQ_64000, max_tokens=4, enhanced_first_frame=_is_coarse(deeper))


def _is_coarse(deeper: tuple[Level, ...]) -> bool:
    """Whether the grid is coarser than 8×8: there the first frame is what suffers most (OneVAE, Fig. 4)."""
    return any(level.factor[1] > 1 for level in deeper)


_DEEPER: dict[str, Factor | None] = {"4x8x8": None, "8x8x8": (2, 1, 1), "4x16x16": (1, 2, 2), "8x16x16": (2, 2, 2)}
"""What the stride of each preset has below 4×8×8."""


def _nano_level(factor: Factor) -> Level:
    # The fewer tokens, the more the decoder has to make of them (OneVAE, expanded decoder).
    return Level(factor, channels=256, encoder_blocks=4, decoder_blocks=8)


def _base_level(factor: Factor) -> Level:
    return Level(factor, channels=512, encoder_blocks=2, decoder_blocks=6)


PRESETS = {
    f"onevae-{size}-{stride}": make(*([level(factor)] if factor else []))
    for size, make, level in (("nano", _nano, _nano_level), ("base", _base, _base_level))
    for stride, factor in _DEEPER.items()
}

_DOWN_BLOCKS = {"nano": (2, 2), "base": (2, 4)}
"""Of the diffusion decoders."""

DENOISERS = {
    f"{family}-{size}-4x8x8": DenoiserConfig(PRESETS[f"onevae-{size}-4x8x8"], objective, blocks)
    for family, objective in (("cdt", "ddim"), ("flow", "flow"))
    for size, blocks in _DOWN_BLOCKS.items()
}
"""Diffusion decoders by name: CDT's, and One-DVA's flow."""
