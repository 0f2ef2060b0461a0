"""Filters decoded frames with libavfilter, as `ffmpeg -vf` does: other sizes, other frame rates, crops."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

import av
from av.filter import Graph

from vtok_codec.errors import InputError, SettingError
from vtok_codec.media.ffmpeg import reason

_TURNS = {90: ("transpose", "cclock"), 180: ("transpose", "clock"), 270: ("transpose", "clock")}
"""The filter that turns a picture counter-clockwise; half a turn takes two of them."""
_CHANGES_SHAPE = frozenset(("setsar", "setdar", "zscale", "scale2ref", "rotate"))
"""Filters that change the shape of pixels in ways that libavfilter does not report to us."""
_CHANGES_TIMES = frozenset(
    (
        *("framestep", "setpts", "settb", "minterpolate", "framerate", "select", "tile", "tpad", "trim", "loop"),
        *("telecine", "detelecine", "pullup", "decimate", "mpdecimate", "shuffleframes", "random", "reverse"),
        *("freezeframes", "thumbnail", "separatefields", "weave", "doubleweave", "tinterlace", "w3fdif", "nnedi"),
        *("zoompan", "estdif", "metadata", "untile"),
    )
)
"""Filters that change times or the frame rate in ways that libavfilter does not report to us."""

_DEINTERLACERS = {"bwdif": "send_field", "yadif": "send_frame"}
"""Filters that make a frame of each field in some of their modes, and the mode that each has by default."""
_FIELD_MODES = frozenset(("send_field", "send_field_nospatial", "1", "3"))
"""The names and numbers of those modes."""

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
        if name in _CHANGES_TIMES:
            raise SettingError(f"filter {name}: it changes the times of frames, which is not supported; use fps")
        if name == "fps":
            _fps(options)
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
    """Filters the frames of a video. Every filter is a graph of its own, so that the size after each is known.

    Args:
        steps: The filters (`parse_filters`).
        first: The first decoded frame, whose size and pixel format all others must have.
        time_base: The time base of the frames' times.
        rotation: By how many degrees counter-clockwise a player turns the picture. The chain turns it before the first
            filter, as ffmpeg does, so that width and height are what a viewer sees.
        mirrored: Whether to mirror the picture left to right before it is turned.
        name: What error messages call the video.

    Raises:
        InputError: The picture is turned by an angle other than a quarter turn.
    """

    def __init__(
        self,
        steps: tuple[Step, ...],
        first: av.VideoFrame,
        time_base: Fraction,
        rotation: int = 0,
        mirrored: bool = False,
        name: str = "the video",
    ) -> None:
        self._name, self._size = name, (first.width, first.height)
        self._tags = {name: getattr(first, name) for name in _UNKNOWN_TAGS}
        self._time_base = time_base
        turns: list[Step] = [("hflip", None)] if mirrored else []
        if rotation % 90:
            raise InputError(f"{name} is turned by {rotation} degrees, which filters cannot do; leave out --filter")
        if rotation % 360:
            turns += [_TURNS[rotation % 360]] * (2 if rotation % 360 == 180 else 1)
        self._filters = [_Filter(step) for step in (*turns, *steps)]

    def push(self, frame: av.VideoFrame) -> Iterator[av.VideoFrame]:
        """Filter a frame, and yield the frames that are ready.

        Raises:
            InputError: The frame has another size than the first.
            SettingError: A filter does not take its options.
        """
        if (frame.width, frame.height) != self._size:
            raise InputError(
                f"{self._name} changes its size from {self._size[0]}x{self._size[1]} to {frame.width}x{frame.height}; "
                "scale it to one size first"
            )
        if not frame.time_base:
            frame.time_base = self._time_base
        yield from self._through([frame], self._filters)

    def flush(self) -> Iterator[av.VideoFrame]:
        """Yield the frames that are left once the last frame has been pushed."""
        for place, each in enumerate(self._filters):
            yield from self._through(each.flush(), self._filters[place + 1 :])

    def _through(self, frames: Iterable[av.VideoFrame], filters: Sequence[_Filter]) -> Iterator[av.VideoFrame]:
        """Yield frames after several filters."""
        for each in filters:
            frames = each.filtered(frames)
        for frame in frames:
            for name, unknown in _UNKNOWN_TAGS.items():
                # The buffer that feeds a graph drops the tags.
                if getattr(frame, name) == unknown:
                    setattr(frame, name, self._tags[name])
            yield frame

    def rate(self, rate: Fraction | None) -> Fraction | None:
        """Return the frame rate after the filters, given that before them; None for a still image."""
        for name, options in (each.step for each in self._filters):
            if name == "fps" and rate is not None:
                rate = _fps(options)
            elif rate is not None and _makes_frames_of_fields(name, options):
                rate *= 2
        return rate

    def sar(self, sar: Fraction) -> Fraction:
        """Return the shape of pixels after the filters, once a frame has passed them.

        Args:
            sar: The width of a pixel relative to its height before the filters.
        """
        for each in self._filters:
            sar = each.sar(sar)
        return sar.limit_denominator(10_000)


class _Filter:
    """One filter of a chain, which is set up for the first frame that it gets."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self._graph: Graph | None = None
        self._before = self._after = (0, 0)
        """The sizes before and after the filter."""

    def filtered(self, frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """Yield the frames that are ready as frames come in."""
        for frame in frames:
            if self._graph is None:
                self._graph = self._set_up(frame)
                self._before = (frame.width, frame.height)
            self._graph.push(frame)
            yield from self._ready()

    def flush(self) -> Iterator[av.VideoFrame]:
        """Yield the frames that are left at the end."""
        if self._graph is not None:
            self._graph.push(None)
            yield from self._ready()

    def sar(self, sar: Fraction) -> Fraction:
        """Return the shape of pixels after the filter, given that before it."""
        name, (width, height), (made_width, made_height) = self.step[0], self._before, self._after
        if name == "transpose":
            return 1 / sar
        if name == "scale" and made_height and height:
            # It keeps the shape of the whole picture.
            return sar * width * made_height / (height * made_width)
        return sar

    def _set_up(self, frame: av.VideoFrame) -> Graph:
        graph = Graph()
        graph.threads = 1
        name, options = self.step
        try:
            begin = graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(frame.time_base or 1)
            )
            middle, end = graph.add(name, options), graph.add("buffersink", None)
            begin.link_to(middle)
            middle.link_to(end)
            graph.configure()
        except (av.FFmpegError, ValueError) as error:
            shown = "=".join(filter(None, self.step))
            raise SettingError(f"filter {shown!r}: FFmpeg refuses it: {reason(error)}") from None
        return graph

    def _ready(self) -> Iterator[av.VideoFrame]:
        assert self._graph is not None
        while True:
            try:
                frame = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            assert isinstance(frame, av.VideoFrame)
            self._after = (frame.width, frame.height)
            yield frame


def _makes_frames_of_fields(name: str, options: str | None) -> bool:
    """Return whether a filter makes two frames of each interlaced one."""
    if name not in _DEINTERLACERS:
        return False
    named = [part.partition("=") for part in (options or "").split(":") if part]
    modes = [value if key == "mode" else key for key, sign, value in named if key == "mode" or not sign]
    return (modes or [_DEINTERLACERS[name]])[0] in _FIELD_MODES


def _fps(options: str | None) -> Fraction:
    """Return the rate that the options of `fps` name.

    Raises:
        SettingError: It is no number above 0.
    """
    named = [part.partition("=") for part in (options or "25").split(":")]
    texts = [value if name == "fps" else name for name, sign, value in named if name == "fps" or not sign]
    try:
        rate = Fraction(texts[0])
        if rate > 0:
            return rate
    except (IndexError, ValueError, ZeroDivisionError):
        pass
    raise SettingError(f"filter 'fps={options}': give frames per second as a number, such as 25 or 30000/1001")
