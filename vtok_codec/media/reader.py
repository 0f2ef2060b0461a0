"""Reads videos and images from files and pipes: RGB frames with their times, and audio packets without decoding."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import av
import numpy as np
from av.audio.stream import AudioStream
from av.stream import Stream
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vtok_codec.audio import AudioPacket
from vtok_codec.errors import InputError
from vtok_codec.media.audio import describe_track
from vtok_codec.media.color import RGBConverter
from vtok_codec.media.cut_packets import CutPackets
from vtok_codec.media.extent import announced_size
from vtok_codec.media.ffmpeg import reason
from vtok_codec.media.filters import FilterChain, parse_filters
from vtok_codec.media.losses import describe_losses
from vtok_codec.media.opening import STDIN, head_of, open_sequence, open_video
from vtok_codec.media.parts import Cutter, Part, Placed, from_key_frame, packets_before
from vtok_codec.media.side_data import side_data
from vtok_codec.media.tags import kept_tags
from vtok_codec.media.timeline import Timeline
from vtok_codec.media.types import DEFAULT_RATE, Color, Frame, VideoInfo

_HAS_CLOCK_JUMPS = 0x0200
"""FFmpeg's flag of formats whose clock may jump (AVFMT_TS_DISCONT), such as MPEG transport streams."""
_WITHOUT_PICTURE_TIMES = ("avi",)
"""FFmpeg's names of the formats that store no presentation times."""
_STILL_FORMATS = ("image2", "_pipe")
"""The endings of FFmpeg's names of still image formats, which have no frame rate."""


