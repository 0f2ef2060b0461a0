"""The formats that vtok writes: containers and codecs, with the options of each encoder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import av

from vtok_codec.errors import OutputError, SettingError
from vtok_codec.media.types import VideoInfo

STILL_FORMAT = "image2"
"""FFmpeg's name of the format of image files."""
_FORMATS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
    ".gif": "gif",
    ".y4m": "yuv4mpegpipe",
    ".nut": "nut",
    ".png": STILL_FORMAT,
    ".jpg": STILL_FORMAT,
    ".jpeg": STILL_FORMAT,
}
"""FFmpeg's name of the container, by the suffix of a file."""
_READ_VIDEOS = (".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".flv", ".wmv", ".ogv", ".3gp", ".h264")
"""Suffixes of videos that vtok reads and does not write."""
_READ_IMAGES = (".webp", ".bmp")
"""Suffixes of images that vtok reads and does not write."""
PIPE_FORMATS = {
    "nut": "nut",
    "y4m": "yuv4mpegpipe",
    "matroska": "matroska",
    "mkv": "matroska",
    "webm": "webm",
    "mp4": "mp4",
}
"""The formats that can be written to standard output, by the name that users choose them by."""

_DEFAULT_CODECS = {
    "webm": "libvpx-vp9",
    "gif": "gif",
    # AVI cannot store the decoding times that H.264 needs.
    "avi": "mpeg4",
    "yuv4mpegpipe": "wrapped_avframe",
    "nut": "rawvideo",
}
"""The default codec of each container; that of all others is libx264."""
_STILL_CODECS = {".png": "png", ".jpg": "mjpeg", ".jpeg": "mjpeg"}
"""The default codec of an image file, by its suffix."""
_LOSSLESS = {"ffv1": "bgr0", "rawvideo": "rgb24", "png": "rgb24"}
"""The codecs that store the RGB of frames exactly, with the pixel format in which they store it."""
_PIXEL_FORMATS = ("yuv420p", "yuv422p", "yuv444p", "gbrp", "rgb24", "bgr0", "bgr24", "yuv422p10le", "yuv444p10le")
"""The pixel formats of the other codecs: the first of these that a codec takes."""
_FIXED_PIXEL_FORMATS = {"gif": "rgb8", "mjpeg": "yuvj444p"}
"""The pixel format of codecs that are always used with the same one."""
_UNCOMPRESSED = ("wrapped_avframe", "rawvideo")
_COARSEST_CRF = {"libx264": 51, "libx265": 51, "libvpx-vp9": 63, "libsvtav1": 63}
"""The largest CRF of each codec that has one."""
_DEFAULT_CRF = {"libx264": 14, "libx265": 14, "libvpx-vp9": 20, "libsvtav1": 20}
"""The CRF at which each codec is visually lossless."""
_SPEED = {
    "libx264": {"preset": "superfast"},
    "libx265": {"preset": "veryfast", "x265-params": "log-level=error"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "6", "row-mt": "1"},
    "libsvtav1": {"preset": "10"},
}
"""Options that make each codec fast."""


@dataclass(frozen=True)
class OutputSettings:
    """The format in which frames are written."""

    format: str
    """FFmpeg's name of the container."""
    codec: str
    """FFmpeg's name of the encoder."""
    crf: int | None = None
    """The constant rate factor on the scale of the codec; None for a default that is visually lossless."""
    fragment_s: float | None = None
    """In MP4 to a stream, the longest piece in seconds that a player must wait for; None for a keyframe's distance."""
    audio_codec: str | None = None
    """FFmpeg's name of the encoder of the sound; None to copy it."""


def is_clip_name(name: str) -> bool:
    """Return whether the name of a file in a folder says that it holds a video or an image."""
    return Path(name).suffix.lower() in (*_FORMATS, *_READ_VIDEOS, *_READ_IMAGES)


def is_video_name(name: str) -> bool:
    """Return whether the name of a file in a folder says that it holds a video."""
    return is_clip_name(name) and not is_image_name(name)


def is_image_name(name: str) -> bool:
    """Return whether the name of a file in a folder says that it holds a single picture."""
    suffix = Path(name).suffix.lower()
    return _FORMATS.get(suffix) == STILL_FORMAT or suffix in _READ_IMAGES


def output_settings(suffix: str, codec: str | None, crf: int | None, audio_codec: str | None = None) -> OutputSettings:
    """Return the settings for a file.

    Args:
        suffix: The suffix of the file, such as `.mp4`.
        codec: FFmpeg's name of the encoder; None for the default of the suffix.
        crf: The constant rate factor; None for the default of the codec.
        audio_codec: FFmpeg's name of the encoder of the sound; None to copy it.

    Raises:
        OutputError: No format has this suffix.
        SettingError: A codec is unknown, has no CRF, does not take this CRF, or does not go into the container.
    """
    suffix = suffix.lower()
    if suffix not in _FORMATS:
        raise OutputError(f"no video format has the suffix {suffix!r}; use one of {' '.join(sorted(_FORMATS))}")
    settings = _settings(_FORMATS[suffix], codec or _STILL_CODECS.get(suffix), crf, audio_codec)
    if settings.codec != _STILL_CODECS.get(suffix, settings.codec):
        raise SettingError(f"codec {codec}: a {suffix} file holds {_STILL_CODECS[suffix]}; leave out the codec")
    return settings


def pipe_settings(name: str, codec: str | None, crf: int | None, audio_codec: str | None = None) -> OutputSettings:
    """Return the settings for standard output.

    Args:
        name: The name of the format, one of `PIPE_FORMATS`.
        codec: FFmpeg's name of the encoder; None for the default of the format.
        crf: The constant rate factor; None for the default of the codec.
        audio_codec: FFmpeg's name of the encoder of the sound; None to copy it.

    Raises:
        SettingError: The format or a codec is unknown, or a codec has no CRF, does not take this CRF, or does not go
            into the container.
    """
    if name not in PIPE_FORMATS:
        raise SettingError(f"format {name!r} is unknown; use one of {', '.join(PIPE_FORMATS)}")
    return _settings(PIPE_FORMATS[name], codec, crf, audio_codec)


def _settings(format_: str, codec: str | None, crf: int | None, audio_codec: str | None) -> OutputSettings:
    """Check the codecs and the CRF, and fill in the default codec of the container."""
    # The name may be an alias, as `h264` is of libx264.
    codec = _encoder(codec or _DEFAULT_CODECS.get(format_, "libx264"), "video").name
    if format_ == "yuv4mpegpipe" and codec not in _UNCOMPRESSED:
        raise SettingError(f"codec {codec}: y4m holds uncompressed video alone; leave out the codec")
    if crf is not None and codec not in _DEFAULT_CRF:
        raise SettingError(f"crf does not apply to {codec}")
    if crf is not None and not 0 <= crf <= _COARSEST_CRF[codec]:
        raise SettingError(f"crf {crf}: {codec} takes 0 to {_COARSEST_CRF[codec]}")
    if audio_codec:
        sound = _encoder(audio_codec, "audio")
        taken = _sound_codecs(format_)
        if not taken:
            raise SettingError(f"{format_} holds no sound; leave out the codec of the sound")
        if sound.canonical_name not in taken:
            raise SettingError(
                f"{format_} does not take sound in {sound.canonical_name}; copy it, or name another encoder"
            )
        audio_codec = sound.name
    return OutputSettings(format_, codec, crf, audio_codec=audio_codec)


def _encoder(name: str, kind: str) -> av.Codec:
    """Return an encoder.

    Raises:
        SettingError: FFmpeg has none of that name and kind.
    """
    try:
        encoder = av.Codec(name, "w")
    except (av.FFmpegError, ValueError):
        encoder = None
    if encoder is None or encoder.type != kind:
        raise SettingError(
            f"codec {name!r} is not {'a video' if kind == 'video' else 'an audio'} encoder of this build"
        )
    return encoder


def _sound_codecs(format_: str) -> set[str]:
    """Return the audio codecs that a container takes; nothing if it takes no sound at all."""
    with av.open(os.devnull, "w", format=format_) as container:
        return container.supported_codecs if container.default_audio_codec != "none" else set()


def encoder_options(settings: OutputSettings) -> dict[str, object]:
    """Return the options with which FFmpeg opens the encoder."""
    options: dict[str, object] = {**_SPEED.get(settings.codec, {})}
    if settings.codec in _DEFAULT_CRF:
        options["crf"] = str(_DEFAULT_CRF[settings.codec] if settings.crf is None else settings.crf)
    return options


def pixel_format(settings: OutputSettings, info: VideoInfo) -> str:
    """Return FFmpeg's name of the pixel format in which a video is stored.

    Raises:
        ValueError: The codec takes no pixel format that vtok makes.
    """
    codec = settings.codec
    if codec == "rawvideo" and settings.format == "avi":
        # Raw RGB in AVI has blue first, whatever the stream says.
        return "bgr24"
    if codec in _LOSSLESS:
        return _LOSSLESS[codec]
    if codec in _FIXED_PIXEL_FORMATS:
        return _FIXED_PIXEL_FORMATS[codec]
    taken = av.Codec(codec, "w").video_formats
    # The list is None for a codec that takes all formats.
    names = None if taken is None else [each.name for each in taken]
    odd = info.width % 2 or info.height % 2
    # With halved chroma, an odd side is coded with one row or column too many, which some players show.
    wanted = ("yuv444p", *_PIXEL_FORMATS) if odd else _PIXEL_FORMATS
    if found := next((each for each in wanted if names is None or each in names), None):
        return found
    raise ValueError(f"it takes none of {', '.join(_PIXEL_FORMATS)}")
