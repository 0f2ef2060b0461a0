"""The models by name. A preset is data: another shape of network is another entry here."""

from __future__ import annotations

from vtok_codec.models.onevae import Level, OneVAEConfig

FSQ_64000 = (8, 8, 8, 5, 5, 5)
"""64,000 codes, about 16 bits a token (VidTok, Cosmos, OneVAE)."""

PRESETS = {
    # About 6 M parameters; encodes and decodes 256×256 faster than real time on two CPU cores.
    "onevae-nano-4x8x8": OneVAEConfig(
        levels=(
            Level(factor=(2, 4, 4), channels=64, encoder_blocks=1, decoder_blocks=2),
            Level(factor=(2, 2, 2), channels=192, encoder_blocks=3, decoder_blocks=4),
        ),
        fsq_levels=FSQ_64000,
        max_tokens=4,
    ),
}
