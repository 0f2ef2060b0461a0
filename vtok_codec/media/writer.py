"""Writes frames and audio packets to a file or pipe in any of FFmpeg's containers."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.stream import Stream
from av.video.stream import VideoStream

from vtok_codec.errors import OutputError, SettingError
from vtok_codec.media.audio import open_template
from vtok_codec.media.color import YUVConverter, is_rgb_format, swscale_matrix
from vtok_codec.media.ffmpeg import reason
from vtok_codec.media.types import DEFAULT_RATE, AudioPacket, Frame, VideoInfo

_STILL_FORMAT = "image2"
_FORMATS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
    ".gif": "gif",
    ".y4m": "yuv4mpegpipe",
    ".nut": "nut",
    ".png": _STILL_FORMAT,
    ".jpg": _STILL_FORMAT,
    ".jpeg": _STILL_FORMAT,
}
PIPE_FORMATS = {"nut": "nut", "y4m": "yuv4mpegpipe", "matroska": "matroska", "mp4": "mp4"}
"""What standard output can be given as."""

_DEFAULT_CODECS = {
    "webm": "libvpx-vp9",
    "gif": "gif",
    # AVI has no place for the decoding times that H.264 needs.
    "avi": "mpeg4",
    "yuv4mpegpipe": "wrapped_avframe",
    "nut": "rawvideo",
}
_STILL_CODECS = {".png": "png", ".jpg": "mjpeg", ".jpeg": "mjpeg"}
_LOSSLESS = {"ffv1": "bgr0", "rawvideo": "rgb24", "png": "rgb24"}
"""Codecs that keep the decoder's RGB exactly, and the pixel format that they keep it in."""
_FIXED_PIXEL_FORMATS = {"gif": "rgb8", "mjpeg": "yuvj444p"}
_FINEST_QUANTIZERS = {"mjpeg": (1, 2), "mpeg4": (1, 2)}
"""Codecs without a CRF: the finest and the coarsest quantizer, of FFmpeg's 1 to 31."""
_COARSEST_CRF = {"libx264": 51, "libx265": 51, "libvpx-vp9": 63, "libsvtav1": 63}
_DEFAULT_CRF = {"libx264": 14, "libx265": 14, "libvpx-vp9": 20, "libsvtav1": 20}
_SPEED = {
    "libx264": {"preset": "superfast"},
    "libx265": {"preset": "veryfast", "x265-params": "log-level=error"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "6", "row-mt": "1"},
    "libsvtav1": {"preset": "10"},
}
_CONSTANT_RATE = ("avi", "yuv4mpegpipe")
"""Containers without timestamps: frames are counted, at the nominal rate."""
_INTERLEAVING = {"max_interleave_delta": "1000000"}
"""Microseconds that the muxer waits for a silent stream; in FFmpeg's 10 s it would hold gigabytes of raw video."""
_REPEATABLE = {"fflags": "+bitexact"}
"""Nothing random, and no date: the same frames make the same file."""
# Without the last, pictures would start later than the sound by as long as their encoder looks ahead.
_STREAMED_MP4 = {"movflags": "frag_keyframe+empty_moov+delay_moov"}
_TURNING_FORMATS = ("mp4", "mov", "matroska", "webm")
"""Containers that can say that their pictures are to be turned."""
_SHAPING_FORMATS = ("mp4", "mov", "gif", _STILL_FORMAT)
_SHAPING_CODECS = ("libx264", "libx265", "mpeg4")
"""Containers and codecs that keep the shape of a pixel; with others PyAV cannot give it to the container."""
_PIPE_BYTES = 1 << 18
"""Written to a pipe at once, at most."""
_MAX_RATE_TERM = 65535
"""Of MPEG-4's time base."""


@dataclass(frozen=True)
class OutputSettings:
    """How the decoded frames are coded again."""

    format: str
    """FFmpeg's name of the container."""
    codec: str
    crf: int | None = None
    """Quality of `codec`, as its own scale has it; None for a visually lossless default."""


def is_video_suffix(suffix: str) -> bool:
    """Whether a file of this suffix holds video or a picture."""
    return suffix.lower() in _FORMATS


def output_settings(suffix: str, codec: str | None, crf: int | None) -> OutputSettings:
    """Settings for a file with this suffix.

    Raises:
        OutputError: no container has this suffix.
        SettingError: the codec is unknown, has no CRF, or not such a one.
    """
    suffix = suffix.lower()
    if suffix not in _FORMATS:
        raise OutputError(f"no video format has the suffix {suffix!r}; use one of {' '.join(sorted(_FORMATS))}")
    return _settings(_FORMATS[suffix], codec or _STILL_CODECS.get(suffix), crf)


