"""Opens videos, images, image sequences and pipes with FFmpeg."""

from __future__ import annotations

import os
import sys
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer

from vtok_codec.errors import InputError
from vtok_codec.media.extent import HEAD_BYTES
from vtok_codec.media.ffmpeg import reason
from vtok_codec.media.sequences import find_sequence

STDIN = "pipe:0"
"""FFmpeg's name of standard input, which FFmpeg then reads itself."""
_LITERAL_NAMES = {"pattern_type": "none"}
"""The option with which FFmpeg's reader of images takes a name as it is."""


def open_video(source: str | Path | BinaryIO, name: str) -> InputContainer:
    """Open a file or a stream.

    Args:
        source: The path of a file, a binary stream, or the result of `standard_input`.
        name: The name of the source in messages.

    Raises:
        InputError: It cannot be opened.
    """
    try:
        options: dict[str, str] = {}
        if isinstance(source, str | Path) and source != STDIN:
            if not Path(source).exists():
                hint = "; give --rate to read an image sequence" if "%" in str(source) else ""
                raise InputError(f"{source}: no such file{hint}")
            # FFmpeg takes the text before a colon for a protocol, unless the path is absolute.
            # A name with `%d` or `*` is the name of one file, not a pattern of many.
            source, options = os.path.abspath(source), _LITERAL_NAMES
        # Tags may be in any encoding; `kept_tags` leaves out those that are no UTF-8.
        return av.open(source, "r", options=options, metadata_errors="surrogateescape")
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"cannot read {name} as a video: {reason(error)}") from error


def open_sequence(pattern: str, rate: Fraction) -> InputContainer:
    """Open an image sequence.

    Args:
        pattern: The pattern of its files; see `find_sequence`.
        rate: Frames per second.

    Raises:
        InputError: There is no such sequence, or it cannot be opened.
    """
    first = find_sequence(pattern).first
    options = {"framerate": str(rate), "start_number": str(first), "pattern_type": "sequence"}
    try:
        # Only the name is a pattern, whatever the folders are called.
        folder, name = os.path.split(os.path.abspath(pattern))
        return av.open(os.path.join(folder.replace("%", "%%"), name), "r", "image2", options)
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"cannot read {pattern} as pictures: {reason(error)}") from error


def head_of(source: str | Path | BinaryIO) -> bytes:
    """Return the first bytes of a file, or nothing for a pipe, from which they could not be read again."""
    if source == STDIN:
        return b""
    if isinstance(source, str | Path):
        if not Path(source).is_file():
            return b""
        with open(source, "rb") as file:
            return file.read(HEAD_BYTES)
    if not source.seekable():
        return b""
    at = source.tell()
    source.seek(0)
    head = source.read(HEAD_BYTES)
    source.seek(at)
    return head


def standard_input() -> BinaryIO | str:
    """Return standard input as a source for `VideoReader`: a seekable stream for a file, FFmpeg's name for a pipe."""
    return sys.stdin.buffer if sys.stdin.buffer.seekable() else STDIN
