"""`vtok continue` and `vtok generate`: tokens that a generator draws, written as a `.vtk` file."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from vtok_codec.cli.errors import notice, reports_errors
from vtok_codec.cli.files import STANDARD_STREAM, open_input, require_pixels, vtk_output
from vtok_codec.cli.jobs import frame_bar
from vtok_codec.cli.options import (
    DEFAULT_MAX_PIXELS,
    MODEL,
    OUTPUT,
    PICTURE,
    Device,
    Force,
    MaxPixels,
    Quiet,
    WeightsOfInput,
)
from vtok_codec.container.header import MAX_SIDE
from vtok_codec.errors import InputError, ModelError, SettingError
from vtok_codec.text import counted

if TYPE_CHECKING:
    from vtok_codec.codec.drawing import Sampling, TokenDrawer
    from vtok_codec.container.header import Header
    from vtok_codec.media.types import VideoInfo
    from vtok_codec.stream.assembling import TokenModel
    from vtok_codec.stream.reading import Gop

_DIGITS = 8
"""More digits than a side can have; very long numbers cannot be parsed."""
Target = Annotated[str, typer.Argument(help="A .vtk file. '-' is standard output.")]
Seconds = Annotated[float, typer.Option(help="Seconds to draw.", min=0.01, max=3600, rich_help_panel=OUTPUT)]
Seed = Annotated[int, typer.Option(help="Seed of all random choices.", min=0, rich_help_panel=PICTURE)]
Temperature = Annotated[
    float,
    typer.Option(
        help="Below 1, likely tokens become likelier; 0 always takes the likeliest. For a latent flow, the deviation "
        "of the noise.",
        rich_help_panel=PICTURE,
    ),
]
TopP = Annotated[
    float,
    typer.Option(
        help="Draw only from the likeliest values that together have this probability.",
        min=0.001,
        max=1,
        rich_help_panel=PICTURE,
    ),
]
Stillness = Annotated[
    float,
    typer.Option(
        help="How strongly to prefer tokens that stood at the same place before. 2 or so keeps things from melting; "
        "much more keeps them from moving.",
        rich_help_panel=PICTURE,
    ),
]
Label = Annotated[str, typer.Option(help="Class of the video, if the generator knows any.", rich_help_panel=PICTURE)]
Guidance = Annotated[
    float, typer.Option(help="How much the class counts; above 1, more than in training.", rich_help_panel=PICTURE)
]
Steps = Annotated[
    int | None,
    typer.Option(
        help="Steps from noise to a latent frame, if a latent flow draws; 8 by default.",
        rich_help_panel=PICTURE,
    ),
]
GeneratorName = Annotated[
    str | None,
    typer.Option(
        "--generator",
        "-g",
        help="Weights file or run folder of a generator. It is needed, since none is shipped.",
        rich_help_panel=MODEL,
    ),
]


@reports_errors
def continue_(
    source: Annotated[str, typer.Argument(help="A .vtk file. '-' is standard input.")],
    target: Target,
    seconds: Seconds = 2.0,
    seed: Seed = 0,
    temperature: Temperature = 1.0,
    top_p: TopP = 0.95,
    stillness: Stillness = 0.0,
    label: Label = "",
    guidance: Guidance = 1.0,
    steps: Steps = None,
    generator: GeneratorName = None,
    weights: WeightsOfInput = None,
    max_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    device: Device = "auto",
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Continue a .vtk file: keep its tokens, and generate what might come next."""
    from vtok_codec.codec.continuation import continued, matched
    from vtok_codec.codec.drawing import Sampling
    from vtok_codec.codec.generators import load_generator
    from vtok_codec.container.reader import VtkReader
    from vtok_codec.prior_files import find_prior, prior_of
    from vtok_codec.registry import weights_of
    from vtok_codec.stream.assembling import TokenModel
    from vtok_codec.stream.headers import video_info
    from vtok_codec.stream.reading import read_all_gops

    sampling = Sampling(seed, temperature, top_p, label, guidance, steps, stillness)
    shown = "standard input" if source == STANDARD_STREAM else source
    with open_input(source) as stream:
        reader = VtkReader(stream)
        header = reader.header
        require_pixels(shown, header.width, header.height, max_pixels)
        if header.rate is None:
            raise InputError(f"{shown} is a still picture; only a video can be continued, since it has a frame rate")
        codec = weights_of(header.model, weights)
        gops = read_all_gops(reader, lambda sha256: find_prior(sha256, codec.path.parent))
    drawer = load_generator(generator, device, codec.reads)
    model = TokenModel(header.model, codec.codec_config.max_tokens, prior_of(codec))
    try:
        kept = matched(gops, drawer)
    except InputError as error:
        raise InputError(f"{shown}: {error}") from None
    for lost in _losses(header, kept, model, drawer) if not quiet else ():
        notice(f"{shown}: {lost}")
    info = dataclasses.replace(video_info(header, audio=False), time_base=1 / header.rate)
    draw = partial(continued, kept, model, drawer)
    _write(draw, sampling, seconds, info, model, source, target, force, quiet)


