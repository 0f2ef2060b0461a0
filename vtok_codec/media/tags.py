"""The tags of a file and of its audio tracks, such as titles and languages: which are kept, and by which containers."""

from __future__ import annotations

import io
from collections.abc import Mapping

import av
import numpy as np
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

from vtok_codec.audio import Tags
from vtok_codec.text import is_printable, is_text

_TECHNICAL = frozenset(
    (
        *("major_brand", "minor_version", "compatible_brands", "encoder", "handler_name", "vendor_id", "duration"),
        *("encoding", "software", "software-version", "com.android.version", "service_name", "service_provider"),
        *("statistics_tags", "_statistics_tags", "_statistics_writing_app", "_statistics_writing_date_utc"),
        *("bps", "number_of_frames", "number_of_bytes", "alpha_mode"),
    )
)
"""Tags that say how a file was made rather than what it shows."""
_OF_TRACKS = ("language", "title")
"""The tags of an audio track that are kept."""
_MAX_TAGS, _MAX_CHARACTERS = 64, 4096
"""The most tags that are kept of a file, and their most characters altogether. The header of a `.vtk` file is short."""
_UNKNOWN_LANGUAGE = "und"
_RATE = 48000
"""Samples per second of the sound with which a container is tried."""
_SIDE = 16
"""Height and width of the video with which a container is tried, in pixels."""


def kept_tags(metadata: Mapping[str, str]) -> tuple[Tags, list[str]]:
    """Choose the tags of a file that are kept.

    Args:
        metadata: All tags of the file.

    Returns:
        The tags that are kept, and the names of the ones that are too long or hold characters that cannot be printed.
        Tags that say how the file was made are in neither.
    """
    kept: list[tuple[str, str]] = []
    refused = []
    characters = 0
    for name, text in metadata.items():
        if name.lower() in _TECHNICAL or not text:
            continue
        size = len(name) + len(text)
        safe = all(map(is_printable, name)) and all(map(is_text, text))
        if safe and len(kept) < _MAX_TAGS and characters + size <= _MAX_CHARACTERS:
            kept.append((name, text))
            characters += size
        else:
            refused.append(name)
    return tuple(kept), refused


def track_tags(metadata: Mapping[str, str]) -> Tags:
    """Choose the tags of an audio track that are kept."""
    kept, _ = kept_tags({name: metadata[name] for name in _OF_TRACKS if name in metadata})
    return kept


def dropped_tags(tags: Tags, format_: str, options: Mapping[str, str]) -> list[str]:
    """Return the names of the tags that a container does not keep: tried with a small video, in memory.

    Args:
        tags: The tags of a file.
        format_: FFmpeg's name of the container.
        options: The options of the container.
    """
    if not tags:
        return []
    try:
        found = _read_back(tags, format_, options)
    except (av.FFmpegError, ValueError, OSError):
        found = {}
    return [name for name, text in tags if found.get(name.lower()) != text]


def dropped_track_tags(tags: Tags, format_: str, options: Mapping[str, str]) -> list[str]:
    """Return the names of the tags of an audio track that a container does not keep: tried with a moment of silence.

    Args:
        tags: The tags of the track.
        format_: FFmpeg's name of the container, which takes sound.
        options: The options of the container.
    """
    if not tags:
        return []
    try:
        found = _read_back_track(tags, format_, options)
    except (av.FFmpegError, ValueError, OSError):
        found = {}
    # Some languages have two codes, of which each container has its own.
    return [name for name, text in tags if not _is_same(name, text, found.get(name.lower()))]


def _is_same(name: str, text: str, found: str | None) -> bool:
    if name == "language" and found not in (None, _UNKNOWN_LANGUAGE):
        return True
    return found == text or (name == "language" and text == _UNKNOWN_LANGUAGE)


def _read_back_track(tags: Tags, format_: str, options: Mapping[str, str]) -> dict[str, str]:
    """Write a moment of silence with tags, and return those that are read back by their names in lower case."""
    data = io.BytesIO()
    with av.open(data, "w", format=format_, options=dict(options)) as container:
        stream = container.add_stream(container.default_audio_codec, rate=_RATE)
        assert isinstance(stream, AudioStream)
        stream.metadata.update(tags)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, _RATE // 10), np.int16), "s16", "mono")
        silence.sample_rate = _RATE
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    data.seek(0)
    with av.open(data, "r") as container:
        return {name.lower(): text for name, text in container.streams.audio[0].metadata.items()}


def _read_back(tags: Tags, format_: str, options: Mapping[str, str]) -> dict[str, str]:
    """Write a small video with tags, and return the tags that are read back from it by their names in lower case."""
    data = io.BytesIO()
    with av.open(data, "w", format=format_, options=dict(options)) as container:
        container.metadata.update(tags)
        stream = container.add_stream(container.default_video_codec, rate=25)
        assert isinstance(stream, VideoStream)
        stream.width = stream.height = _SIDE
        frame = av.VideoFrame.from_ndarray(np.zeros((_SIDE, _SIDE, 3), np.uint8), "rgb24")
        container.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
        container.mux(stream.encode(None))
    data.seek(0)
    with av.open(data, "r") as container:
        return {name.lower(): text for name, text in container.metadata.items()}
