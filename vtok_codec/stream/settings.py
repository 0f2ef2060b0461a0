"""The settings of a new `.vtk` file."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vtok_codec.arguments import as_integer
from vtok_codec.container.header import MAX_CHUNK_LATENTS, MAX_GOP_LATENTS
from vtok_codec.errors import SettingError
from vtok_codec.stream.effort import (
    DEFAULT_EFFORT,
    DEFAULT_TUNE,
    EFFORTS,
    find_effort,
    find_tune,
)
from vtok_codec.tokens.coders import CODERS, DEFAULT_CODER

MAX_STICKINESS = 4.0
"""The largest stickiness; with more, pictures freeze."""

BY_MOTION, BY_ERROR = "motion", "error"
"""Ways to choose how many 1D tokens a window gets: as many as its motion asks for, or as many as lower the error by
more than their bits cost."""

MAX_RDO = 1.0
"""The largest cost of a bit; with more, pictures dissolve."""


@dataclass(frozen=True)
class EncodeSettings:
    """What a user may choose about the layout of a file."""

    tokens_per_position: int = 2
    """Tokens written per latent position."""
    gop_seconds: float = 4.0
    """The approximate length of a GOP, which decodes by itself and is where seeking can start."""
    gop_latents: int | None = None
    """The exact length of a GOP in time steps of the latent grid, instead of `gop_seconds`."""
    chunk_latents: int = 4
    """Latent time steps that are coded and flushed together."""
    stickiness: float = 0.0
    """How far beyond half a step a latent may move before its digit changes: smaller files, less exact pictures."""
    rdo: float = 0.0
    """What a bit costs when digits are chosen by rate and error, relative to the squared error of a digit that is off
    by 1. 0 rounds to the nearest digit. Only the coder `prior` knows what a digit costs; others ignore it. It does
    not go together with stickiness."""
    coder: str = DEFAULT_CODER
    """The coder that packs the digits, one of `CODERS`."""
    effort: str = DEFAULT_EFFORT
    """How much work the choice of digits is worth, one of `EFFORTS`."""
    tune: str = DEFAULT_TUNE
    """What the effort is for, one of `TUNES`."""
    window_tokens: str = ""
    """How many 1D tokens each window gets, for a model that has some: a number, `BY_MOTION` or `BY_ERROR`. If empty, as
    many as the model has."""


def check_stickiness(stickiness: float) -> None:
    """Check that a stickiness is in its range.

    Raises:
        SettingError: The stickiness is out of its range.
    """
    if not 0 <= stickiness <= MAX_STICKINESS:
        raise SettingError(f"stickiness {stickiness}: give a number of digit steps from 0 to {MAX_STICKINESS:g}")


def check_rdo(rdo: float) -> None:
    """Check that a cost of bits is in its range.

    Raises:
        SettingError: The cost is out of its range.
    """
    if not 0 <= rdo <= MAX_RDO:
        raise SettingError(f"rdo {rdo}: give a number from 0 to {MAX_RDO:g}")


def check_effort(effort: str, stickiness: float) -> None:
    """Check that an effort exists and goes with a stickiness.

    Raises:
        SettingError: There is no such effort, or it does not go with the stickiness.
    """
    if find_effort(effort).steps and stickiness:
        raise SettingError(f"effort {effort} and sticky {stickiness:g}: sticky needs effort {DEFAULT_EFFORT}")


def check_tune(tune: str, effort: str) -> None:
    """Check that a tune exists and goes with an effort.

    Raises:
        SettingError: There is no such tune, or the effort refines nothing that it could apply to.
    """
    find_tune(tune)
    if tune != DEFAULT_TUNE and not find_effort(effort).steps:
        refining = " or ".join(name for name, each in EFFORTS.items() if each.steps)
        raise SettingError(f"tune {tune} and effort {effort}: tune {tune} needs effort {refining}")


def check_token_count(count: int, most: int, name: str) -> None:
    """Check that a model can write a number of tokens per position.

    Args:
        count: The number of tokens per position.
        most: The number of tokens per position that the model has.
        name: The name of the model, for the message.

    Raises:
        SettingError: The number is below 1, or larger than the model's.
    """
    if not 1 <= as_integer(count, "tokens") <= most:
        raise SettingError(f"tokens {count}: {name} has 1 to {most} tokens per position")


def check_settings(settings: EncodeSettings) -> None:
    """Check what can be checked without the model and the video.

    Raises:
        SettingError: A setting is out of range, or two do not go together.
    """
    if not 0 < settings.gop_seconds < math.inf:
        raise SettingError(f"gop {settings.gop_seconds}: give a number of seconds above 0")
    if settings.gop_latents is not None and not 1 <= settings.gop_latents <= MAX_GOP_LATENTS:
        raise SettingError(f"gop latents {settings.gop_latents}: give 1 to {MAX_GOP_LATENTS}")
    if not 1 <= settings.chunk_latents <= MAX_CHUNK_LATENTS:
        raise SettingError(f"chunk latents {settings.chunk_latents}: give 1 to {MAX_CHUNK_LATENTS}")
    check_stickiness(settings.stickiness)
    check_rdo(settings.rdo)
    if settings.rdo and settings.stickiness:
        raise SettingError(f"rdo {settings.rdo:g} and sticky {settings.stickiness:g}: choose one of them")
    check_effort(settings.effort, settings.stickiness)
    check_tune(settings.tune, settings.effort)
    if settings.coder not in CODERS:
        raise SettingError(f"coder {settings.coder!r}: choose from {', '.join(CODERS)}")
