"""`vtok tokens`: the tokens of a `.vtk` file as an array."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vtok_codec.cli.common import Force, open_input, reports_errors, whole_output
from vtok_codec.errors import OutputError

if TYPE_CHECKING:
    from vtok_codec.container.header import Header


@reports_errors
def tokens(
    source: Annotated[str, typer.Argument(help="A .vtk file.")],
    target: Annotated[str, typer.Argument(help="A .npy or .safetensors file.")],
    gop: Annotated[int | None, typer.Option(help="Only this GOP, counted from 0.")] = None,
    force: Force = False,
) -> None:
    """Export tokens as uint16 `t h w n`: latent frames, rows, columns, tokens a position.

    GOPs stand one after another, and are decoded one by one; a .safetensors file names their lengths as `gop_latents`.
    """
    import numpy as np

    from vtok_codec.codec.tokenfile import read_gop, read_gops
    from vtok_codec.container.reader import VtkReader

    suffix = Path(target).suffix
    if suffix not in (".npy", ".safetensors"):
        raise OutputError(f"{target}: use a .npy or .safetensors file")
    with whole_output(target, source, force) as partial:
        with open_input(source) as stream:
            reader = VtkReader(stream)
            gops = list(read_gops(reader)) if gop is None else [read_gop(reader, gop)]
        array = np.concatenate(gops)
        if suffix == ".npy":
            with open(partial, "wb") as file:
                np.save(file, array)
        else:
            from safetensors.numpy import save

            partial.write_bytes(save({"tokens": array}, _about(reader.header, [len(tokens) for tokens in gops])))


def _about(header: Header, gop_latents: list[int]) -> dict[str, str]:
    """What it takes to make frames of the tokens again, GOP by GOP."""
    return {
        "model": header.model.name,
        "weights_sha256": header.model.weights_sha256,
        "size": f"{header.height} {header.width}",
        "gop_latents": " ".join(map(str, gop_latents)),
    }
