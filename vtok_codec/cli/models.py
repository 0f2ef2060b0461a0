"""`vtok models`: lists the shipped weights and the quality presets that use them."""

from __future__ import annotations

import json

from vtok_codec.cli.errors import reports_errors
from vtok_codec.cli.options import AsJson
from vtok_codec.codec.quality_presets import DEFAULT_QUALITY, QUALITIES
from vtok_codec.models.config import DenoiserConfig
from vtok_codec.registry import CODEC_SHA256, DEFAULT_MODEL, WeightsFile, shipped_weights
from vtok_codec.text import counted


@reports_errors
def models(as_json: AsJson = False) -> None:
    """List the shipped models, then the quality presets with the size and quality that each gave on held-out clips."""
    shipped = [weights for weights in shipped_weights() if weights.is_model]
    shipped.sort(key=lambda weights: weights.name != DEFAULT_MODEL)
    if as_json:
        qualities = {name: vars(quality) for name, quality in QUALITIES.items()}
        print(json.dumps({"models": list(map(_fields, shipped)), "qualities": qualities}, indent=1))
        return
    for weights in shipped:
        fields = _fields(weights)
        role = " (default)" if weights.name == DEFAULT_MODEL else ""
        if "decoder" in fields:
            role = f" (--decoder {fields['decoder']} for {str(fields['codec_sha256'])[:12]})"
        size = len(weights.data) / 1e6
        print(f"{weights.name}{role}: {size:.1f} MB, weights {weights.sha256[:12]}, {weights.path}")
    for name, quality in QUALITIES.items():
        default = " (default)" if name == DEFAULT_QUALITY else ""
        print(
            f"--quality {name}{default}: {quality.model}, "
            f"{counted(quality.tokens_per_position, 'token')} per position, "
            f"{quality.bits_per_pixel} bits per pixel at {quality.psnr_db} dB"
        )


def _fields(weights: WeightsFile) -> dict[str, object]:
    fields: dict[str, object] = {
        "name": weights.name,
        "path": str(weights.path),
        "bytes": len(weights.data),
        "sha256": weights.sha256,
    }
    if isinstance(weights.config, DenoiserConfig):
        fields |= {
            "decoder": weights.config.objective,
            "codec_sha256": weights.metadata.get(CODEC_SHA256, "unknown"),
        }
    return fields
