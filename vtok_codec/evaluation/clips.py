"""The source clips that codecs are measured on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vtok_codec.media.reader import VideoReader
from vtok_codec.media.types import Pixels, VideoInfo
from vtok_codec.text import printable


@dataclass(frozen=True)
class SourceClip:
    """A clip, with the properties that every measurement needs."""

    name: str
    """The name of the clip in tables, safe to print."""
    path: Path
    """The file."""
    info: VideoInfo
    """The description of the video."""
    stream: int
    """The number of the video stream in the file."""
    codec: str
    """FFmpeg's name of the codec that the file is stored in."""
    frames: int
    """The number of frames."""
    seconds: float | None
    """The duration in seconds; None for a still image."""
    sha256: str
    """The SHA-256 of the file, in hexadecimal."""

    def pixels(self) -> Iterator[Pixels]:
        """Yield the frames, uint8 RGB `H W 3`.

        Raises:
            InputError: The file cannot be read to its end.
        """
        with VideoReader(self.path, audio=False) as reader:
            for frame in reader.frames():
                yield frame.pixels


def open_clip(path: Path, name: str | None = None) -> SourceClip:
    """Read a clip once to find its size, length and hash.

    Args:
        path: The file.
        name: The name of the clip; None for the file's name.

    Raises:
        InputError: The file cannot be read.
    """
    with VideoReader(path, audio=False) as reader:
        times = [(frame.pts, frame.duration) for frame in reader.frames()]
        info, stream, codec = reader.info, reader.stream_index, reader.codec_name
    seconds = None
    if info.rate:
        last = times[-1][1] or round(1 / (info.rate * info.time_base))
        seconds = float((times[-1][0] - times[0][0] + last) * info.time_base)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return SourceClip(printable(name or path.name), path, info, stream, codec, len(times), seconds, digest)
