"""`vtok encode`: video → `.vtk`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Annotated

import typer

from vtok_codec.cli.errors import notice, reports_errors
from vtok_codec.cli.files import STANDARD_STREAM, require_open, require_pixels, vtk_output
from vtok_codec.cli.goals import encode_to_goal, parse_goal, tell_qualities, tried
from vtok_codec.cli.jobs import as_jobs, expanded, frame_bar, job_pairs, run_jobs
from vtok_codec.cli.options import (
    DEFAULT_MAX_PIXELS,
    INPUT,
    MODEL,
    OUTPUT,
    PICTURE,
    Device,
    Duration,
    Filters,
    Force,
    MaxPixels,
    NoAudio,
    OutputFolder,
    Paths,
    Quiet,
    Start,
    Verbose,
)
from vtok_codec.codec.quality_presets import DEFAULT_QUALITY, QUALITIES, find_quality
from vtok_codec.container import VTK_SUFFIXES
from vtok_codec.errors import InputError
from vtok_codec.stream.effort import DEFAULT_EFFORT, DEFAULT_TUNE, EFFORTS, TUNES
from vtok_codec.text import counted
from vtok_codec.tokens.coders import CODERS, DEFAULT_CODER

if TYPE_CHECKING:
    from vtok_codec.codec.encoder import EncodeSummary
    from vtok_codec.codec.tokenizer import Tokenizer
    from vtok_codec.codec.trials import Trials
    from vtok_codec.media.parts import Part
    from vtok_codec.media.reader import VideoReader

_CODER_HELP = "How tokens are packed: " + "; ".join(f"{spec.name}, {spec.summary}" for spec in CODERS.values()) + "."

_EFFORT_HELP = (
    "How long to look for tokens that need fewer bits: "
    + "; ".join(f"{name}, {effort.summary}" for name, effort in EFFORTS.items())
    + "."
)

_TUNE_HELP = (
    "What the efforts above fast make small: "
    + "; ".join(f"{name}, {tune.summary}" for name, tune in TUNES.items())
    + "."
)


@reports_errors
def encode(
    paths: Paths,
    output_dir: OutputFolder = None,
    quality: Annotated[
        str | None,
        typer.Option(
            "--quality",
            "-Q",
            help=f"Quality preset, from smallest to best: {', '.join(QUALITIES)}; {DEFAULT_QUALITY} by default. "
            "`vtok models` shows what each gives.",
            rich_help_panel=PICTURE,
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            "--tokens",
            "-t",
            help="Tokens per latent position, instead of the preset's. More give a better picture and a larger file.",
            rich_help_panel=PICTURE,
        ),
    ] = None,
    sticky: Annotated[
        float | None,
        typer.Option(
            help="How far a value may drift before its token changes, in steps. More gives smaller, less exact files.",
            rich_help_panel=PICTURE,
        ),
    ] = None,
    rdo: Annotated[
        float | None,
        typer.Option(
            help="What a bit costs when tokens are chosen by rate and error, instead of the preset's cost. 0 takes the "
            "nearest tokens; 0.05 gives smaller, less exact files.",
            rich_help_panel=PICTURE,
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Largest size of the file in bytes, such as 500k or 2M. The model, the tokens and the cost of a bit "
            "are found by encoding about ten times.",
            rich_help_panel=PICTURE,
        ),
    ] = None,
    bitrate: Annotated[
        str | None,
        typer.Option(
            help="Highest bit rate of the video in bits per second, such as 100k; reached like --size.",
            rich_help_panel=PICTURE,
        ),
    ] = None,
    psnr: Annotated[
        float | None,
        typer.Option(help="Lowest PSNR of the video in dB; reached like --size.", rich_help_panel=PICTURE),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Write no file. Print the size and the PSNR that each quality preset gives for every input.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    effort: Annotated[str, typer.Option(help=_EFFORT_HELP, rich_help_panel=PICTURE)] = DEFAULT_EFFORT,
    tune: Annotated[str, typer.Option(help=_TUNE_HELP, rich_help_panel=PICTURE)] = DEFAULT_TUNE,
    window_tokens: Annotated[
        str,
        typer.Option(
            help="1D tokens per window, for a One-DVA model: a number, motion (as many as moving pictures need), or "
            "error (as many as lower the error by more than their bits cost at --rdo). All by default.",
            rich_help_panel=PICTURE,
        ),
    ] = "",
    gop: Annotated[
        float,
        typer.Option(
            help="Length in seconds of a group of pictures, which decodes by itself and where seeking can start.",
            min=0.01,
            rich_help_panel=PICTURE,
        ),
    ] = 4.0,
    coder: Annotated[str, typer.Option(help=_CODER_HELP, rich_help_panel=PICTURE)] = DEFAULT_CODER,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="A shipped model or a weights file, instead of the preset's.", rich_help_panel=MODEL
        ),
    ] = None,
    start: Start = 0.0,
    duration: Duration = None,
    rate: Annotated[
        str | None,
        typer.Option(
            help="Frames per second of image sequences. The input is then a pattern, such as frame%04d.png.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    filters: Filters = "",
    no_audio: NoAudio = False,
    max_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    device: Device = "auto",
    jobs: Annotated[
        int,
        typer.Option("--jobs", "-j", help="How many inputs to encode side by side.", min=1, rich_help_panel=OUTPUT),
    ] = 1,
    force: Force = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Encode videos or images into .vtk files."""
    goal = parse_goal(size, bitrate, psnr)
    if goal and dry_run:
        raise typer.BadParameter(
            "--size, --bitrate and --psnr do not go with --dry-run, which shows all quality presets"
        )
    if rdo and coder in CODERS and not CODERS[coder].chooses:
        raise typer.BadParameter(f"--rdo does nothing with --coder {coder}; leave out one of them")
    if (goal or dry_run) and (quality, tokens, sticky, rdo) != (None, None, None, None):
        raise typer.BadParameter(
            "--quality, --tokens, --sticky and --rdo do not go with --size, --bitrate, --psnr or --dry-run"
        )
    if dry_run and len(paths) > 1 and paths[-1].endswith(VTK_SUFFIXES) and not Path(paths[-1]).exists():
        raise typer.BadParameter(f"--dry-run writes no file; leave out {paths[-1]}")
    from vtok_codec.media.formats import is_clip_name
    from vtok_codec.media.parts import make_part
    from vtok_codec.stream.arrays import as_rate

    given = _Input(not no_audio, filters, make_part(start, duration), as_rate(rate) if rate else None, max_pixels)
    pairs = as_jobs(expanded(paths, is_clip_name)) if dry_run else job_pairs(paths, output_dir, ".vtk", is_clip_name)
    if rate and any(source == STANDARD_STREAM for source, _ in pairs):
        raise typer.BadParameter("--rate reads an image sequence from files; name a pattern such as frame%04d.png")
    if (goal or dry_run) and any(source == STANDARD_STREAM for source, _ in pairs):
        raise typer.BadParameter("--size, --bitrate, --psnr and --dry-run read the input several times; name a file")
    chosen = find_quality(quality or DEFAULT_QUALITY)
    from vtok_codec.media.filters import parse_filters
    from vtok_codec.registry import find_weights, is_onedva
    from vtok_codec.stream.settings import EncodeSettings, check_settings, check_token_count

    @cache
    def loaded(name: str) -> Tokenizer:
        from vtok_codec.codec.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(find_weights(name), device)
        if verbose and not quiet:
            notice(f"model {tokenizer.id.name} on {tokenizer.placement}")
        return tokenizer

    loading = Lock()

    def load(name: str) -> Tokenizer:
        # Jobs run in threads, and a model is loaded once.
        with loading:
            return loaded(name)

    preset_model = model or chosen.model
    weights = None if goal or dry_run else find_weights(preset_model)
    usual_tokens = 1 if weights and is_onedva(weights) else chosen.tokens_per_position
    settings = EncodeSettings(
        tokens_per_position=usual_tokens if tokens is None else tokens,
        gop_seconds=gop,
        stickiness=sticky or 0.0,
        # Whoever asks for stickiness wants digits that repeat, whatever they cost.
        rdo=rdo if rdo is not None else chosen.rdo if sticky is None else 0.0,
        coder=coder,
        effort=effort,
        tune=tune,
        window_tokens=window_tokens,
    )
    # A mistake is told before torch and the model are loaded, which takes seconds.
    check_settings(settings)
    if filters:
        parse_filters(filters)
    if weights and not is_onedva(weights):
        check_token_count(settings.tokens_per_position, weights.codec_config.max_tokens, weights.name)

    def trials(source: str) -> AbstractContextManager[Trials]:
        return tried(source, partial(given.open, source), settings, load, quiet)

    def work(source: str, target: str) -> None:
        if source == STANDARD_STREAM:
            # A live source would have to wait for the model.
            load(preset_model)
        with vtk_output(target, source, force) as stream, given.open(source) as reader:
            if not quiet:
                for loss in reader.losses:
                    notice(f"{reader.name}: {loss}")
            from vtok_codec.codec.encoder import encode_video

            started = time.perf_counter()
            if goal:
                with trials(source) as attempts:
                    summary = encode_to_goal(attempts, goal, model, stream, reader.name, quiet)
                    joins = attempts.joins
            else:
                tokenizer = load(preset_model)
                # Loading the model is no part of the speed that is told.
                started = time.perf_counter()
                with frame_bar(reader.frame_count, quiet or jobs > 1, Path(reader.name).name) as bar:
                    summary = encode_video(reader.info, reader.events(), tokenizer, settings, stream, bar.update)
                joins = reader.joins
            if not quiet:
                _tell(reader, joins, target, summary, time.perf_counter() - started)
        if summary.failure:
            raise summary.failure

    def try_qualities(source: str, _: str) -> None:
        with trials(source) as attempts:
            tell_qualities(attempts, source, model)

    run_jobs(pairs, try_qualities if dry_run else work, jobs)


