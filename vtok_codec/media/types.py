"""What passes between files and the codec: a description of the video, its frames, its audio packets."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

DEFAULT_RATE = Fraction(25)
"""Frames a second, where nothing says how many."""

Pixels: TypeAlias = NDArray[np.uint8]
"""RGB, `H W 3`."""


@dataclass(frozen=True)
class Color:
    """How YUV relates to light: code points of ISO/IEC 23091-2, and FFmpeg's range (0 unknown, 1 limited, 2 full)."""

    range: int = 0
    primaries: int = 2
    transfer: int = 2
    matrix: int = 2


@dataclass(frozen=True)
class AudioTrack:
    """An audio stream whose packets are carried as they are."""

    codec: str
    time_base: Fraction
    sample_rate: int
    layout: str
    parameters: bytes
    """A NUT file of this track alone, with one packet of zeros: all that a decoder needs, as any FFmpeg reads it."""


@dataclass(frozen=True)
class VideoInfo:
    """What a file says of its video, apart from the frames."""

    width: int
    height: int
    rate: Fraction | None
    """Nominal frames a second; None for a still image."""
    time_base: Fraction
    """Seconds a tick of `Frame.pts`."""
    sar: Fraction = Fraction(1)
    """Sample aspect ratio: the shape of a pixel."""
    color: Color = field(default_factory=Color)
    rotation: int = 0
    """Degrees counter-clockwise that a player turns the coded picture; never applied here."""
    bit_depth: int = 8
    """Bits a sample of the source."""
    audio: tuple[AudioTrack, ...] = ()


@dataclass(frozen=True)
class Frame:
    """One picture, at its time."""

    pixels: Pixels
    pts: int
    """Presentation time, in the time base of its video."""
    duration: int = 0
    """In the same ticks; 0 where the file does not say."""


@dataclass(frozen=True)
class AudioPacket:
    """A coded packet of one audio track; times in that track's time base."""

    track: int
    pts: int | None
    dts: int | None
    duration: int
    data: bytes
