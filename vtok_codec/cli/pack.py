"""`vtok pack`: makes a `.vtk` file from an array of tokens."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from vtok_codec.cli.errors import notice, reports_errors
from vtok_codec.cli.files import STANDARD_STREAM, vtk_output
from vtok_codec.cli.options import MODEL, PICTURE, Force
from vtok_codec.errors import InputError
from vtok_codec.text import counted


@reports_errors
def pack(
    source: Annotated[str, typer.Argument(help="A .npy or .safetensors file of tokens t h w n.")],
    target: Annotated[str, typer.Argument(help="A .vtk file. '-' is standard output.")],
    rate: Annotated[
        str | None,
        typer.Option(
            help="Frames per second, such as 30 or 30000/1001; by default the input's, or else 25.",
            rich_help_panel=PICTURE,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="The model whose tokens they are; by default the input's.", rich_help_panel=MODEL
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Make a .vtk file from tokens: an array that `vtok tokens` exported, or one that a video model generated.

    A .safetensors file from `vtok tokens` names its model, size, frame rate and groups of pictures. Any other array is
    taken as one group of pictures, without cropping.
    """
    if source == STANDARD_STREAM:
        raise InputError("an array cannot be read from standard input; name a .npy or .safetensors file")

    from vtok_codec.prior_files import prior_of
    from vtok_codec.registry import weights_of_array
    from vtok_codec.stream.arrays import as_rate, read_array
    from vtok_codec.stream.assembling import TokenModel, assemble

    ticks = as_rate(rate) if rate else None
    array = read_array(Path(source))
    weights = weights_of_array(array.about, model)
    token_model = TokenModel(weights.id, weights.codec_config.max_tokens, prior_of(weights))
    gops = [token_model.gop(tokens, frames) for tokens, frames in array.gops()]
    info = array.info(token_model.picture(array.array))
    if ticks:
        info = dataclasses.replace(info, rate=ticks, time_base=1 / ticks)
    if not array.about:
        guess = f"{counted(gops[0].frames, 'frame')} of {info.width}x{info.height}"
        notice(f"{source} says nothing of its video; taken as one group of pictures of {weights.name}, {guess}")
    with vtk_output(target, source, force) as stream:
        assemble(gops, token_model, info, stream)
