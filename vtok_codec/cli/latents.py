"""`vtok latents`: the continuous latents of a video as an array."""

from __future__ import annotations

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
    source: Annotated[str, typer.Argument(help="A video or image.")],
    target: Annotated[str, typer.Argument(help="A .npy or .safetensors file.")],
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
        str, typer.Option("--model", "-m", help="A shipped model or a weights file.", rich_help_panel=MODEL)
    ] = DEFAULT_MODEL,
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
    """Export a video's continuous latents, C t h w: what its tokens are before they are rounded.

    They are what a diffusion model on latents trains on; `Codec.decode_latents` decodes them, one group of pictures
    (GOP) at a time. GOPs follow each other along the second axis; a .safetensors file also stores their lengths.
    """
    import numpy as np

    from vtok_codec.codec.latents import latent_chunks
    from vtok_codec.codec.tokenizer import load_tokenizer
    from vtok_codec.media.reader import VideoReader
    from vtok_codec.registry import find_weights
    from vtok_codec.stream.arrays import check_suffix, write_latents
    from vtok_codec.stream.settings import EncodeSettings

    check_suffix(target)
    if source == STANDARD_STREAM:
        raise InputError("latents are made of files only; name a video")
    tokenizer = load_tokenizer(find_weights(model), device)
    settings = EncodeSettings(tokens_per_position=tokens or tokenizer.max_tokens, gop_seconds=gop)
    kind = np.float16 if half else np.float32
    with whole_output(target, source, force) as partial, VideoReader(source, audio=False, filters=filters) as reader:
        require_pixels(reader.name, reader.info.width, reader.info.height, max_pixels)
        parts, lengths, frames, held = [], [], [], 0
        with frame_bar(reader.frame_count, quiet, reader.name) as bar:
            for chunk in latent_chunks(reader.info, reader.events(), tokenizer, settings):
                part = chunk.latents.astype(kind)
                held += part.nbytes
                if held > max_mib << 20:
                    raise InputError(f"{reader.name} has latents of more than {max_mib} MiB; raise --max-mib")
                parts.append(part)
                if chunk.starts_gop:
                    lengths.append(0)
                    frames.append(0)
                lengths[-1] += part.shape[1]
                frames[-1] += chunk.frames
                bar.update(chunk.frames)
        whole = np.concatenate(parts, axis=1)
        write_latents(partial, Path(target).suffix, whole, tokenizer.id, reader.info, lengths, frames)
