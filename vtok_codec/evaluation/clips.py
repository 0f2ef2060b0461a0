"""The clips that are measured."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vtok_codec.media.reader import VideoReader
from vtok_codec.media.types import Pixels, VideoInfo


@dataclass(frozen=True)
class Clip:
    """A clip, and what stays the same for every codec."""

    name: str
    path: Path
    info: VideoInfo
    stream: int
    """Number of the video stream in its file."""
    codec: str
    """FFmpeg's name of the codec that it comes in."""
    frames: int
    seconds: float | None
    """None for a still image."""
    sha256: str

    def pixels(self) -> Iterator[Pixels]:
        """The frames, `H W 3`.

        Raises:
            InputError: the file cannot be read to its end.
        """
        with VideoReader(self.path, audio=False) as reader:
            for frame in reader.frames():
                yield frame.pixels


def open_clip(path: Path, name: str | None = None) -> Clip:
    """Read a clip once, for its size, length and hash.

    Raises:
        InputError: it cannot be read.
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
    # A name that is no text must not end a report at its last line.
    shown = (name or path.name).encode("utf-8", "replace").decode()
    return Clip(shown, path, info, stream, codec, len(times), seconds, digest)