def pipe_settings(name: str, codec: str | None, crf: int | None) -> OutputSettings:
    """Settings for standard output; `name` is one of `PIPE_FORMATS`.

    Raises:
        SettingError: the format or the codec is unknown, or it has no CRF, or not such a one.
    """
    if name not in PIPE_FORMATS:
        raise SettingError(f"format {name!r} is unknown; use one of {', '.join(PIPE_FORMATS)}")
    return _settings(PIPE_FORMATS[name], codec, crf)


def _settings(format_: str, codec: str | None, crf: int | None) -> OutputSettings:
    codec = codec or _DEFAULT_CODECS.get(format_, "libx264")
    try:
        encoder = av.Codec(codec, "w")
    except (av.FFmpegError, ValueError):
        encoder = None
    if encoder is None or encoder.type != "video":
        raise SettingError(f"codec {codec!r} is not a video encoder of this build")
    # `h264` is libx264 by another name.
    codec = encoder.name
    if crf is not None and codec not in _DEFAULT_CRF:
        raise SettingError(f"crf does not apply to {codec}")
    if crf is not None and not 0 <= crf <= _COARSEST_CRF[codec]:
        raise SettingError(f"crf {crf}: {codec} takes 0 to {_COARSEST_CRF[codec]}")
    return OutputSettings(format_, codec, crf)


class _Pipe:
    """A stream for FFmpeg to write to, front to back.

    FFmpeg's own writes to a pipe that nobody empties would not end for a signal, and PyAV loses what a signal's handler
    raises. So the first error is kept here, and FFmpeg is told of nothing but a failure.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        """All of it, at once; FFmpeg's number of an error after the first one."""
        try:
            if self.error is None:
                self._stream.write(data)
                self._stream.flush()
                return len(data)
        except BaseException as error:
            self.error = error
        return -errno.EIO


