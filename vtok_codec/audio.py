"""Audio as it is read, stored and written: tracks and packets, which are copied without decoding them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

Tags: TypeAlias = tuple[tuple[str, str], ...]
"""Pairs of a name and a text, each name once. Texts may have several lines."""


@dataclass(frozen=True)
class AudioTrack:
    """An audio track."""

    codec: str
    """FFmpeg's name of the codec."""
    time_base: Fraction
    """The length in seconds of one tick of the track's packet times."""
    sample_rate: int
    """The number of samples per second."""
    layout: str
    """FFmpeg's name of the channel layout, such as `stereo`."""
    parameters: bytes
    """The codec parameters, as a NUT file that holds only this track, with one packet of zeros."""
    avi_parameters: bytes = b""
    """The same as an AVI file, for codecs whose parameters NUT does not store in full; empty for all others."""
    tags: Tags = ()
    """What the source says about the track, such as its language."""


@dataclass(frozen=True)
class AudioPacket:
    """A coded packet of an audio track. Its times are in ticks of `AudioTrack.time_base`."""

    track: int
    """The index of the packet's track among those of its file."""
    pts: int | None
    """The presentation time in ticks; None if it is unknown."""
    dts: int | None
    """The decoding time in ticks; None if it is unknown."""
    duration: int
    """The duration in ticks; 0 if it is unknown."""
    data: bytes
    """The coded packet."""
