"""`vtok encode`: video → `.vtk`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from vtok_codec.cli.common import (
    DEFAULT_MAX_PIXELS,
    STANDARD_STREAM,
    Device,
    Force,
    MaxPixels,
    NoAudio,
    OutputFolder,
    Paths,
    Quiet,
    Verbose,
    counted,
    frame_bar,
    job_pairs,
    notice,
    reports_errors,
    require_pixels,
    run_jobs,
    vtk_output,
)
from vtok_codec.codec.quality import DEFAULT_QUALITY, QUALITIES, find_quality
from vtok_codec.errors import InputError

if TYPE_CHECKING:
    from vtok_codec.codec.encoder import EncodeSettings
    from vtok_codec.codec.tokenizer import Tokenizer
    from vtok_codec.media.reader import VideoReader


@reports_errors
def encode(
    paths: Paths,
    output_dir: OutputFolder = None,
    quality: Annotated[str, typer.Option("--quality", "-Q", help=f"One of {', '.join(QUALITIES)}.")] = DEFAULT_QUALITY,
    tokens: Annotated[
        int | None, typer.Option("--tokens", "-t", help="Tokens written a position, instead of the quality's.")
    ] = None,
    gop: Annotated[float, typer.Option(help="Seconds that can be decoded alone.", min=0.01)] = 4.0,
    sticky: Annotated[
        float | None, typer.Option(help="Let digits waver by so much before they change: smaller, clearly less exact.")
    ] = None,
    coder: Annotated[
        str, typer.Option(help="waves for the smallest files; zstd for a third larger ones that are read faster.")
    ] = "waves",
    model: Annotated[str | None, typer.Option("--model", "-m", help="A shipped model, or a weights file.")] = None,
    no_audio: NoAudio = False,
    max_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    device: Device = "auto",
    force: Force = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Encode videos or images into .vtk files of tokens."""
    jobs = job_pairs(paths, output_dir, ".vtk")
    chosen = find_quality(quality)
    from vtok_codec.codec.encoder import EncodeSettings
    from vtok_codec.codec.tokenizer import load_tokenizer
    from vtok_codec.registry import find_weights

    tokenizer = load_tokenizer(find_weights(model or chosen.model), device)
    if verbose and not quiet:
        notice(f"model {tokenizer.id.name}, {tokenizer.placement.device} {tokenizer.placement.dtype}")
    settings = EncodeSettings(
        tokens=chosen.tokens if tokens is None else tokens,
        gop_seconds=gop,
        stickiness=chosen.stickiness if sticky is None else sticky,
        coder=coder,
    )

    def work(source: str, target: str) -> None:
        _encode_one(source, target, tokenizer, settings, not no_audio, max_pixels, force, quiet)

    run_jobs(jobs, work)


def _encode_one(
    source: str,
    target: str,
    tokenizer: Tokenizer,
    settings: EncodeSettings,
    audio: bool,
    max_pixels: int,
    force: bool,
    quiet: bool,
) -> None:
    with vtk_output(target, source, force) as stream, _open_reader(source, audio) as reader:
        require_pixels(reader.name, reader.info.width, reader.info.height, max_pixels)
        if not quiet:
            _tell_losses(reader)
        failure = _encode_stream(reader, stream, target, tokenizer, settings, quiet)
    if failure:
        raise failure


def _open_reader(source: str, audio: bool) -> VideoReader:
    """The reader of a source, opened in a thread: FFmpeg waits for a pipe without a look at signals."""
    from vtok_codec.codec.pipeline import Prefetch
    from vtok_codec.media.reader import VideoReader, standard_input

    if source == STANDARD_STREAM and sys.stdin.isatty():
        raise InputError("will not read a video from a terminal; name a file, or pipe one in")
    place = standard_input() if source == STANDARD_STREAM else source
    try:
        with Prefetch((VideoReader(one, audio) for one in [place]), 1) as opened:
            return next(opened)
    except InputError as error:
        if source != STANDARD_STREAM and _is_vtk(source):
            raise InputError(f"{source} is a .vtk file already; vtok decode makes a video of it") from error
        raise


def _is_vtk(path: str) -> bool:
    from vtok_codec.container.writer import MAGIC

    if not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _encode_stream(
    reader: VideoReader,
    stream: BinaryIO,
    target: str,
    tokenizer: Tokenizer,
    settings: EncodeSettings,
    quiet: bool,
) -> InputError | None:
    """Encode all that can be read; the error that ended it, if there was one."""
    from vtok_codec.codec.encoder import encode_video

    started = time.perf_counter()
    with frame_bar(reader.frame_count, quiet, Path(reader.name).name) as bar:
        summary = encode_video(reader.info, reader.events(), tokenizer, settings, stream, bar.update)
    if not quiet:
        if reader.joins:
            notice(f"{reader.name}: its clock jumped back {counted(reader.joins, 'time')}; what follows was put behind")
        seconds = time.perf_counter() - started
        pixels = summary.frames * reader.info.width * reader.info.height
        bits = 8 * (summary.bytes_written - summary.audio_bytes) / pixels
        sound = " without the audio" if summary.audio_bytes else ""
        notice(
            f"{reader.name} -> {target}: {counted(summary.frames, 'frame')}, {summary.bytes_written} bytes, "
            f"{bits:.4f} bits/pixel{sound}, {summary.frames / seconds:.1f} frames/s"
        )
    return summary.failure


def _tell_losses(reader: VideoReader) -> None:
    for loss in reader.losses:
        notice(f"{reader.name}: {loss}")
