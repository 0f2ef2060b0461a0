"""The data that pass between media files and the codec: descriptions of videos, frames and audio packets."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vtok_codec.audio import AudioTrack, Tags

DEFAULT_RATE = Fraction(25)
"""The number of frames per second of a video that does not declare its rate."""


Pixels: TypeAlias = NDArray[np.uint8]
"""A picture in RGB, uint8 `H W 3`, or several of the same size, `T H W 3`."""


class Color(NamedTuple):
    """The colour tags of a video, which say how its YUV or RGB values relate to light."""

    range: int = 0
    """FFmpeg's number of the colour range: 0 unknown, 1 limited, 2 full."""
    primaries: int = 2
    """The code point of the colour primaries in ISO/IEC 23091-2; 2 if they are unknown."""
    transfer: int = 2
    """The code point of the transfer characteristics in ISO/IEC 23091-2; 2 if they are unknown."""
    matrix: int = 2
    """The code point of the matrix coefficients in ISO/IEC 23091-2; 2 if they are unknown."""


@dataclass(frozen=True)
class VideoInfo:
    """The description of a video, without its frames."""

    width: int
    """The width of the frames in pixels."""
    height: int
    """The height of the frames in pixels."""
    rate: Fraction | None
    """The nominal number of frames per second; None for a still image."""
    time_base: Fraction
    """The length in seconds of one tick of `Frame.pts` and `Frame.duration`."""
    sar: Fraction = Fraction(1)
    """The sample aspect ratio, which is the width of a pixel over its height."""
    color: Color = Color()  # noqa: RUF009 - it cannot change
    """The colour tags of the video."""
    rotation: int = 0
    """The angle by which a player turns the frames, in degrees counter-clockwise. `Frame.pixels` are not turned."""
    bit_depth: int = 8
    """The number of bits per sample in the source."""
    audio: tuple[AudioTrack, ...] = ()
    """The audio tracks."""
    tags: Tags = ()
    """What the source says about itself, such as its title."""


@dataclass(frozen=True)
class Frame:
    """A frame of a video, with its time."""

    pixels: Pixels
    """The picture in RGB, uint8 `H W 3`."""
    pts: int
    """The presentation time, in ticks of `VideoInfo.time_base`."""
    duration: int = 0
    """The duration, in ticks of `VideoInfo.time_base`; 0 if it is unknown."""
