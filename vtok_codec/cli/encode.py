"""`vtok encode`: video → `.vtk`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vtok_codec.cli.errors import reports_errors
from vtok_codec.cli.files import STANDARD_STREAM
from vtok_codec.cli.goals import parse_goal
from vtok_codec.cli.jobs import as_jobs, expanded, job_pairs, run_jobs
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
from vtok_codec.codec.goals import Goal
from vtok_codec.codec.quality_presets import DEFAULT_QUALITY, QUALITIES, find_quality
from vtok_codec.container import is_vtk_name
from vtok_codec.stream.effort import DEFAULT_EFFORT, DEFAULT_TUNE, EFFORTS, TUNES
from vtok_codec.tokens.coders import CODERS, DEFAULT_CODER

if TYPE_CHECKING:
    from vtok_codec.stream.settings import EncodeSettings

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
            help="Tokens per latent position, instead of the preset's; 1 to 4 for the shipped models. More give a "
            "better picture and a larger file.",
            rich_help_panel=PICTURE,
        ),
    ] = None,
    sticky: Annotated[
        float | None,
        typer.Option(
            help="How far a value may drift before its token changes, in quantization steps, 0 to 4, such as 0.05. "
            "Larger values give smaller, less exact files. It does not go with --rdo; prefer --rdo, which is better.",
            rich_help_panel=PICTURE,
        ),
    ] = None,
    rdo: Annotated[
        float | None,
        typer.Option(
            help="What a bit costs when tokens are chosen by rate and error, 0 to 1, instead of the preset's 0.02. 0 "
            "takes the nearest tokens; larger values give smaller, less exact files.",
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
            help="Highest bit rate of the video in bits per second, such as 100k; found like --size.",
            rich_help_panel=PICTURE,
        ),
    ] = None,
    psnr: Annotated[
        float | None,
        typer.Option(help="Lowest PSNR of the video in dB; found like --size.", rich_help_panel=PICTURE),
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
            "--model",
            "-m",
            help="A shipped model, weights file or run folder, instead of the preset's.",
            rich_help_panel=MODEL,
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
    if dry_run and (output_dir or force):
        raise typer.BadParameter("--dry-run writes no file; leave out --output-dir and --force")
    _check_options(goal, dry_run, (quality, tokens, sticky, rdo), coder, paths)
    from vtok_codec.cli.encode_jobs import EncodeJobs, Inputs, Models
    from vtok_codec.media.filters import parse_filters
    from vtok_codec.media.formats import is_clip_name
    from vtok_codec.media.parts import make_part
    from vtok_codec.stream.arrays import as_rate
    from vtok_codec.stream.settings import EncodeSettings, check_settings

    inputs = Inputs(not no_audio, filters, make_part(start, duration), as_rate(rate) if rate else None, max_pixels)
    pairs = as_jobs(expanded(paths, is_clip_name)) if dry_run else job_pairs(paths, output_dir, ".vtk", is_clip_name)
    _check_streams([source for source, _ in pairs], rate, goal, dry_run)
    preset = find_quality(quality or DEFAULT_QUALITY)
    # Whoever asks for stickiness wants digits that repeat, whatever they cost.
    usual_rdo = preset.rdo if sticky is None else 0.0
    settings = EncodeSettings(
        tokens_per_position=preset.tokens_per_position if tokens is None else tokens,
        gop_seconds=gop,
        stickiness=sticky or 0.0,
        rdo=usual_rdo if rdo is None else rdo,
        coder=coder,
        effort=effort,
        tune=tune,
        window_tokens=window_tokens,
    )
    # A mistake is told before torch and the model are loaded, which takes seconds.
    check_settings(settings)
    if filters:
        parse_filters(filters)
    if not (goal or dry_run):
        settings = _fitting(settings, model or preset.model, tokens)
    jobs_of = EncodeJobs(
        inputs,
        settings,
        Models(device, verbose and not quiet),
        model or preset.model,
        goal,
        goal_model=model,
        force=force,
        quiet=quiet,
        bars=not quiet and jobs == 1,
    )
    run_jobs(pairs, jobs_of.try_qualities if dry_run else jobs_of.encode, jobs)


def _check_options(goal: Goal | None, dry_run: bool, fixed: tuple[object, ...], coder: str, paths: list[str]) -> None:
    """Refuse options that do not go together.

    Args:
        goal: What --size, --bitrate or --psnr asks for.
        dry_run: Whether --dry-run was given.
        fixed: The values of --quality, --tokens, --sticky and --rdo; None for one that was not given.
        coder: The name of the coder.
        paths: The inputs and the output.
    """
    if goal and dry_run:
        raise typer.BadParameter(
            "--size, --bitrate and --psnr do not go with --dry-run, which shows all quality presets"
        )
    if fixed[-1] and coder in CODERS and not CODERS[coder].chooses:
        raise typer.BadParameter(f"--rdo does nothing with --coder {coder}; leave out one of them")
    if (goal or dry_run) and any(value is not None for value in fixed):
        raise typer.BadParameter(
            "--quality, --tokens, --sticky and --rdo do not go with --size, --bitrate, --psnr or --dry-run"
        )
    if dry_run and len(paths) > 1 and is_vtk_name(paths[-1]):
        raise typer.BadParameter(f"--dry-run writes no file; leave out {paths[-1]}")


def _check_streams(sources: list[str], rate: str | None, goal: Goal | None, dry_run: bool) -> None:
    """Refuse options that do not go with standard input, or with what can be read only once."""
    if rate and STANDARD_STREAM in sources:
        raise typer.BadParameter("--rate reads an image sequence from files; name a pattern such as frame%04d.png")
    read_once = (source == STANDARD_STREAM or Path(source).is_fifo() for source in sources)
    if (goal or dry_run) and any(read_once):
        raise typer.BadParameter("--size, --bitrate, --psnr and --dry-run read the input several times; name a file")


def _fitting(settings: EncodeSettings, model: str, tokens: int | None) -> EncodeSettings:
    """Return settings with a number of tokens that the model can have.

    Args:
        settings: The settings with the number of tokens that was asked for, or else the preset's.
        model: The name or the path of the model.
        tokens: The number of tokens that was asked for; None for none.

    Raises:
        ModelError: There is no such model.
        SettingError: It has fewer tokens.
    """
    from vtok_codec.registry import find_weights, is_onedva
    from vtok_codec.stream.settings import check_token_count

    weights = find_weights(model)
    if is_onedva(weights):
        return settings if tokens is not None else replace(settings, tokens_per_position=1)
    check_token_count(settings.tokens_per_position, weights.codec_config.max_tokens, weights.name)
    return settings
