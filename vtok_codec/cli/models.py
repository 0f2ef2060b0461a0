"""`vtok models`: the weights that are here."""

from __future__ import annotations

from vtok_codec.cli.common import reports_errors
from vtok_codec.registry import DEFAULT_MODEL, shipped_weights


@reports_errors
def models() -> None:
    """List the models that came with vtok, the default first."""
    for weights in sorted(shipped_weights(), key=lambda weights: weights.name != DEFAULT_MODEL):
        if "preset" not in weights.metadata:
            continue
        role = " (default)" if weights.name == DEFAULT_MODEL else ""
        if objective := weights.metadata.get("objective"):
            role = f" (--decoder {objective} for {weights.metadata.get('codec_sha256', 'unknown')[:12]})"
        size = len(weights.data) / 1e6
        print(f"{weights.name}{role}: {size:.1f} MB, weights {weights.sha256[:12]}, {weights.path}")
