"""The header of a `.vtk` file and the description of its video, each made from the other."""

from __future__ import annotations

from dataclasses import replace

from vtok_codec.container.header import ID_BYTES, MAX_GOP_LATENTS, Header, ModelId, WindowHeader
from vtok_codec.container.header_json import header_from_json, header_to_json
from vtok_codec.container.prefix import MAX_HEADER_BYTES
from vtok_codec.errors import FormatError, InputError, SettingError
from vtok_codec.media.types import DEFAULT_RATE, Color, VideoInfo
from vtok_codec.stream.chunks import chosen_coder
from vtok_codec.stream.effort import DEFAULT_EFFORT, MAX_REFINED_PIXELS, find_effort
from vtok_codec.stream.settings import EncodeSettings, check_settings, check_token_count
from vtok_codec.tokens.coders import PRIOR
from vtok_codec.tokens.prior.prior import Prior
from vtok_codec.version import __version__


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
        color=info.color,
        rotation=info.rotation,
        model=model,
        tokens_per_position=settings.tokens_per_position,
        gop_latents=max(1, round(steps)),
        chunk_latents=settings.chunk_latents,
        audio=info.audio,
        writer=f"vtok {__version__}",
        tags=info.tags,
        windows=windows,
    )
    coder = chosen_coder(header, settings.coder, prior)
    if coder.spec is PRIOR and prior:
        header = replace(header, prior_sha256=prior.sha256)
    _check_limits(header)
    return header


def video_info(header: Header, audio: bool = True) -> VideoInfo:
    """Convert a header to the description of a video that `vtok_codec.media` uses.

    Args:
        header: The header of a file.
        audio: Whether to include the audio tracks.
    """
    return VideoInfo(
        width=header.width,
        height=header.height,
        rate=header.rate,
        time_base=header.time_base,
        sar=header.sar,
        color=Color(*header.color),
        rotation=header.rotation,
        audio=header.audio if audio else (),
        tags=header.tags,
    )


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
