"""The settings of a new `.vtk` file, and the header that follows from them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from vtok_codec.container.header import (
    ID_BYTES,
    MAX_CHUNK_LATENTS,
    MAX_GOP_LATENTS,
    AudioHeader,
    Header,
    ModelId,
    WindowHeader,
)
from vtok_codec.container.header_json import header_from_json, header_to_json
from vtok_codec.container.prefix import MAX_HEADER_BYTES
from vtok_codec.errors import FormatError, InputError, SettingError
from vtok_codec.media.types import DEFAULT_RATE, VideoInfo
from vtok_codec.stream.chunks import chosen_coder
from vtok_codec.stream.effort import (
    DEFAULT_EFFORT,
    DEFAULT_TUNE,
    EFFORTS,
    MAX_REFINED_PIXELS,
    find_effort,
    find_tune,
)
from vtok_codec.tokens.coders import CODERS, DEFAULT_CODER, PRIOR
from vtok_codec.tokens.prior.prior import Prior
from vtok_codec.version import __version__

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
    if not 1 <= count <= most:
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


def make_header(
    info: VideoInfo,
    model: ModelId,
    max_tokens: int,
    settings: EncodeSettings,
    prior: Prior | None = None,
    windows: WindowHeader | None = None,
) -> Header:
    """Make the header of a file with the given settings.

    Args:
        info: The video.
        model: The model that makes the tokens.
        max_tokens: The number of tokens per position that the model has.
        settings: What the user chose.
        prior: The prior of the model; None if it has none.
        windows: What to say about 1D tokens; None if the model has none.

    Raises:
        SettingError: The model has fewer tokens than asked for, or a setting is out of range.
        InputError: The format cannot hold such a video.
    """
    check_token_count(settings.tokens_per_position, max_tokens, model.name)
    check_settings(settings)
    _check_windows(settings, windows)
    if find_effort(settings.effort).steps and info.width * info.height > MAX_REFINED_PIXELS:
        raise InputError(f"pictures of {info.width}x{info.height} are too large for effort {settings.effort}; use fast")
    steps = min(
        settings.gop_latents or settings.gop_seconds * float(info.rate or DEFAULT_RATE) / model.stride[0],
        MAX_GOP_LATENTS,
    )
    header = Header(
        width=info.width,
        height=info.height,
        rate=info.rate,
        time_base=info.time_base,
        frame_ticks=round(1 / (info.rate * info.time_base)) if info.rate else 0,
        sar=info.sar,
        color=(info.color.range, info.color.primaries, info.color.transfer, info.color.matrix),
        rotation=info.rotation,
        model=model,
        tokens_per_position=settings.tokens_per_position,
        gop_latents=max(1, round(steps)),
        chunk_latents=settings.chunk_latents,
        audio=tuple(
            AudioHeader(t.codec, t.time_base, t.sample_rate, t.layout, t.parameters, t.avi_parameters, t.tags)
            for t in info.audio
        ),
        writer=f"vtok {__version__}",
        tags=info.tags,
        windows=windows,
    )
    coder = chosen_coder(header, settings.coder, prior)
    if coder.spec is PRIOR and prior:
        header = replace(header, prior_sha256=prior.sha256)
    _check_limits(header)
    return header


def _check_windows(settings: EncodeSettings, windows: WindowHeader | None) -> None:
    """Check that settings go with a model that has 1D tokens, or with one that has none."""
    if windows is None:
        if settings.window_tokens:
            raise SettingError("window tokens: this model has no 1D tokens")
        return
    if settings.tokens_per_position != 1:
        raise SettingError(f"tokens {settings.tokens_per_position}: {windows.name} has 1 token per position")
    if settings.chunk_latents > windows.window[0]:
        raise SettingError(f"chunk latents {settings.chunk_latents}: {windows.name} has at most {windows.window[0]}")
    if find_effort(settings.effort).steps:
        raise SettingError(f"effort {settings.effort}: {windows.name} works with effort {DEFAULT_EFFORT} only")
    if settings.stickiness:
        raise SettingError(f"sticky {settings.stickiness:g}: {windows.name} works without stickiness only")


def _check_limits(header: Header) -> None:
    """Refuse a header that no reader would accept."""
    text = header_to_json(replace(header, file_id=bytes(ID_BYTES)))
    if len(text) > MAX_HEADER_BYTES:
        raise InputError("the parameters and tags of the audio tracks do not fit the header; leave the audio out")
    try:
        header_from_json(text)
    except FormatError as error:
        raise InputError(f"the format cannot hold this video: {error}") from None
