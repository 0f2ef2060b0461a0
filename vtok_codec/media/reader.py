"""Reads videos and images, from files and pipes: frames in RGB with their times, and audio packets as they are."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Stream
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vtok_codec.errors import InputError
from vtok_codec.media.audio import describe_track
from vtok_codec.media.color import RGBConverter
from vtok_codec.media.extent import HEAD_BYTES, announced_size
from vtok_codec.media.ffmpeg import reason
from vtok_codec.media.timeline import Timeline
from vtok_codec.media.types import DEFAULT_RATE, AudioPacket, Color, Frame, VideoInfo

_STDIN = "pipe:0"
"""FFmpeg's own reader of standard input."""
_STILL_FORMATS = ("image2", "_pipe")
"""Endings of FFmpeg's names of the formats that hold pictures without a rate."""


_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
"""Of ISO/IEC 23091-2."""


class VideoReader:
    """The first video stream of a file, with its audio.

    Memory does not grow with the length, only with the audio that stands before the first frame.

    Raises:
        InputError: it cannot be opened, or has no video frame.
    """

    def __init__(self, source: str | Path | BinaryIO, audio: bool = True) -> None:
        named = isinstance(source, str | Path) and source != _STDIN
        self.name = str(source) if named else "standard input"
        self._container = self._open(source)
        try:
            self._announced_bytes = announced_size(_head(source))
            self._stream = self._video_stream()
            tracks = [(s, describe_track(s)) for s in self._container.streams.audio] if audio else []
            self._tracks = {stream.index: track for stream, track in tracks if track}
            self._refused = [f"audio track {s.index}" for s, track in tracks if not track]
            self._convert = RGBConverter()
            self._timeline = Timeline()
            self._previous_pts: int | None = None
            self._inside = False
            self._decoded = self._decode()
            self._pending_audio, first = self._until_first_frame()
            self._rotation, self._mirrored = _orientation(first)
            self.info = self._describe(first)
            self._first = first
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A thread that still waits for a pipe holds the container; it is left to the end of the process.
        if not self._inside:
            self._container.close()

    @property
    def frame_count(self) -> int | None:
        """How many frames the file says it has; None where it does not say."""
        return self._stream.frames or None

    @property
    def losses(self) -> list[str]:
        """What of the pictures and tracks does not come through, a sentence each."""
        told = []
        if self.info.bit_depth > 8:
            told.append(f"{self.info.bit_depth} bits a sample are coded with 8")
        if self.info.color.transfer in _HDR_TRANSFERS:
            told.append(f"{_HDR_TRANSFERS[self.info.color.transfer]} light is coded as it comes, with its tags")
        if self._first.interlaced_frame:
            told.append("interlaced frames are coded as they are; deinterlace them first for a better picture")
        if _shows_through(self._first):
            told.append("transparency is left out")
        told += [f"{name} cannot be carried and is left out" for name in [*self._refused, *self._other_streams()]]
        return told

    @property
    def joins(self) -> int:
        """How often the times that were read so far jumped back: what follows was moved to where they had come to."""
        return self._timeline.joins

    def _other_streams(self) -> list[str]:
        streams = self._container.streams
        counts = {
            "subtitle track": len(streams.subtitles),
            "other video stream": len(streams.video) - 1,
            "data track": len(streams.data),
            "attachment": len(streams.attachments),
            "chapter": len(self._container.chapters()),
        }
        return [f"{count} {name}{'s' if count > 1 else ''}" for name, count in counts.items() if count]

    @property
    def stream_index(self) -> int:
        """Which stream of the file is read."""
        return self._stream.index

    @property
    def codec_name(self) -> str:
        """FFmpeg's name of the codec that the video comes in."""
        return self._stream.codec_context.name

    def frames(self) -> Iterator[Frame]:
        """The frames alone; see `events`."""
        return (event for event in self.events() if isinstance(event, Frame))

    def events(self) -> Iterator[Frame | AudioPacket]:
        """Frames and audio packets in the order of the file. It can be read once.

        Raises:
            InputError: the data cannot be decoded further, or the picture changes its size.
        """
        for item in chain(self._pending_audio, [self._first], self._decoded):
            yield self._frame(item) if isinstance(item, av.VideoFrame) else item

    def _open(self, source: str | Path | BinaryIO) -> InputContainer:
        try:
            if isinstance(source, str | Path) and source != _STDIN and not Path(source).exists():
                raise InputError(f"{source}: no such file")
            if isinstance(source, str | Path) and source != _STDIN:
                # An absolute path, since FFmpeg takes what stands before a colon for a protocol.
                return av.open(os.path.abspath(source), "r")
            return av.open(source, "r")
        except (av.FFmpegError, OSError) as error:
            raise InputError(f"cannot read {self.name} as a video: {reason(error)}") from error

    def _video_stream(self) -> VideoStream:
        stream = self._container.streams.best("video")
        if not isinstance(stream, VideoStream):
            raise InputError(f"{self.name} has no video stream")
        if stream.codec_context is None:
            raise InputError(f"{self.name} has video of a codec that this FFmpeg cannot decode")
        # Threads of frames hold pictures back, which a live pipe would wait for, and lose those in flight at a damage.
        stream.thread_type = "SLICE"
        return stream

    def _decode(self) -> Iterator[av.VideoFrame | AudioPacket]:
        wanted = [self._stream, *(self._container.streams[index] for index in self._tracks)]
        numbers = {index: number for number, index in enumerate(self._tracks)}
        packets = iter(self._container.demux(*wanted))
        damaged = 0
        cut = _CutPackets()
        while True:
            self._inside = True
            try:
                packet = next(packets, None)
                anew = packet is not None and self._timeline.place(packet)
                frames = [] if packet is None or isinstance(packet.stream, AudioStream) else _pictures(packet)
            except av.InvalidDataError:
                damaged += 1
                continue
            except av.FFmpegError as error:
                raise InputError(f"{self.name} is damaged: {reason(error)}") from error
            finally:
                self._inside = False
            if packet is None:
                break
            stream = packet.stream_index
            damaged += cut.confirmed(stream, anew)
            # What was cut off may decode all the same, to half a picture: demuxer or decoder marks it.
            if any(frame.is_corrupt for frame in frames):
                damaged += 1
            elif packet.is_corrupt:
                cut.suspect(stream)
            yield from frames
            if isinstance(packet.stream, AudioStream) and packet.size:
                number = numbers[packet.stream.index]
                yield AudioPacket(number, packet.pts, packet.dts, packet.duration or 0, bytes(packet))
        self._require_whole(damaged + cut.left())

    def _require_whole(self, damaged: int) -> None:
        """Tell, after all frames, what was missing among them: so many packets, or the end."""
        if how := self._cut_short():
            raise InputError(f"{self.name} is cut short: {how}")
        if damaged:
            raise InputError(
                f"{self.name} is damaged: {damaged} packet{'s are' if damaged > 1 else ' is'} cut or cannot be decoded"
            )

    def _cut_short(self) -> str | None:
        """How a file tells that its end is missing, of which FFmpeg says nothing; None where it does not."""
        # Negative for a pipe.
        size = self._container.size
        end = max((entry.pos + entry.size for entry in self._stream.index_entries), default=0)
        if 0 < size < end:
            return "its index names frames after its end"
        if 0 < size < (self._announced_bytes or 0):
            return f"it says that it has {self._announced_bytes} bytes, and has {size}"
        return None

    def _until_first_frame(self) -> tuple[list[AudioPacket], av.VideoFrame]:
        audio: list[AudioPacket] = []
        for item in self._decoded:
            if isinstance(item, av.VideoFrame):
                return audio, item
            audio.append(item)
        raise InputError(f"{self.name} has no video frame that can be decoded")

    def _describe(self, first: av.VideoFrame) -> VideoInfo:
        stream = self._stream
        still = self._container.format.name.endswith(_STILL_FORMATS)
        rate = stream.guessed_rate or stream.average_rate
        sar = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
        return VideoInfo(
            width=first.width,
            height=first.height,
            rate=None if still or not rate else Fraction(rate),
            time_base=Fraction(first.time_base or stream.time_base or Fraction(1, 1000)),
            sar=Fraction(sar) if sar and sar > 0 else Fraction(1),
            color=Color(first.color_range, first.color_primaries, first.color_trc, first.colorspace),
            rotation=self._rotation,
            bit_depth=max(component.bits for component in first.format.components),
            audio=tuple(self._tracks.values()),
        )

    def _frame(self, frame: av.VideoFrame) -> Frame:
        info = self.info
        if (frame.width, frame.height) != (info.width, info.height):
            raise InputError(
                f"{self.name} changes its size from {info.width}x{info.height} to {frame.width}x{frame.height}; "
                "scale it to one size first"
            )
        pts = frame.pts if frame.pts is not None else self._next_pts()
        if self._previous_pts is not None and pts <= self._previous_pts:
            # Two frames cannot be shown at once; what follows keeps its own times.
            pts = self._previous_pts + 1
        self._previous_pts = pts
        pixels = self._convert(frame, info.color)
        if self._mirrored:
            # No container of ours says so; turned by `rotation` after it, the picture is the one meant to be seen.
            pixels = np.ascontiguousarray(pixels[:, ::-1])
        return Frame(pixels, pts, frame.duration or 0)

    def _next_pts(self) -> int:
        if self._previous_pts is None:
            return 0
        rate = self.info.rate or DEFAULT_RATE
        return self._previous_pts + max(1, round(1 / (rate * self.info.time_base)))


