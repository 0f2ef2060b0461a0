"""`vtok tokens`: the tokens of a `.vtk` file as an array."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vtok_codec.cli.common import Force, open_input, reports_errors, whole_output
from vtok_codec.errors import OutputError


@reports_errors
def tokens(
    source: Annotated[str, typer.Argument(help="A .vtk file.")],
    target: Annotated[str, typer.Argument(help="A .npy or .safetensors file.")],
    gop: Annotated[int | None, typer.Option(help="Only this GOP, counted from 0.")] = None,
    force: Force = False,
) -> None:
    """Export tokens as uint16 `t h w n`: latent frames, rows, columns, tokens a position."""
    import numpy as np

    from vtok_codec.codec.tokenfile import read_tokens

    suffix = Path(target).suffix
    if suffix not in (".npy", ".safetensors"):
        raise OutputError(f"{target}: use a .npy or .safetensors file")
    with whole_output(target, source, force) as partial:
        with open_input(source) as stream:
            array = read_tokens(stream, gop)
        if suffix == ".npy":
            with open(partial, "wb") as file:
                np.save(file, array)
        else:
            from safetensors.numpy import save

            partial.write_bytes(save({"tokens": array}))
