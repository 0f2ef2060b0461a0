"""Arguments and options that several commands share, each with the same words everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vtok_codec.times import parse_seconds

DEFAULT_MAX_PIXELS = 1 << 24
"""4096×4096: above 4K, below 8K."""

INPUT = "Input"
MODEL = "Model"
OUTPUT = "Output"
PICTURE = "Size and quality"
GENERAL = "General"
"""The panels that `--help` groups options in."""


def as_seconds(given: str | float) -> float:
    """Parse a time; see `parse_seconds`.

    Raises:
        typer.BadParameter: It is no time, or below 0.
    """
    try:
        return parse_seconds(str(given))
    except ValueError:
        raise typer.BadParameter(f"{str(given)!r}: give seconds, or a time such as 00:01:30.5") from None


Paths = Annotated[
    list[str],
    typer.Argument(
        help="Input and output; or files, folders and patterns such as clips/*.mp4 with -o DIR. '-' is standard input "
        "or output."
    ),
]
Start = Annotated[
    float,
    typer.Option(
        help="Time to skip, in seconds or as 00:01:30.5; of a .vtk file, from its first frame on.",
        parser=as_seconds,
        metavar="<time>",
        rich_help_panel=INPUT,
    ),
]
Duration = Annotated[
    float | None,
    typer.Option(
        help="Time to read after that; by default to the end.",
        parser=as_seconds,
        metavar="<time>",
        rich_help_panel=INPUT,
    ),
]
NoAudio = Annotated[bool, typer.Option("--no-audio", help="Leave the audio out.", rich_help_panel=INPUT)]
Filters = Annotated[
    str,
    typer.Option(
        "--filter",
        help="Filters for the frames, as `ffmpeg -vf` takes them, such as fps=16,scale=-2:256.",
        rich_help_panel=INPUT,
    ),
]
MaxPixels = Annotated[
    int,
    typer.Option(
        help="Refuse videos with more pixels per frame. Memory grows by about 1 KB per pixel.",
        min=1,
        rich_help_panel=INPUT,
    ),
]
Device = Annotated[str, typer.Option(help="Where to run the model: auto, cpu or cuda.", rich_help_panel=MODEL)]
OutputFolder = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output-dir",
        help="Write the output of every input to this folder, which must exist. Outputs have the names of their "
        "inputs; those of a folder keep their subfolders, and equal names their folder or suffix, as in clip.mov.vtk.",
        rich_help_panel=OUTPUT,
    ),
]


def given_options(context: typer.Context) -> list[str]:
    """Return the names of the options that stand on the command line."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]


WeightsOfInput = Annotated[
    str | None,
    typer.Option(
        "--weights",
        help="Weights file or run folder of the model that made the input, if it was not shipped.",
        rich_help_panel=MODEL,
    ),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite existing output files.", rich_help_panel=OUTPUT)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.", rich_help_panel=GENERAL)]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Also print which model runs, and where.", rich_help_panel=GENERAL)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=OUTPUT)]
