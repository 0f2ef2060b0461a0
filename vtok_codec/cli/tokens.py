"""`vtok tokens`: the tokens of a `.vtk` file as an array."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vtok_codec.cli.common import Force, open_input, reports_errors, whole_output


@reports_errors
def tokens(
    source: Annotated[str, typer.Argument(help="A .vtk file.")],
    target: Annotated[str, typer.Argument(help="A .npy or .safetensors file.")],
    gop: Annotated[int | None, typer.Option(help="Only this GOP, counted from 0.")] = None,
    force: Force = False,
) -> None:
    """Export tokens as uint16 `t h w n`: latent frames, rows, columns, tokens a position.

    GOPs stand one after another, and are decoded one by one; a .safetensors file names their lengths as `gop_latents`,
    and what else `pack` needs to make the file again, all but its sound and varying times.
    """
    from vtok_codec.codec.arrayfile import check_suffix, write_array
    from vtok_codec.codec.tokenfile import read_gop, read_gops
    from vtok_codec.container.reader import VtkReader

    check_suffix(target)
    with whole_output(target, source, force) as partial:
        with open_input(source) as stream:
            reader = VtkReader(stream)
            gops = list(read_gops(reader)) if gop is None else [read_gop(reader, gop)]
        write_array(partial, Path(target).suffix, reader.header, gops)
