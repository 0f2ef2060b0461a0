"""Filters decoded frames with libavfilter, as `ffmpeg -vf` does: other sizes, other frame rates, crops."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import av
from av.filter import Graph
from av.filter.context import FilterContext

from vtok_codec.errors import InputError, SettingError
from vtok_codec.media.ffmpeg import reason

_TURNS = {90: ("transpose", "cclock"), 180: ("transpose", "clock"), 270: ("transpose", "clock")}
"""The filter that turns a picture counter-clockwise; half a turn takes two of them."""
_CHANGES_SHAPE = ("setsar", "setdar", "zscale", "scale2ref")
"""Filters that change the shape of pixels in ways that libavfilter does not report to us."""
_TURNING = ("transpose", "rotate")
"""Filters that may exchange the sides of pixels."""
_UNKNOWN_TAGS = {"color_range": 0, "color_primaries": 2, "color_trc": 2, "colorspace": 2}
"""The tags that describe the colours of a frame, and the value of each that stands for unknown."""

Step = tuple[str, str | None]
"""A filter's name and its options as `ffmpeg -vf` writes them; None for no options."""


def parse_filters(text: str) -> tuple[Step, ...]:
    """Split a chain of filters such as `fps=16,scale=-2:256`.

    Args:
        text: The filters in the syntax of `ffmpeg -vf`: `NAME=OPTIONS`, separated by commas. Quotes and backslashes
            protect commas inside the options. Graphs with labels or several branches are not supported.

    Raises:
        SettingError: There is no such filter, or the text describes more than a chain.
    """
    steps: list[Step] = []
    for part in _split(text):
        name, _, options = part.strip().partition("=")
        if name in _CHANGES_SHAPE:
            raise SettingError(f"filter {name}: it changes the shape of pixels, which is not supported; use scale")
        try:
            av.filter.Filter(name)
        except ValueError:
            raise SettingError(f"filter {name!r}: FFmpeg has no filter of that name") from None
        steps.append((name, options or None))
    return tuple(steps)


def _split(text: str) -> list[str]:
    """Split text at the commas that neither quotes nor a backslash protect, and take one level of quoting away."""
    parts, quoted, escaped = [""], False, False
    for sign in text:
        if escaped or (quoted and sign != "'"):
            parts[-1] += sign
            escaped = False
        elif sign == "'":
            quoted = not quoted
        elif sign == "\\":
            escaped = True
        elif sign == ",":
            parts.append("")
        elif sign in ";[]":
            raise SettingError(f"filter {text!r}: give a chain of filters, without labels and branches")
        else:
            parts[-1] += sign
    return parts


class FilterChain:
    """Filters the frames of a video.

    Args:
        steps: The filters (`parse_filters`).
        first: The first decoded frame, whose size and pixel format all others must have.
        time_base: The time base of the frames' times.
        rotation: By how many degrees counter-clockwise a player turns the picture. The chain turns it before the first
            filter, as ffmpeg does, so that width and height are what a viewer sees.
        mirrored: Whether to mirror the picture left to right before it is turned.

    Raises:
        SettingError: A filter does not take its options.
    """

    def __init__(
        self,
        steps: tuple[Step, ...],
        first: av.VideoFrame,
        time_base: Fraction,
        rotation: int = 0,
        mirrored: bool = False,
    ) -> None:
        self._shape = (first.width, first.height)
        self._tags = {name: getattr(first, name) for name in _UNKNOWN_TAGS}
        turns: list[Step] = [("hflip", None)] if mirrored else []
        if rotation % 360:
            turns += [_TURNS[rotation % 360]] * (2 if rotation % 360 == 180 else 1)
        self._steps = (*turns, *steps)
        self._graph = Graph()
        self._graph.threads = 1
        try:
            last: FilterContext = self._graph.add_buffer(
                width=first.width, height=first.height, format=first.format, time_base=time_base
            )
            for name, options in (*self._steps, ("buffersink", None)):
                following = self._graph.add(name, options)
                last.link_to(following)
                last = following
            self._graph.configure()
        except (av.FFmpegError, ValueError) as error:
            shown = ",".join("=".join(filter(None, step)) for step in steps)
            raise SettingError(f"filter {shown!r}: FFmpeg refuses it: {reason(error)}") from None

    def push(self, frame: av.VideoFrame) -> Iterator[av.VideoFrame]:
        """Filter a frame, and yield the frames that are ready.

        Raises:
            InputError: The frame has another size than the first.
        """
        if (frame.width, frame.height) != self._shape:
            raise InputError(
                f"the size changes from {self._shape[0]}x{self._shape[1]} to {frame.width}x{frame.height}; "
                "scale it to one size first"
            )
        self._graph.push(frame)
        yield from self._ready()

    def flush(self) -> Iterator[av.VideoFrame]:
        """Yield the frames that are left once the last frame has been pushed."""
        self._graph.push(None)
        yield from self._ready()

    def _ready(self) -> Iterator[av.VideoFrame]:
        while True:
            try:
                frame = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            assert isinstance(frame, av.VideoFrame)
            for name, unknown in _UNKNOWN_TAGS.items():
                # The buffer that feeds the graph drops the tags.
                if getattr(frame, name) == unknown:
                    setattr(frame, name, self._tags[name])
            yield frame

    def rate(self, rate: Fraction | None) -> Fraction | None:
        """Return the frame rate after the filters, given that before them; None for a still image."""
        for name, options in self._steps:
            if name == "fps" and rate is not None:
                rate = _fps(options) or rate
        return rate

    def sar(self, sar: Fraction, made: av.VideoFrame) -> Fraction:
        """Return the shape of pixels after the filters.

        Args:
            sar: The width of a pixel relative to its height before the filters.
            made: A filtered frame.
        """
        names = [name for name, _ in self._steps]
        width, height = self._shape
        if sum(name in _TURNING for name in names) % 2:
            sar, width, height = 1 / sar, height, width
        if "scale" not in names:
            return sar
        # `scale` keeps the shape of the whole picture. With a crop beside it, pixels keep their own shape.
        if any(name in ("crop", "pad") for name in names):
            return sar
        return (sar * width * made.height / (height * made.width)).limit_denominator(10_000)


def _fps(options: str | None) -> Fraction | None:
    """Return the rate that the options of `fps` name, or None if it is no plain number."""
    text = (options or "25").split(":")[0].removeprefix("fps=")
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        return None
