"""`vtok latents`: the continuous latents of a video as an array, and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from vtok_codec.cli.errors import notice, reports_errors
from vtok_codec.cli.files import STANDARD_STREAM, require_pixels, whole_output
from vtok_codec.cli.jobs import frame_bar
from vtok_codec.cli.options import (
    DEFAULT_MAX_PIXELS,
    INPUT,
    MODEL,
    OUTPUT,
    PICTURE,
    Device,
    Filters,
    Force,
    MaxPixels,
    Quiet,
    given_options,
)
from vtok_codec.container import is_vtk_name
from vtok_codec.errors import InputError
from vtok_codec.registry import DEFAULT_MODEL
from vtok_codec.stream.limits import MAX_TOKEN_BYTES

_FOR_MAKING = {"tokens", "gop", "half", "filters", "max_mib"}
"""The options that only make latents."""


@reports_errors
def latents(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="A video or image, or latents: a .npy or .safetensors file.")],
    target: Annotated[str, typer.Argument(help="A .npy or .safetensors file; for latents, a video.")],
    tokens: Annotated[
        int | None,
        typer.Option(
            "--tokens",
            "-t",
            help="Keep the channels of the first tokens; by default all.",
            rich_help_panel=PICTURE,
        ),
    ] = None,
    gop: Annotated[
        float, typer.Option(help="Length in seconds of a group of pictures.", min=0.01, rich_help_panel=PICTURE)
    ] = 4.0,
    half: Annotated[
        bool, typer.Option("--half", help="Store float16 instead of float32.", rich_help_panel=OUTPUT)
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="A shipped model, weights file or run folder; by default the default model, or the one that made "
            "the latents.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    filters: Filters = "",
    max_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    max_mib: Annotated[
        int,
        typer.Option(help="Refuse to make an array that is larger than this many MiB.", min=1, rich_help_panel=INPUT),
    ] = MAX_TOKEN_BYTES >> 20,
    device: Device = "auto",
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Export a video's continuous latents (C t h w), which are its tokens before rounding, or decode them to a video.

    They are what a diffusion model on latents trains on. Groups of pictures (GOPs) follow each other along the second
    axis; a .safetensors file also stores their lengths, the model, the size and the frame rate, so that it decodes to
    the whole video, apart from audio, tags and varying frame times. A .npy file is taken as one GOP of 25 frames per
    second.
    """
    from vtok_codec.stream.arrays import SUFFIXES, check_suffix

    if source == STANDARD_STREAM:
        raise InputError("latents are made of files only; name a video")
    if is_vtk_name(source):
        raise InputError(f"{source} holds tokens; latents are made of a video")
    if Path(source).suffix in SUFFIXES:
        if _FOR_MAKING & set(given_options(context)):
            raise typer.BadParameter(
                "--tokens, --gop, --half, --filter and --max-mib are for making latents, not for decoding them"
            )
        _decode(source, target, model, device, max_pixels, force, quiet)
        return
    check_suffix(target)
    settings = _Encoding(tokens, gop, half, filters, max_pixels, max_mib)
    _encode(source, target, settings, model or DEFAULT_MODEL, device, force, quiet)


@dataclass(frozen=True)
class _Encoding:
    """What to make of a video."""

    tokens: int | None
    gop_s: float
    half: bool
    filters: str
    max_pixels: int
    max_mib: int


def _encode(source: str, target: str, wanted: _Encoding, model: str, device: str, force: bool, quiet: bool) -> None:
    """Export the latents of a video."""
    import numpy as np

    from vtok_codec.codec.latents import encoded_latents
    from vtok_codec.codec.tokenizer import load_tokenizer
    from vtok_codec.media.reader import VideoReader
    from vtok_codec.registry import find_weights
    from vtok_codec.stream.arrays import write_latents
    from vtok_codec.stream.settings import EncodeSettings

    tokenizer = load_tokenizer(find_weights(model), device)
    tokens = tokenizer.max_tokens if wanted.tokens is None else wanted.tokens
    settings = EncodeSettings(tokens_per_position=tokens, gop_seconds=wanted.gop_s)
    kind = np.float16 if wanted.half else np.float32
    with (
        whole_output(target, source, force) as partial,
        VideoReader(source, audio=False, filters=wanted.filters) as reader,
    ):
        info = reader.info
        for loss in reader.losses if not quiet else ():
            notice(f"{reader.name}: {loss}")
        require_pixels(reader.name, info.width, info.height, wanted.max_pixels)
        with frame_bar(reader.frame_count, quiet, reader.name) as bar:
            made = encoded_latents(
                info, reader.events(), tokenizer, settings, kind, wanted.max_mib << 20, on_frames=bar.update
            )
        suffix = Path(target).suffix
        write_latents(partial, suffix, made.latents, tokenizer.id, info, made.gop_latents, made.gop_frames)
    if not made.steady and not quiet:
        notice(f"{source}: the varying times of its frames cannot be stored; left out")
    if made.failure:
        raise made.failure


def _decode(
    source: str, target: str, model: str | None, device: str, max_pixels: int, force: bool, quiet: bool
) -> None:
    """Decode latents into a video."""
    from vtok_codec.codec.latents import decoded_video
    from vtok_codec.codec.tokenizer import load_tokenizer
    from vtok_codec.media.formats import output_settings
    from vtok_codec.media.types import Frame
    from vtok_codec.media.writer import VideoWriter
    from vtok_codec.registry import weights_of_array
    from vtok_codec.stream.arrays import LATENTS, read_array

    settings, array = output_settings(Path(target).suffix, None, None), read_array(Path(source), LATENTS)
    weights = weights_of_array(array.about, model)
    if array.array.dtype.kind != "f":
        hint = "; vtok pack takes tokens" if array.array.dtype.kind in "iu" else ""
        raise InputError(f"latents must be floats, not {array.array.dtype}{hint}")
    tokenizer, gops = load_tokenizer(weights, device), array.gops()
    info = array.info(tokenizer.layout.picture(*array.array.shape[2:]))
    require_pixels(source, info.width, info.height, max_pixels)
    with (
        whole_output(target, source, force) as partial,
        VideoWriter(partial, info, settings) as writer,
        frame_bar(None, quiet, source) as bar,
    ):
        images = (image for pixels in decoded_video(gops, tokenizer, (info.height, info.width)) for image in pixels)
        for number, image in enumerate(images):
            writer.write(Frame(image, number, 1))
            bar.update()
    for lost in writer.dropped if not quiet else ():
        notice(f"{source}: left out: {lost}")
