"""`vtok pack`: an array of tokens as a `.vtk` file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from vtok_codec.cli.common import STANDARD_STREAM, Force, reports_errors, vtk_output
from vtok_codec.errors import InputError
from vtok_codec.registry import DEFAULT_MODEL


@reports_errors
def pack(
    source: Annotated[str, typer.Argument(help="A .npy or .safetensors file of tokens, t h w n.")],
    target: Annotated[str, typer.Argument(help="A .vtk file; '-' is standard output.")],
    rate: Annotated[
        str | None, typer.Option(help="Frames a second, 30000/1001 or so; by default what the file says, or else 25.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The model whose tokens they are; by default the file's.")
    ] = None,
    force: Force = False,
) -> None:
    """Make a .vtk file of tokens, such as `tokens` exports or a video model makes, for `decode` to show.

    A .safetensors file from `tokens` says of itself which model, size, rate and GOPs they have; any other array is one
    GOP, of which nothing is cropped.
    """
    if source == STANDARD_STREAM:
        raise InputError("an array cannot be read from standard input; name a .npy or .safetensors file")
    from vtok_codec.codec.arrayfile import as_rate, read_array
    from vtok_codec.codec.assembler import assemble, whole_gop, whole_size
    from vtok_codec.codec.tokenizer import check_same_weights, load_tokenizer
    from vtok_codec.registry import find_shipped, find_weights

    ticks = as_rate(rate) if rate else None
    array = read_array(Path(source))
    # What a file names must never become a path.
    weights = find_weights(model) if model else find_shipped(array.about.get("model", DEFAULT_MODEL))
    check_same_weights(weights, weights.name, array.about.get("weights_sha256", weights.sha256))
    tokenizer = load_tokenizer(weights, "cpu")
    gops = [whole_gop(tokens, tokenizer, frames) for tokens, frames in array.gops()]
    info = array.info(whole_size(array.tokens, tokenizer.id))
    if ticks:
        info = dataclasses.replace(info, rate=ticks, time_base=1 / ticks)
    with vtk_output(target, source, force) as stream:
        assemble(gops, tokenizer, info, stream)