@dataclass(frozen=True)
class _Input:
    """What to read of every input, as the options say."""

    audio: bool
    filters: str
    part: Part | None
    sequence_rate: Fraction | None
    max_pixels: int

    @contextmanager
    def open(self, source: str) -> Iterator[VideoReader]:
        """Open an input, and refuse pictures that are too large."""
        with self._reader(source) as reader:
            require_pixels(reader.name, reader.info.width, reader.info.height, self.max_pixels)
            yield reader

    def _reader(self, source: str) -> VideoReader:
        """Open a reader in a thread, because FFmpeg ignores signals while it waits for a pipe."""
        from vtok_codec.codec.prefetch import Prefetch
        from vtok_codec.media.opening import standard_input
        from vtok_codec.media.reader import VideoReader

        if source == STANDARD_STREAM:
            require_open(sys.stdin)
        if source == STANDARD_STREAM and sys.stdin.isatty():
            raise InputError("will not read a video from a terminal; name a file, or pipe one in")
        place = standard_input() if source == STANDARD_STREAM else source
        rest = (self.audio, self.filters, "", self.part, self.sequence_rate)
        try:
            with Prefetch((VideoReader(one, *rest) for one in [place]), 1) as opened:
                return next(opened)
        except InputError as error:
            if source != STANDARD_STREAM and _is_vtk(source):
                raise InputError(f"{source} is already a .vtk file; 'vtok decode' turns it into a video") from error
            raise


def _is_vtk(path: str) -> bool:
    from vtok_codec.container.prefix import MAGIC

    if not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _tell(reader: VideoReader, joins: int, target: str, summary: EncodeSummary, seconds: float) -> None:
    """Say what was written, and how often the clock of the input jumped."""
    if joins:
        times = counted(joins, "time")
        notice(f"{reader.name}: its clock jumped {times}; the frames after a jump follow those before it")
    pixels = summary.frames * reader.info.width * reader.info.height
    bits = 8 * (summary.bytes_written - summary.audio_bytes) / pixels
    sound = " without the audio" if summary.audio_bytes else ""
    written = "standard output" if target == STANDARD_STREAM else target
    notice(
        f"{reader.name} -> {written}: {counted(summary.frames, 'frame')}, {summary.bytes_written} bytes, "
        f"{bits:.4f} bits/pixel{sound}, {summary.frames / seconds:.1f} frames/s"
    )
