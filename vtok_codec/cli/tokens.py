"""`vtok tokens`: exports the tokens of a `.vtk` file as an array."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vtok_codec.cli.errors import notice, reports_errors
from vtok_codec.cli.files import open_input, whole_output
from vtok_codec.cli.options import INPUT, Force, WeightsOfInput
from vtok_codec.stream.limits import MAX_TOKEN_BYTES


@reports_errors
def tokens(
    source: Annotated[str, typer.Argument(help="A .vtk file. '-' is standard input.")],
    target: Annotated[str, typer.Argument(help="A .npy or .safetensors file.")],
    gop: Annotated[
        int | None, typer.Option(help="Export only this group of pictures, counted from 0.", rich_help_panel=INPUT)
    ] = None,
    max_mib: Annotated[
        int,
        typer.Option(help="Refuse to make an array that is larger than this many MiB.", min=1, rich_help_panel=INPUT),
    ] = MAX_TOKEN_BYTES >> 20,
    weights: WeightsOfInput = None,
    force: Force = False,
) -> None:
    """Export tokens as a uint16 array t h w n: latent frames, rows, columns, tokens per position.

    Groups of pictures (GOPs) follow each other along the first axis. A .safetensors file also stores their lengths and
    everything else that `vtok pack` needs to make the video again, apart from audio, tags, varying frame times and 1D
    tokens.
    """
    from vtok_codec.container.reader import VtkReader
    from vtok_codec.prior_files import priors_beside
    from vtok_codec.stream.arrays import check_suffix, write_tokens
    from vtok_codec.stream.reading import read_all_gops, read_gop

    check_suffix(target)
    with whole_output(target, source, force) as partial:
        with open_input(source) as stream:
            reader = VtkReader(stream)
            most, priors = max_mib << 20, priors_beside(weights)
            gops = read_all_gops(reader, priors, most) if gop is None else [read_gop(reader, gop, priors, most)]
        if reader.header.windows:
            notice(f"{source}: its 1D tokens are left out, since an array has tokens of positions only")
        write_tokens(partial, Path(target).suffix, reader.header, gops)