class _CutPackets:
    """Packets marked as cut. Where another file was joined on they are none.

    The last picture of a transport stream has no length of its own, so that its demuxer misses the end of it.
    """

    _WAIT = 2
    """Packets of a stream, at most, from one that is marked to the jump: a parser may hold one back."""

    def __init__(self) -> None:
        self._waits: dict[int, int] = {}

    def suspect(self, stream: int) -> None:
        self._waits[stream] = self._WAIT

    def confirmed(self, stream: int, anew: bool) -> bool:
        """Whether the next packet of a stream, which starts it anew or not, shows that one before it was cut."""
        if stream not in self._waits:
            return False
        self._waits[stream] -= 1
        if anew or not self._waits[stream]:
            del self._waits[stream]
            return not anew
        return False

    def left(self) -> int:
        """Those that the end of the file leaves."""
        return len(self._waits)


def _pictures(packet: av.Packet[Stream]) -> list[av.VideoFrame]:
    return [frame for frame in packet.decode() if isinstance(frame, av.VideoFrame)]


def _head(source: str | Path | BinaryIO) -> bytes:
    """The first bytes of a file; none of a pipe, which cannot give them twice."""
    if source == _STDIN:
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


def _orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """Degrees that a frame is to be turned counter-clockwise, and whether it is to be mirrored sideways before that."""
    rotation = int(frame.rotation)
    side_data: Any = frame.side_data
    matrices = [bytes(data) for data in side_data if data.type.name == "DISPLAYMATRIX"]
    if not matrices:
        return rotation, False
    a, b, _, c, d, *_ = struct.unpack("=9i", matrices[0])
    # FFmpeg's angle is that of a matrix without a mirror.
    return ((rotation + 360) % 360 - 180, True) if a * d - b * c < 0 else (rotation, False)


def _shows_through(frame: av.VideoFrame) -> bool:
    """Whether a frame has transparent pixels."""
    # A palette may hold transparent colours.
    if frame.format.name != "pal8" and not any(component.is_alpha for component in frame.format.components):
        return False
    alpha = frame.reformat(format="rgba").to_ndarray()[..., 3]
    return bool(alpha.min() < 255)


def read_pixels(path: Path, max_frames: int) -> NDArray[np.uint8]:
    """The first frames of a file as RGB `T H W 3`.

    Raises:
        InputError: it cannot be read.
    """
    frames = []
    with VideoReader(path, audio=False) as reader:
        for frame in islice(reader.frames(), max_frames):
            frames.append(frame.pixels)
    return np.stack(frames)


def standard_input() -> BinaryIO | str:
    """Standard input as a source: seekable where it is a file, FFmpeg's own pipe reader where it is a pipe."""
    return sys.stdin.buffer if sys.stdin.buffer.seekable() else _STDIN
