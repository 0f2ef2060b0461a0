"""`vtok encode` with a goal instead of settings: --size, --bitrate and --psnr, and --dry-run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import typer

from vtok_codec.cli.errors import notice
from vtok_codec.cli.jobs import frame_bar
from vtok_codec.codec.goals import LADDER, Goal, Outcome, Point, bitrate_goal, psnr_goal, search, size_goal
from vtok_codec.codec.quality_presets import QUALITIES
from vtok_codec.errors import SettingError
from vtok_codec.text import counted, printable

if TYPE_CHECKING:
    from vtok_codec.codec.encoder import EncodeSummary
    from vtok_codec.codec.tokenizer import Tokenizer
    from vtok_codec.codec.trials import OpenVideo, Trials
    from vtok_codec.stream.settings import EncodeSettings

_NUMBER = re.compile(r"(\d+\.?\d*|\.\d+)([kMG]?)(i?)[Bb]?")
"""A number with a prefix: `k` is 1000, `Ki` is 1024."""


def parse_goal(size: str | None, bitrate: str | None, psnr: float | None) -> Goal | None:
    """Return the goal that options give; None for none.

    Raises:
        BadParameter: Several are given, or one is not a number above 0.
    """
    goals = []
    if size is not None:
        goals.append(size_goal(int(_number(size, "--size")), f"--size {size}"))
    if bitrate is not None:
        goals.append(bitrate_goal(_number(bitrate, "--bitrate"), f"--bitrate {bitrate}"))
    if psnr is not None:
        if not 0 < psnr < math.inf:
            raise typer.BadParameter(f"--psnr {psnr}: give a number of dB above 0")
        goals.append(psnr_goal(psnr, f"--psnr {psnr:g}"))
    if len(goals) > 1:
        raise typer.BadParameter("give only one of --size, --bitrate and --psnr")
    return goals[0] if goals else None


def _number(text: str, option: str) -> float:
    found = _NUMBER.fullmatch(text.replace("K", "k"))
    number = float(found[1]) * (1024 if found[3] else 1000) ** " kMG".index(found[2] or " ") if found else 0.0
    if number < 1:
        raise typer.BadParameter(f"{option} {text}: give a number such as 500k or 2M")
    return number


@contextmanager
def tried(
    source: str, open_video: OpenVideo, settings: EncodeSettings, load: Callable[[str], Tokenizer], quiet: bool
) -> Iterator[Trials]:
    """Yield the trials of an input, with a progress bar that counts the frames of all of them."""
    from vtok_codec.codec.trials import Trials

    with frame_bar(None, quiet, Path(source).name) as bar:
        trials = Trials(open_video, settings, load, bar.update)
        try:
            yield trials
        finally:
            trials.close()


def encode_to_goal(
    trials: Trials, goal: Goal, model: str | None, stream: BinaryIO, name: str, quiet: bool
) -> EncodeSummary:
    """Write the file that comes closest to a goal.

    Args:
        trials: The trials of the input.
        goal: The goal.
        model: The model to use; None for any shipped one.
        stream: Where to write the file.
        name: The name of the input in messages.
        quiet: Whether to leave out the message about what was chosen.

    Raises:
        SettingError: No settings reach the goal.
    """
    outcomes: dict[Point, Outcome] = {}

    def measure(point: Point) -> float:
        outcomes[point] = trials.outcome(point, psnr=goal.needs_psnr)
        return goal.value(outcomes[point])

    point = search(_ladder(trials, model), measure, goal)
    reached = goal.shown(outcomes[point])
    if not goal.met(goal.value(outcomes[point])):
        extreme = "least" if goal.limits_size else "best"
        hint = _hint(goal, outcomes[point]) if goal.limits_size else ""
        raise SettingError(
            f"{name}: {goal.text} cannot be reached; the {extreme} that these settings give is {reached}{hint}"
        )
    if not quiet:
        tokens = counted(point.tokens_per_position, "token")
        notice(f"{name}: {reached} with {point.model}, {tokens} per position, --rdo {point.rdo:.4g}")
    return trials.write(point, stream)


def _hint(goal: Goal, outcome: Outcome) -> str:
    """Return what makes a file smaller that has the least size of all settings."""
    if goal.counts_sound and outcome.audio_bytes > outcome.video_bytes:
        return f", of which the sound takes {outcome.audio_bytes}; leave it out (--no-audio)"
    return "; make the picture smaller (--filter)"


def _ladder(trials: Trials, model: str | None) -> list[tuple[str, int]]:
    """Return the models and tokens per position to choose from."""
    if model is None:
        return list(LADDER)
    return [(model, count + 1) for count in range(trials.max_tokens(model))]


def tell_qualities(trials: Trials, source: str, model: str | None) -> None:
    """Print the size and the PSNR that each quality preset gives for an input.

    Raises:
        InputError: The input breaks off; what was printed is true of its part.
    """
    for name, quality in QUALITIES.items():
        chosen = model or quality.model
        point = Point(chosen, min(quality.tokens_per_position, trials.max_tokens(chosen)), quality.rdo)
        outcome = trials.outcome(point, psnr=True)
        size = outcome.video_bytes + outcome.audio_bytes
        rate = f"{outcome.bits_per_pixel:.4f} bits/pixel"
        print(f"{printable(source)}: --quality {name}: {size} bytes, {rate}, {outcome.psnr_db:.2f} dB")
    if trials.failure:
        raise trials.failure
