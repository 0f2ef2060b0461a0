"""`vtok models`: the weights that are here."""

from __future__ import annotations

from vtok_codec.cli.common import reports_errors
from vtok_codec.registry import DEFAULT_MODEL, shipped_weights


@reports_errors
def models() -> None:
    """List the models that came with vtok."""
    for weights in shipped_weights():
        if "preset" not in weights.metadata:
            continue
        default = " (default)" if weights.name == DEFAULT_MODEL else ""
        if "objective" in weights.metadata:
            default = f" (--decoder {weights.metadata['objective']} for {weights.metadata['codec_sha256'][:12]})"
        size = len(weights.data) / 1e6
        print(f"{weights.name}{default}: {size:.1f} MB, weights {weights.sha256[:12]}, {weights.path}")