class VideoWriter:
    """Codes frames and muxes packets. Use it as a context; what was written before an error is of no use.

    A target that is no path is written from front to back, as a pipe.

    Raises:
        OutputError: the container does not take this codec, or the target cannot be written.
    """

    def __init__(self, target: Path | BinaryIO, info: VideoInfo, settings: OutputSettings) -> None:
        self._turns = 0
        if settings.format not in _TURNING_FORMATS and info.rotation % 90 == 0:
            self._turns = info.rotation // 90 % 4
            info = _turned(info, self._turns)
        self._info = info
        self._settings = settings
        rate = max((info.rate or DEFAULT_RATE).limit_denominator(_MAX_RATE_TERM), Fraction(1, _MAX_RATE_TERM))
        self._time_base = 1 / rate if settings.format in _CONSTANT_RATE else info.time_base
        self._frames = 0
        self.dropped: list[str] = []
        """What of the video cannot be carried, known from the start."""
        self._retimed = False
        self._first_pts: int | None = None
        if info.sar != 1 and not (settings.format in _SHAPING_FORMATS or settings.codec in _SHAPING_CODECS):
            self.dropped.append(f"the shape of a pixel, {info.sar.numerator}:{info.sar.denominator}")
        if info.rotation and settings.format not in _TURNING_FORMATS:
            self.dropped.append(f"a rotation of {info.rotation}°")
        opened = os.path.abspath(target) if isinstance(target, Path) else _Pipe(target)
        self._pipe = opened if isinstance(opened, _Pipe) else None
        options = _INTERLEAVING | _REPEATABLE
        if self._pipe and settings.format == "mp4":
            options |= _STREAMED_MP4
        if settings.format == _STILL_FORMAT:
            options["update"] = "1"
        try:
            self._container: OutputContainer = av.open(
                opened,
                "w",
                format=settings.format,
                options=options,
                buffer_size=_PIPE_BYTES,
            )
        except (av.FFmpegError, OSError) as error:
            raise OutputError(f"cannot write {target}: {reason(error)}") from error
        try:
            self._stream = self._add_video()
            self._audio = [self._add_audio(track) for track in range(len(info.audio))]
            assert self._stream.pix_fmt is not None
            self._convert = YUVConverter(self._stream.pix_fmt, info.color)
        except (av.FFmpegError, ValueError) as error:
            self._container.close()
            raise OutputError(
                f"{settings.format} cannot hold {info.width}x{info.height} video as {settings.codec}: {reason(error)}"
            ) from error

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            with self._as_output_error():
                self._container.mux(self._stream.encode(None))
                self._container.close()
        else:
            self._abandon()

    def write(self, item: Frame | AudioPacket) -> None:
        """Write the next frame or packet.

        Raises:
            OutputError: the encoder or the target refuses it.
            BrokenPipeError: whoever read the pipe is gone.
        """
        with self._as_output_error():
            if isinstance(item, Frame):
                if self._settings.format == _STILL_FORMAT and self._frames:
                    raise OutputError("a picture file holds one frame; name a video file, or ask for less")
                frame = self._convert(np.ascontiguousarray(np.rot90(item.pixels, self._turns)))
                frame.time_base = self._time_base
                if self._settings.format in _CONSTANT_RATE:
                    self._notice_time(item.pts)
                    frame.pts, frame.duration = self._frames, 1
                else:
                    frame.pts, frame.duration = item.pts, item.duration
                self._frames += 1
                self._container.mux(self._stream.encode(frame))
            else:
                self._write_audio(item)

    @property
    def retimed(self) -> bool:
        """Whether frames were put to other times, since the container counts them at a constant rate."""
        return self._retimed

    def _notice_time(self, pts: int) -> None:
        if self._first_pts is None:
            self._first_pts = pts
        shown_s = self._frames * self._time_base
        late_s = (pts - self._first_pts) * self._info.time_base - shown_s
        self._retimed |= abs(late_s) > self._time_base / 2

    def _write_audio(self, item: AudioPacket) -> None:
        stream = self._audio[item.track]
        if stream is None:
            return
        packet = av.Packet(item.data)
        packet.pts, packet.dts, packet.duration = item.pts, item.dts, item.duration
        packet.time_base, packet.stream = self._info.audio[item.track].time_base, stream
        self._container.mux(packet)

    def _add_video(self) -> VideoStream:
        info, settings = self._info, self._settings
        stream = self._container.add_stream(settings.codec, rate=info.rate or DEFAULT_RATE)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = info.width, info.height
        stream.pix_fmt = _pixel_format(settings.codec, info)
        stream.time_base = stream.codec_context.time_base = self._time_base
        stream.sample_aspect_ratio = info.sar
        context = stream.codec_context
        if is_rgb_format(stream.pix_fmt):
            context.color_range, context.colorspace = 2, 0
        else:
            context.color_range = info.color.range or 1
            # An RGB source has no matrix; what is written has the one that the converter used.
            context.colorspace = info.color.matrix or swscale_matrix(info.color)
        context.color_primaries, context.color_trc = info.color.primaries, info.color.transfer
        if info.rotation:
            stream.set_display_rotation(info.rotation)
        stream.options = dict(_SPEED.get(settings.codec, {}))
        if settings.codec in _FINEST_QUANTIZERS:
            context.qmin, context.qmax = _FINEST_QUANTIZERS[settings.codec]
        if settings.codec in _DEFAULT_CRF:
            stream.options["crf"] = str(_DEFAULT_CRF[settings.codec] if settings.crf is None else settings.crf)
        return stream

    def _add_audio(self, number: int) -> Stream | None:
        track = self._info.audio[number]
        with open_template(track) as template:
            source = template.streams.audio[0]
            if _takes(self._settings.format, source):
                stream = self._container.add_stream_from_template(source)
            else:
                self.dropped.append(f"audio track {number} ({track.codec}): {self._settings.format} does not take it")
                return None
            stream.time_base = track.time_base
            return stream

    @contextmanager
    def _as_output_error(self) -> Iterator[None]:
        """Turns FFmpeg's errors into OutputError, all but a broken pipe."""
        try:
            yield
        except BrokenPipeError:
            raise
        except (av.FFmpegError, OSError) as error:
            cause = (self._pipe and self._pipe.error) or error
            if isinstance(cause, BrokenPipeError) or not isinstance(cause, (av.FFmpegError, OSError)):
                raise cause from None
            raise OutputError(f"cannot write the output: {reason(cause)}") from error

    def _abandon(self) -> None:
        try:
            self._container.close()
        except (av.FFmpegError, OSError):
            # The first error is the one to tell; the target is thrown away.
            return


def _takes(format_: str, audio: AudioStream) -> bool:
    """Whether a container of this format takes such a track: some say so only once their header is written."""
    try:
        with av.open(io.BytesIO(), "w", format=format_) as trial:
            trial.add_stream_from_template(audio)
            trial.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    return True


def _turned(info: VideoInfo, turns: int) -> VideoInfo:
    """What is said of a video whose pixels are turned by so many quarters, so that nobody has to."""
    if turns % 2:
        info = replace(info, width=info.height, height=info.width, sar=1 / info.sar)
    return replace(info, rotation=0)


def _pixel_format(codec: str, info: VideoInfo) -> str:
    if codec in _LOSSLESS:
        return _LOSSLESS[codec]
    if codec in _FIXED_PIXEL_FORMATS:
        return _FIXED_PIXEL_FORMATS[codec]
    odd = info.width % 2 or info.height % 2
    # Halved chroma of odd sides takes one column or row too many, which not every player cuts off again.
    return "yuv444p" if odd and _takes_pixels(codec, "yuv444p") else "yuv420p"


def _takes_pixels(codec: str, pixel_format: str) -> bool:
    formats = av.Codec(codec, "w").video_formats
    # None of a codec that takes all.
    return formats is None or pixel_format in [each.name for each in formats]
