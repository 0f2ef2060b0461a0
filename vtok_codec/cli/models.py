"""`vtok models`: the weights that are here, and the qualities that use them."""

from __future__ import annotations

from vtok_codec.cli.common import counted, reports_errors
from vtok_codec.codec.quality import DEFAULT_QUALITY, QUALITIES
from vtok_codec.registry import DEFAULT_MODEL, shipped_weights


@reports_errors
def models() -> None:
    """List the models that came with vtok, the default first, and the qualities that encode with them."""
    for weights in sorted(shipped_weights(), key=lambda weights: weights.name != DEFAULT_MODEL):
        if "preset" not in weights.metadata:
            continue
        role = " (default)" if weights.name == DEFAULT_MODEL else ""
        if objective := weights.metadata.get("objective"):
            role = f" (--decoder {objective} for {weights.metadata.get('codec_sha256', 'unknown')[:12]})"
        size = len(weights.data) / 1e6
        print(f"{weights.name}{role}: {size:.1f} MB, weights {weights.sha256[:12]}, {weights.path}")
    for name, quality in QUALITIES.items():
        default = " (default)" if name == DEFAULT_QUALITY else ""
        print(
            f"--quality {name}{default}: {quality.model}, {counted(quality.tokens, 'token')}, "
            f"{quality.bits_per_pixel} bits a pixel at {quality.psnr_db} dB"
        )
