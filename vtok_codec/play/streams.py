"""The videos that the player's page asks for: fragmented MP4, written while it is decoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vtok_codec.audio import AudioPacket
from vtok_codec.codec.decoder import Gap, decode_events
from vtok_codec.codec.pixel_decoder import PixelDecoder
from vtok_codec.container.header import Header
from vtok_codec.container.reader import VtkReader
from vtok_codec.errors import InputError
from vtok_codec.media.formats import OutputSettings, pipe_settings
from vtok_codec.media.parts import make_part
from vtok_codec.media.reader import VideoReader
from vtok_codec.media.types import Frame, VideoInfo
from vtok_codec.media.writer import VideoWriter
from vtok_codec.stream.headers import video_info

_FRAGMENT_S = 0.5
"""How long a browser waits for a piece of video, in seconds."""
_CRF = 12
"""The quality in which the page gets the frames: hardly any loss beside that of the tokens."""
_SOUND_OF_BROWSERS = {"aac", "flac", "mp3", "mp3float", "opus"}
"""FFmpeg's names of the sound that browsers play in MP4."""


def write_decoded(
    path: Path,
    header: Header,
    decoder: PixelDecoder,
    tokens: int | None,
    start_s: float,
    out: BinaryIO,
    is_wanted: Callable[[], bool] = lambda: True,
) -> list[str]:
    """Decode a file from some time on, and write it for a browser. Copies of frames stand in for damaged parts.

    Args:
        path: The file.
        header: The header that it had when the player began.
        decoder: What decodes it.
        tokens: Tokens per position to decode; None for all.
        start_s: Where to start, in seconds after the first frame.
        out: Where to write.
        is_wanted: Asked before each frame whether anybody still reads.

    Returns:
        What the page cannot get, such as a track of sound.

    Raises:
        InputError: The file is another one than that of the header.
        FormatError, DamageError, InputError, SettingError: See `decode_events`.
        BrokenPipeError: Nobody reads any more.
    """
    with path.open("rb") as stream:
        reader = VtkReader(stream)
        if reader.header != header:
            raise InputError(f"{path.name} is another file by now; start the player again")
        info = video_info(reader.header)
        with closing(decode_events(reader, decoder, tokens, start_s, recover=True)) as events:
            return _write(info, (event for event in events if not isinstance(event, Gap)), out, is_wanted)


def write_source(path: Path, start_s: float, out: BinaryIO, is_wanted: Callable[[], bool] = lambda: True) -> None:
    """Write a video of another format for a browser, without its sound.

    Args:
        path: The video.
        start_s: Where to start, in seconds after its first frame.
        out: Where to write.
        is_wanted: Asked before each frame whether anybody still reads.

    Raises:
        InputError: It cannot be read there.
        BrokenPipeError: Nobody reads any more.
    """
    # Parts count from the beginning of the file, where the sound may be earlier.
    with VideoReader(path, audio=False) as reader:
        first_s = float(reader.first_pts * reader.info.time_base)
    with VideoReader(path, audio=False, part=make_part(start_s + max(0.0, first_s), None)) as reader:
        _write(reader.info, reader.events(), out, is_wanted)


def _write(
    info: VideoInfo, events: Iterator[Frame | AudioPacket], out: BinaryIO, is_wanted: Callable[[], bool]
) -> list[str]:
    # Browsers show no H.264 with full chroma, which odd sides would need. One more row or column makes them even.
    more = ((0, info.height % 2), (0, info.width % 2), (0, 0))
    even = dataclasses.replace(info, width=info.width + more[1][1], height=info.height + more[0][1])
    sound = None if {track.codec for track in info.audio} <= _SOUND_OF_BROWSERS else "aac"
    settings: OutputSettings = dataclasses.replace(pipe_settings("mp4", None, _CRF, sound), fragment_s=_FRAGMENT_S)
    with VideoWriter(out, even, settings) as writer:
        for event in events:
            if not is_wanted():
                raise BrokenPipeError
            if isinstance(event, Frame):
                event = dataclasses.replace(event, pixels=np.pad(event.pixels, more, mode="edge"))
            writer.write(event)
    return writer.dropped
