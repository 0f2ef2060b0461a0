"""`vtok latents`: the continuous latents of a video as an array, and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from vtok_codec.cli.errors import reports_errors
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
)
from vtok_codec.errors import InputError
from vtok_codec.registry import DEFAULT_MODEL
from vtok_codec.stream.limits import MAX_TOKEN_BYTES


@reports_errors
def latents(
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
            help="A shipped model or a weights file; by default the default model, or the one that made the latents.",
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
    the whole video. A .npy file is taken as one GOP of 25 frames per second.
    """
    from vtok_codec.stream.arrays import SUFFIXES, check_suffix

    if source == STANDARD_STREAM:
        raise InputError("latents are made of files only; name a video")
    if Path(source).suffix in SUFFIXES:
        if (tokens, gop, half, filters) != (None, 4.0, False, ""):
            raise typer.BadParameter(
                "--tokens, --gop, --half and --filter are for making latents, not for decoding them"
            )
        _decode(source, target, model, device, force, quiet)
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

    from vtok_codec.codec.latents import latent_chunks
    from vtok_codec.codec.tokenizer import load_tokenizer
    from vtok_codec.media.reader import VideoReader
    from vtok_codec.registry import find_weights
    from vtok_codec.stream.arrays import write_latents
    from vtok_codec.stream.settings import EncodeSettings

    tokenizer = load_tokenizer(find_weights(model), device)
    settings = EncodeSettings(tokens_per_position=wanted.tokens or tokenizer.max_tokens, gop_seconds=wanted.gop_s)
    kind = np.float16 if wanted.half else np.float32
    with (
        whole_output(target, source, force) as partial,
        VideoReader(source, audio=False, filters=wanted.filters) as reader,
    ):
        require_pixels(reader.name, reader.info.width, reader.info.height, wanted.max_pixels)
        parts, lengths, frames, held = [], [], [], 0
        with frame_bar(reader.frame_count, quiet, reader.name) as bar:
            for chunk in latent_chunks(reader.info, reader.events(), tokenizer, settings):
                part = chunk.latents.astype(kind)
                held += part.nbytes
                if held > wanted.max_mib << 20:
                    raise InputError(f"{reader.name} has latents of more than {wanted.max_mib} MiB; raise --max-mib")
                parts.append(part)
                if chunk.starts_gop:
                    lengths.append(0)
                    frames.append(0)
                lengths[-1] += part.shape[1]
                frames[-1] += chunk.frames
                bar.update(chunk.frames)
        whole = np.concatenate(parts, axis=1)
        write_latents(partial, Path(target).suffix, whole, tokenizer.id, reader.info, lengths, frames)


def _decode(source: str, target: str, model: str | None, device: str, force: bool, quiet: bool) -> None:
    """Decode latents into a video."""
    from vtok_codec.codec.latents import decoded_latents
    from vtok_codec.codec.tokenizer import load_tokenizer
    from vtok_codec.media.formats import output_settings
    from vtok_codec.media.types import Frame
    from vtok_codec.media.writer import VideoWriter
    from vtok_codec.registry import check_same_weights, find_shipped, find_weights
    from vtok_codec.stream.arrays import LATENTS, read_array

    settings, array = output_settings(Path(target).suffix, None, None), read_array(Path(source), LATENTS)
    # What a file names must never become a path.
    weights = find_weights(model) if model else find_shipped(array.about.get("model", DEFAULT_MODEL))
    check_same_weights(weights, weights.name, array.about.get("weights_sha256", weights.sha256))
    if array.array.dtype.kind != "f":
        raise InputError(f"latents must be floats, not {array.array.dtype}")
    tokenizer, gops = load_tokenizer(weights, device), array.gops()
    layout, grid = tokenizer.layout, array.array.shape[2:]
    info = array.info(layout.picture(*grid))
    if layout.grid(info.height, info.width) != grid:
        raise InputError(
            f"a size of {info.height}x{info.width} (height x width) does not fit latents of {grid} positions"
        )
    with (
        whole_output(target, source, force) as partial,
        VideoWriter(partial, info, settings) as writer,
        frame_bar(None, quiet, source) as bar,
    ):
        written = 0
        for latents, frames in gops:
            shown = decoded_latents(latents, tokenizer, (info.height, info.width))
            most = layout.frames(latents.shape[1], first=True)
            left = most if frames is None else frames
            if not max(0, most - layout.stride[0]) < left <= most:
                raise InputError(f"{latents.shape[1]} latent frames stand for {most} frames, not {left}")
            for pixels in shown:
                for image in pixels[: max(0, left)]:
                    writer.write(Frame(image, written, 1))
                    written += 1
                left -= len(pixels)
                bar.update(len(pixels))
