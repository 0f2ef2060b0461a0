"""Makes a sharp decoder from a run that trained a codec's decoder alone, such as one of stage `adversarial`.

    .venv/bin/python bench/sharp.py RUN CODEC OUT.safetensors

CODEC is the codec whose tokens the run went on with. The file holds the decoder only.
"""

from __future__ import annotations

import sys
from pathlib import Path

from vtok_codec.models.config import SharpConfig
from vtok_codec.models.weights import CODEC, build, dump_weights
from vtok_codec.registry import find_weights
from vtok_codec.weights_file import CODEC_SHA256


def main() -> None:
    """Write the decoder of a run that the command line names."""
    run, codec, out = sys.argv[1:]
    write_decoder(run, codec, Path(out))


def write_decoder(run: str | Path, codec: str | Path, out: Path) -> None:
    """Write the decoder of a run to a file of its own.

    Args:
        run: The run's folder, or a weights file.
        codec: The codec whose tokens it went on with.
        out: The file.

    Raises:
        SystemExit: The run decodes other tokens.
    """
    trained, base = find_weights(run), find_weights(codec)
    if base.sha256 not in trained.reads:
        raise SystemExit(f"{run} does not decode the tokens of {codec}")
    model = build(CODEC, trained)
    metadata = {"codec": base.name, CODEC_SHA256: base.sha256}
    out.write_bytes(dump_weights(model.decoder, SharpConfig(model.config), metadata))


if __name__ == "__main__":
    main()