@reports_errors
def generate(
    target: Target,
    seconds: Seconds = 2.0,
    size: Annotated[
        str, typer.Option(help="Size of the picture, as WIDTHxHEIGHT.", rich_help_panel=PICTURE)
    ] = "256x256",
    rate: Annotated[str, typer.Option(help="Frames per second.", rich_help_panel=PICTURE)] = "25",
    seed: Seed = 0,
    temperature: Temperature = 1.0,
    top_p: TopP = 0.95,
    stillness: Stillness = 0.0,
    label: Label = "",
    guidance: Guidance = 1.0,
    steps: Steps = None,
    generator: GeneratorName = None,
    codec: Annotated[
        str | None,
        typer.Option(
            help="Weights file or run folder of the model whose tokens to draw, if it was not shipped.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    max_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    device: Device = "auto",
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Draw a video from nothing, as a .vtk file."""
    from vtok_codec.codec.continuation import begun
    from vtok_codec.codec.drawing import Sampling
    from vtok_codec.codec.generators import load_generator
    from vtok_codec.media.types import VideoInfo
    from vtok_codec.prior_files import prior_of
    from vtok_codec.registry import find_shipped, find_weights
    from vtok_codec.stream.arrays import as_rate
    from vtok_codec.stream.assembling import TokenModel

    sampling, per_second = Sampling(seed, temperature, top_p, label, guidance, steps, stillness), as_rate(rate)
    width, height = _size(size)
    require_pixels("the output", width, height, max_pixels)
    drawer = load_generator(generator, device)
    weights = find_weights(codec) if codec else find_shipped(drawer.codec)
    if drawer.codec_sha256 not in weights.reads:
        raise ModelError(f"{drawer.name} draws the tokens of {drawer.codec}, with other weights than {weights.path}")
    model = TokenModel(weights.id, weights.codec_config.max_tokens, prior_of(weights))
    info = VideoInfo(width, height, per_second, 1 / per_second)
    draw = partial(begun, (height, width), model, drawer)
    _write(draw, sampling, seconds, info, model, None, target, force, quiet)


def _write(
    draw: Callable[..., list[Gop]],
    sampling: Sampling,
    seconds: float,
    info: VideoInfo,
    model: TokenModel,
    source: str | None,
    target: str,
    force: bool,
    quiet: bool,
) -> None:
    """Draw with a progress bar, and write the file. Without a source, the video begins with what is drawn."""
    from vtok_codec.stream.assembling import assemble

    assert info.rate
    frames = max(1, round(seconds * info.rate))
    with vtk_output(target, source or STANDARD_STREAM, force) as stream:
        started = time.perf_counter()
        with frame_bar(frames, quiet, source or target) as bar:
            gops = draw(frames, sampling, bar.update)
        took = time.perf_counter() - started
        assemble(gops, model, info, stream)
    if not quiet:
        shown = "standard output" if target == STANDARD_STREAM else target
        if source:
            shown = f"{'standard input' if source == STANDARD_STREAM else source} -> {shown}"
        notice(f"{shown}: {counted(frames, 'frame')} drawn, {frames / took:.1f} frames/s")


def _losses(header: Header, gops: list[Gop], model: TokenModel, generator: TokenDrawer) -> Iterator[str]:
    """Yield what a continued file lacks of its source."""
    from vtok_codec.codec.continuation import redrawn_frames

    there, wanted = header.tokens_per_position, generator.tokens_per_position
    if there > wanted:
        yield f"{wanted} of {there} tokens per position are kept, as many as {generator.name} draws"
    if redrawn := redrawn_frames(gops, model):
        yield f"{counted(redrawn, 'frame')} at the end, which fill no latent frame, will be drawn anew"
    if not all(gop.steady for gop in gops):
        yield "frames get a constant rate, since nothing continues their times"
    if header.windows:
        yield "its 1D tokens are left out, since no generator draws any"
    if header.audio:
        yield "the audio is left out, since nothing continues it"


def _size(text: str) -> tuple[int, int]:
    """Parse WIDTHxHEIGHT.

    Raises:
        SettingError: The text is something else.
    """
    width, _, height = text.partition("x")
    numbers = all(side.isascii() and side.isdecimal() and len(side) < _DIGITS for side in (width, height))
    sides = [int(width), int(height)] if numbers else [0, 0]
    if not all(0 < side <= MAX_SIDE for side in sides):
        raise SettingError(f"size {text}: write WIDTHxHEIGHT, such as 256x256")
    return sides[0], sides[1]