class VideoReader:
    """Reads the main video stream of a file, as FFmpeg chooses it, together with the audio tracks.

    Memory use does not depend on the length of the file, only on the amount of audio before the first frame.

    Args:
        source: The path of a file, a binary stream, or the result of `standard_input`.
        audio: Whether to read the audio tracks.
        filters: Filters for the frames, in the syntax of `parse_filters`. They read the picture turned as a player
            shows it.
        name: The name of the source in messages; by default its path.
        part: The part to read; None for all.
        sequence_rate: For an image sequence, whose source is a pattern such as `frame%04d.png`: frames per second. None
            if the source is a file.

    Raises:
        InputError: The source cannot be opened, or has no video frame.
        SettingError: A filter does not exist, or does not take its options.
    """

    def __init__(
        self,
        source: str | Path | BinaryIO,
        audio: bool = True,
        filters: str = "",
        name: str = "",
        part: Part | None = None,
        sequence_rate: Fraction | None = None,
    ) -> None:
        named = isinstance(source, str | Path) and source != STDIN
        self.name = name or (str(source) if named else "standard input")
        """The name of the source in messages."""
        self._filters = parse_filters(filters) if filters else ()
        self._chain: FilterChain | None = None
        self._part = part
        self._sequence = sequence_rate is not None
        self._container = open_sequence(str(source), sequence_rate) if sequence_rate else open_video(source, self.name)
        try:
            self._announced_bytes = None if self._sequence else announced_size(head_of(source))
            self._stream = self._video_stream()
            tracks = [(s, describe_track(s)) for s in self._container.streams.audio] if audio else []
            self._tracks = {stream.index: track for stream, track in tracks if track}
            self._refused = [f"audio track {s.index}" for s, track in tracks if not track]
            self._convert = RGBConverter()
            jumps = bool(self._container.format.flags & _HAS_CLOCK_JUMPS)
            # A transport stream begins at 1.4 s, and a recording of one anywhere; no player waits for that.
            self._timeline = Timeline(jumps_ahead=jumps, begin_s=max(Fraction(0), self._file_begin_s))
            self._picture_times: deque[int] = deque()
            self._counts_pictures = self._container.format.name in _WITHOUT_PICTURE_TIMES
            self._previous_pts: int | None = None
            self._inside = False
            """Whether a call into FFmpeg is running, possibly in another thread."""
            self._decoded = self._chosen(self._decode())
            self._pending_audio, first = self._until_first_frame()
            # A filtered picture has been turned already.
            self._rotation, self._mirrored = (0, False) if self._chain else _orientation(first)
            self.info = self._describe(first)
            """The description of the video."""
            self._first = first
            self.first_pts = first.pts or 0
            """The time of the first frame, in ticks of `info.time_base`, on the clock on which the file begins at 0."""
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A thread that still waits for a pipe is using the container, which then stays open until the process ends.
        if not self._inside:
            self._container.close()

    @property
    def frame_count(self) -> int | None:
        """The number of frames that the file declares; None if it declares none, or if not all of them are read."""
        return None if self._filters or self._part else self._stream.frames or None

    @property
    def losses(self) -> list[str]:
        """Descriptions of what is lost of the source, or kept in a way that may surprise, one clause each."""
        return describe_losses(self._container, self._stream, self.info, self._first, self._refused)

    @property
    def joins(self) -> int:
        """How often the clock has jumped so far. Frames after a jump are shifted to follow those before it."""
        return self._timeline.joins

    @property
    def stream_index(self) -> int:
        """The index in the file of the video stream that is read."""
        return self._stream.index

    @property
    def codec_name(self) -> str:
        """FFmpeg's name of the codec of the video stream."""
        return self._stream.codec_context.name

    def frames(self) -> Iterator[Frame]:
        """Yield the frames without the audio packets; see `events`."""
        return (event for event in self.events() if isinstance(event, Frame))

    def events(self) -> Iterator[Frame | AudioPacket]:
        """Yield the frames and the audio packets in the order of the file. They can be read only once.

        Raises:
            InputError: The data cannot be decoded any further, or the size of the picture changes. It is also raised
                after the last frame if the file is cut short or has damaged packets.
        """
        for item in chain(self._pending_audio, [self._first], self._decoded):
            yield self._frame(item) if isinstance(item, av.VideoFrame) else item

    def _video_stream(self) -> VideoStream:
        """Return the main video stream, set up for decoding."""
        stream = self._container.streams.best("video")
        if not isinstance(stream, VideoStream):
            raise InputError(f"{self.name} has no video stream")
        if stream.codec_context is None:
            raise InputError(f"{self.name} has video of a codec that this FFmpeg cannot decode")
        # Frame threading delays pictures, which holds up a live pipe, and loses the ones in flight at damage.
        stream.thread_type = "SLICE"
        return stream

    def _decode(self) -> Iterator[av.VideoFrame | AudioPacket]:
        """Yield decoded frames and audio packets; at the end, raise `InputError` if some are damaged or missing."""
        wanted = [self._stream, *(self._container.streams[index] for index in self._tracks)]
        numbers = {index: number for number, index in enumerate(self._tracks)}
        if self._part:
            start_s = self._part.start_s
            found = packets_before(self._container, wanted, self._stream.index, self._file_begin_s + start_s)
            packets = from_key_frame(self._placed(found), self._stream.index, self._begin_s + start_s)
        else:
            packets = self._placed(iter(self._container.demux(*wanted)))
        damaged = 0
        cut = CutPackets()
        while True:
            self._inside = True
            try:
                packet, anew = next(packets, (None, False))
                frames = [] if packet is None or isinstance(packet.stream, AudioStream) else self._pictures(packet)
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
            # A packet that is cut off may still decode, to part of a picture. The decoder or the demuxer marks it.
            if any(frame.is_corrupt for frame in frames):
                damaged += 1
            elif packet.is_corrupt:
                cut.suspect(stream)
            yield from frames
            # What an edit list hides is not to be heard.
            if isinstance(packet.stream, AudioStream) and packet.size and not packet.is_discard:
                number = numbers[packet.stream.index]
                yield AudioPacket(number, packet.pts, packet.dts, packet.duration or 0, bytes(packet))
        self._require_whole(damaged + cut.left())

    def _placed(self, packets: Iterator[av.Packet[Stream]]) -> Iterator[Placed]:
        """Yield packets with continuous times, and whether the clock of their stream jumped at them."""
        for packet in packets:
            yield packet, self._timeline.place(packet)

    @property
    def _file_begin_s(self) -> Fraction:
        """The time at which the file begins, in seconds on its own clock."""
        return Fraction(self._container.start_time or 0, av.time_base)

    @property
    def _begin_s(self) -> Fraction:
        """The time at which it begins once its packets have been placed, in seconds: 0 or before."""
        return min(Fraction(0), self._file_begin_s)

    def _chosen(self, items: Iterator[av.VideoFrame | AudioPacket]) -> Iterator[av.VideoFrame | AudioPacket]:
        """Yield the items of the part to read, with the frames filtered."""
        if self._part:
            rate = Fraction(self._stream.guessed_rate or self._stream.average_rate or DEFAULT_RATE)
            tracks = [track.time_base for track in self._tracks.values()]
            items = Cutter(self._part, self._begin_s, rate, tracks).kept(items)
        return self._filtered(items) if self._filters else items

    def _filtered(self, items: Iterator[av.VideoFrame | AudioPacket]) -> Iterator[av.VideoFrame | AudioPacket]:
        """Yield the items with the frames filtered. What filters hold back comes before an error of the input."""
        failure: InputError | None = None
        try:
            for item in items:
                if isinstance(item, AudioPacket):
                    yield item
                    continue
                if self._chain is None:
                    time_base = Fraction(item.time_base or self._stream.time_base or Fraction(1, 1000))
                    self._chain = FilterChain(self._filters, item, time_base, *_orientation(item), self.name)
                yield from self._chain.push(item)
        except InputError as error:
            failure = error
        if self._chain:
            yield from self._chain.flush()
        if failure:
            raise failure

    def _pictures(self, packet: av.Packet[Stream]) -> list[av.VideoFrame]:
        """Decode a video packet.

        AVI stores no presentation times, and FFmpeg guesses them wrongly where H.264 reorders pictures. Its decoding
        times are right: the next picture to be shown gets the next of them.
        """
        timed = self._counts_pictures and packet.size and packet.dts is not None
        if timed:
            assert packet.dts is not None
            self._picture_times.append(packet.dts)
        try:
            frames = [frame for frame in packet.decode() if isinstance(frame, av.VideoFrame)]
        except av.InvalidDataError:
            if timed:
                self._picture_times.pop()
            raise
        for frame in frames:
            if self._picture_times:
                frame.pts = self._picture_times.popleft()
        return frames

    def _require_whole(self, damaged: int) -> None:
        """Raise `InputError`, after the last frame, if the end of the file is missing or packets were damaged."""
        if how := self._cut_short():
            raise InputError(f"{self.name} is cut short: {how}")
        if damaged:
            raise InputError(
                f"{self.name} is damaged: {damaged} packet{'s are' if damaged > 1 else ' is'} cut or cannot be decoded"
            )

    def _cut_short(self) -> str | None:
        """Return how the file shows that its end is missing, which FFmpeg does not report, or None if it does not."""
        # The size is negative for a pipe.
        size = self._container.size
        end = max((entry.pos + entry.size for entry in self._stream.index_entries), default=0)
        if 0 < size < end:
            return "its index names frames after its end"
        if 0 < size < (self._announced_bytes or 0):
            return f"it says that it has {self._announced_bytes} bytes, and has {size}"
        return None

    def _until_first_frame(self) -> tuple[list[AudioPacket], av.VideoFrame]:
        """Return the audio packets before the first frame, and that frame."""
        audio: list[AudioPacket] = []
        for item in self._decoded:
            if isinstance(item, av.VideoFrame):
                return audio, item
            audio.append(item)
        where = " in the part to read" if self._part else ""
        raise InputError(f"{self.name} has no video frame that can be decoded{where}")

    def _has_another_frame(self) -> bool:
        """Return whether a frame follows on the first one; a pipe may hold several images."""
        ahead: list[av.VideoFrame | AudioPacket] = []
        try:
            ahead += islice(self._decoded, 1)
        except InputError as error:
            self._decoded = _raising(error)
        self._decoded = chain(ahead, self._decoded)
        return bool(ahead)

    def _describe(self, first: av.VideoFrame) -> VideoInfo:
        """Return the description of the video from its stream and its first frame."""
        stream = self._stream
        images = self._container.format.name.endswith(_STILL_FORMATS) and not self._sequence
        still = images and not self._has_another_frame()
        rate = stream.guessed_rate or stream.average_rate
        ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
        sar = Fraction(ratio) if ratio and ratio > 0 else Fraction(1)
        shown_rate = None if still or not rate else Fraction(rate)
        return VideoInfo(
            width=first.width,
            height=first.height,
            rate=self._chain.rate(shown_rate) if self._chain else shown_rate,
            time_base=Fraction(first.time_base or stream.time_base or Fraction(1, 1000)),
            sar=self._chain.sar(sar) if self._chain else sar,
            color=Color(first.color_range, first.color_primaries, first.color_trc, first.colorspace),
            rotation=self._rotation,
            bit_depth=max(component.bits for component in first.format.components),
            audio=tuple(self._tracks.values()),
            tags=kept_tags(self._container.metadata)[0],
        )

    def _frame(self, frame: av.VideoFrame) -> Frame:
        """Convert a decoded frame to RGB, with a time after that of the frame before."""
        info = self.info
        if (frame.width, frame.height) != (info.width, info.height):
            raise InputError(
                f"{self.name} changes its size from {info.width}x{info.height} to {frame.width}x{frame.height}; "
                "scale it to one size first"
            )
        pts = frame.pts if frame.pts is not None else self._next_pts()
        if self._previous_pts is not None and pts <= self._previous_pts:
            # Times must increase. Only this frame is moved; later ones keep their own times.
            pts = self._previous_pts + 1
        self._previous_pts = pts
        pixels = self._convert(frame, info.color)
        if self._mirrored:
            # A `.vtk` file cannot store that a picture is mirrored. The player then turns the result by `rotation`.
            pixels = np.ascontiguousarray(pixels[:, ::-1])
        return Frame(pixels, pts, frame.duration or 0)

    def _next_pts(self) -> int:
        """Return the time of a frame that has none: one frame interval after the frame before."""
        if self._previous_pts is None:
            return 0
        rate = self.info.rate or DEFAULT_RATE
        return self._previous_pts + max(1, round(1 / (rate * self.info.time_base)))


def _raising(error: InputError) -> Iterator[av.VideoFrame | AudioPacket]:
    """Raise an error that came too early, where the next item would be."""
    raise error
    yield


def _orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """Return by how many degrees counter-clockwise to turn a frame, and whether to mirror it left to right before."""
    rotation = int(frame.rotation)
    matrices = [data for name, data in side_data(frame) if name == "DISPLAYMATRIX"]
    if not matrices:
        return rotation, False
    a, b, _, c, d, *_ = struct.unpack("=9i", matrices[0])
    # FFmpeg computes the angle as if the matrix did not mirror.
    return ((rotation + 360) % 360 - 180, True) if a * d - b * c < 0 else (rotation, False)


def read_pixels(path: Path, max_frames: int) -> NDArray[np.uint8]:
    """Read the first frames of a file.

    Args:
        path: The path of the file.
        max_frames: The largest number of frames to read, at least 1.

    Returns:
        The frames in RGB, uint8 `T H W 3`.

    Raises:
        InputError: The file cannot be read.
    """
    frames = []
    with VideoReader(path, audio=False) as reader:
        for frame in islice(reader.frames(), max_frames):
            frames.append(frame.pixels)
    return np.stack(frames)
