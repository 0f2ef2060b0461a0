"""Writes frames and audio packets to files and pipes in the formats of FFmpeg."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import av
import numpy as np
from av.container import OutputContainer
from av.video.stream import VideoStream

from vtok_codec.audio import AudioPacket
from vtok_codec.errors import OutputError
from vtok_codec.media.audio import STARTING_S, keeps
from vtok_codec.media.audio_output import AudioOutput, CopiedTrack, EncodedTrack
from vtok_codec.media.color import YUVConverter, is_rgb_format, swscale_matrix
from vtok_codec.media.constant_rate import ConstantRate
from vtok_codec.media.durations import FrameDurations
from vtok_codec.media.ffmpeg import kept_priority, reason
from vtok_codec.media.formats import STILL_FORMAT, OutputSettings, encoder_options, pixel_format
from vtok_codec.media.tags import dropped_tags, dropped_track_tags
from vtok_codec.media.types import DEFAULT_RATE, Frame, VideoInfo
from vtok_codec.text import counted

_COARSE_CLOCKS = ("mpeg4", "msmpeg4", "msmpeg4v2", "h263p")
"""The encoders whose ticks per second fit into 16 bits."""
_MAX_TICKS = (1 << 16) - 1
_FINEST_QUANTIZERS = {"mjpeg": (1, 2), "mpeg4": (1, 2)}
"""The finest and the coarsest quantizer that codecs without a CRF may use, on FFmpeg's scale from 1 to 31."""
_CONSTANT_RATE = ("avi", "yuv4mpegpipe")
"""The containers without timestamps, which show frames at the nominal rate."""
_INTERLEAVING = {"max_interleave_delta": "1000000"}
"""Limits how long the muxer waits for a stream, in µs. In FFmpeg's default of 10 s, it could buffer gigabytes."""
_REPEATABLE = {"fflags": "+bitexact"}
"""Leaves out random numbers and dates, so that the same frames always make the same file."""
# Without `delay_moov`, the pictures would lag behind the sound by the look-ahead of their encoder.
_STREAMED_MP4 = {"movflags": "frag_keyframe+empty_moov+delay_moov"}
"""Writes MP4 from front to back."""
_TURNING_FORMATS = ("mp4", "mov", "matroska", "webm")
"""The containers that can store the rotation of the video."""
_SHAPING_FORMATS = ("mp4", "mov", "gif", STILL_FORMAT)
"""The containers that store the sample aspect ratio."""
_SHAPING_CODECS = ("libx264", "libx265", "mpeg4")
"""The codecs that store the sample aspect ratio, which PyAV cannot pass to other containers."""
_PACKETS_TO_KNOW = 4
"""The number of packets from which FFmpeg learns all about an audio track."""
_MAX_WAITING_FRAMES, _MAX_WAITING_BYTES = 16, 1 << 26
"""How many frames, and how many bytes of them, wait for audio packets at most."""
_PIPE_BYTES = 1 << 18
"""The largest number of bytes to write to a pipe at once."""
_MAX_RATE_TERM = 65535
"""The largest numerator and the largest denominator of a frame rate, a limit of MPEG-4."""


class _Pipe:
    """An object for FFmpeg to write to, which passes the data on to a stream and keeps the first error.

    If FFmpeg wrote to a full pipe itself, no signal could interrupt it. PyAV loses exceptions that are raised during a
    write, such as those of signal handlers, so this class keeps the first one and only reports a failure to FFmpeg.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.error: BaseException | None = None
        """The first exception that a write has raised."""

    def write(self, data: bytes) -> int:
        """Write and flush the data. Return their size in bytes, or a negative error number after an error."""
        try:
            if self.error is None:
                self._stream.write(data)
                self._stream.flush()
                return len(data)
        except BaseException as error:
            self.error = error
        return -errno.EIO


def _limited(rate: Fraction) -> Fraction:
    """Return the rate nearest to a frame rate whose terms are at most `_MAX_RATE_TERM`."""
    rate = min(max(rate, Fraction(1, _MAX_RATE_TERM)), Fraction(_MAX_RATE_TERM))
    return rate.limit_denominator(_MAX_RATE_TERM) if rate < 1 else 1 / (1 / rate).limit_denominator(_MAX_RATE_TERM)


class VideoWriter:
    """Encodes frames and muxes them with audio packets.

    Use the writer as a context manager. If an error leaves the context, the output is incomplete and cannot be used.

    Args:
        target: The path of a file, or a binary stream, which is written from front to back and need not be seekable.
        info: The description of the video.
        settings: The format of the output.

    Raises:
        OutputError: The container does not take this codec or this video, or the target cannot be written.
        FormatError: The parameters of an audio track cannot be read.
    """

    def __init__(self, target: Path | BinaryIO, info: VideoInfo, settings: OutputSettings) -> None:
        self._turns = 0
        """The quarter turns counter-clockwise to apply to frames, because the container cannot store a rotation."""
        if settings.format not in _TURNING_FORMATS and info.rotation % 90 == 0:
            self._turns = info.rotation // 90 % 4
            info = _turned(info, self._turns)
        self._info = info
        self._settings = settings
        self._rate = _limited(info.rate or DEFAULT_RATE)
        self._time_base = 1 / self._rate if settings.format in _CONSTANT_RATE else info.time_base
        self._frames = 0
        self.dropped = _losses(info, settings)
        """Descriptions of what the output cannot store; complete once the context is left."""
        paced = settings.format in _CONSTANT_RATE
        self._constant_rate = ConstantRate(self._rate, info.time_base) if paced else None
        self._last: Frame | None = None
        """The last frame, for containers with a constant rate, which may need it again."""
        self._begun = False
        """Whether the audio streams were added, which is put off until their first packets are known."""
        self._waiting: list[Frame | AudioPacket] = []
        """The frames and packets that came before the streams were set up."""
        self._shift_s = Fraction(0)
        """What is added to all times, so that the output does not begin before 0."""
        opened = os.path.abspath(target) if isinstance(target, Path) else _Pipe(target)
        self._pipe = opened if isinstance(opened, _Pipe) else None
        self._options = _muxer_options(settings, piped=self._pipe is not None)
        try:
            self._container: OutputContainer = av.open(
                opened, "w", format=settings.format, options=self._options, buffer_size=_PIPE_BYTES
            )
        except (av.FFmpegError, OSError) as error:
            raise OutputError(f"cannot write {target}: {reason(error)}") from error
        self._container.metadata.update(info.tags)
        if lost := dropped_tags(info.tags, settings.format, self._options):
            self.dropped.append(f"{counted(len(lost), 'tag')} ({', '.join(lost)})")
        try:
            self._stream = self._add_video()
        except (av.FFmpegError, ValueError) as error:
            self._abandon()
            raise OutputError(
                f"{settings.format} cannot hold {info.width}x{info.height} video as {settings.codec}: {reason(error)}; "
                "choose another encoder or format"
            ) from error
        self._audio: list[AudioOutput | None] = []
        assert self._stream.pix_fmt is not None
        self._convert = YUVConverter(self._stream.pix_fmt, info.color)
        self._durations = FrameDurations(settings.format, Fraction(self._stream.codec_context.time_base))

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                with self._as_output_error():
                    if any(isinstance(item, Frame) for item in self._waiting):
                        self._begin()
                    self._hold_last()
                    for track in filter(None, self._audio):
                        for packet in track.rest():
                            self._container.mux(packet)
                        self.dropped += track.losses()
                    self._mux(self._stream.encode(None), ending=True)
                    self._container.close()
            except BaseException:
                self._abandon()
                raise
        else:
            self._abandon()

    def write(self, item: Frame | AudioPacket) -> None:
        """Write the next frame or audio packet.

        Raises:
            OutputError: The encoder or the target refuses it.
            BrokenPipeError: The reader of the pipe has closed it.
        """
        with self._as_output_error():
            if self._begun:
                self._put(item)
                return
            self._waiting.append(item)
            if self._knows_enough():
                self._begin()

    def _write_frame(self, item: Frame) -> None:
        """Encode and mux a frame."""
        if self._settings.format == STILL_FORMAT and self._frames:
            raise OutputError("a picture file holds one frame; name a video file, or ask for less")
        if self._constant_rate is None:
            self._encode(item, item.pts + round(self._shift_s / self._time_base), item.duration)
            return
        for _ in range(self._constant_rate.missing(item.pts, self._frames)):
            assert self._last
            self._encode(self._last, self._frames, 1)
        if self._constant_rate.takes(item.pts, self._frames):
            self._encode(item, self._frames, 1)
        self._last = item

    def _encode(self, item: Frame, pts: int, duration: int) -> None:
        """Encode and mux a frame at a time."""
        frame = self._convert(np.ascontiguousarray(np.rot90(item.pixels, self._turns)))
        frame.time_base = self._time_base
        frame.pts, frame.duration = pts, duration
        self._frames += 1
        self._durations.note(pts * self._time_base, duration * self._time_base)
        with kept_priority():
            packets = self._stream.encode(frame)
        self._mux(packets)

    def _mux(self, packets: Sequence[av.Packet[VideoStream]], ending: bool = False) -> None:
        """Mux video packets."""
        self._durations.restore(packets, ending)
        self._container.mux(packets)

    def _put(self, item: Frame | AudioPacket) -> None:
        """Write a frame or a packet, once the streams are set up."""
        if isinstance(item, Frame):
            self._write_frame(item)
        else:
            self._write_audio(item)

    def _hold_last(self) -> None:
        """Show the last frame for as long as it lasts, if the container has a constant rate."""
        if self._constant_rate and self._last:
            end = self._last.pts + self._last.duration
            for _ in range(self._constant_rate.missing(end, self._frames)):
                self._encode(self._last, self._frames, 1)

    def _knows_enough(self) -> bool:
        """Whether the first frame and the first packets of all tracks are there, or too much waits for them."""
        frames = [item for item in self._waiting if isinstance(item, Frame)]
        if not frames:
            return False
        packets = Counter(item.track for item in self._waiting if isinstance(item, AudioPacket))
        known = all(packets[track] >= _PACKETS_TO_KNOW for track in range(len(self._info.audio)))
        return known or len(frames) * frames[0].pixels.nbytes > _MAX_WAITING_BYTES or len(frames) >= _MAX_WAITING_FRAMES

    def _begin(self) -> None:
        """Add the audio streams, now that their first packets are known, and write what has waited."""
        first = next(item for item in self._waiting if isinstance(item, Frame))
        start_s = first.pts * self._info.time_base
        if start_s < 0 or self._settings.format in _CONSTANT_RATE:
            self._shift_s = -start_s
        self._audio = [self._add_audio(track) for track in range(len(self._info.audio))]
        self._begun = True
        for item in self._waiting:
            self._put(item)
        self._waiting.clear()

    @property
    def retimed(self) -> str:
        """What became of frames whose times the container cannot store, in words; empty if nothing did."""
        return self._constant_rate.words if self._constant_rate else ""

    def _write_audio(self, item: AudioPacket) -> None:
        """Mux an audio packet, unless the container does not take its track."""
        track = self._audio[item.track]
        if track is None:
            return
        base = self._info.audio[item.track].time_base
        shift = round(self._shift_s / base)
        if shift and item.pts is not None and item.pts + shift < 0:
            # It is heard before the first picture, where the output has no time.
            self._note_early_sound(item.track, -(item.pts + shift) * base)
            return
        for packet in track.packets(item, shift):
            self._container.mux(packet)

    def _note_early_sound(self, track: int, early_s: Fraction) -> None:
        """Note that sound is left out, unless it is as short as what codecs need to start."""
        lost = f"the sound of audio track {track} before the first picture"
        if early_s > STARTING_S and lost not in self.dropped:
            self.dropped.append(lost)

    def _add_video(self) -> VideoStream:
        """Add the video stream to the container and open its encoder, so that what it refuses is told at once."""
        info, settings = self._info, self._settings
        stream = self._container.add_stream(settings.codec, rate=self._rate)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = info.width, info.height
        stream.pix_fmt = pixel_format(settings, info)
        stream.time_base = stream.codec_context.time_base = self._time_base
        if settings.codec in _COARSE_CLOCKS:
            stream.codec_context.time_base = self._time_base.limit_denominator(_MAX_TICKS)
        stream.sample_aspect_ratio = info.sar
        context = stream.codec_context
        if is_rgb_format(stream.pix_fmt):
            context.color_range, context.colorspace = 2, 0
        else:
            context.color_range = info.color.range or 1
            # An RGB source has no matrix, so the output is tagged with the matrix that the converter uses.
            context.colorspace = info.color.matrix or swscale_matrix(info.color)
        context.color_primaries, context.color_trc = info.color.primaries, info.color.transfer
        if info.rotation:
            stream.set_display_rotation(info.rotation)
        stream.options = encoder_options(settings)
        if settings.codec in _FINEST_QUANTIZERS:
            context.qmin, context.qmax = _FINEST_QUANTIZERS[settings.codec]
        # SVT-AV1 would describe itself on standard error.
        os.environ.setdefault("SVT_LOG", "1")
        with kept_priority():
            context.open(strict=False)
        return stream

    def _add_audio(self, number: int) -> AudioOutput | None:
        """Add an audio track to the container. Return None, and note the loss, if the container does not take it."""
        track, settings = self._info.audio[number], self._settings
        packets = [item for item in self._waiting if isinstance(item, AudioPacket) and item.track == number]
        made: AudioOutput
        try:
            if settings.audio_codec:
                from_zero = settings.format in _CONSTANT_RATE
                made = EncodedTrack(self._container, track, packets, settings.audio_codec, number, from_zero)
            elif keeps(track, packets, settings.format, self._options):
                made = CopiedTrack(self._container, track, packets)
            else:
                raise ValueError(f"{settings.format} does not keep it")
        except (av.FFmpegError, ValueError) as error:
            self.dropped.append(f"audio track {number} ({track.codec}): {reason(error)}")
            return None
        if lost := dropped_track_tags(track.tags, settings.format, self._options):
            self.dropped.append(f"{counted(len(lost), 'tag')} of audio track {number} ({', '.join(lost)})")
        return made

    @contextmanager
    def _as_output_error(self) -> Iterator[None]:
        """Turn errors of FFmpeg and the system into `OutputError`; let a broken pipe and signals' exceptions pass."""
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
        """Close the container after an error."""
        try:
            self._container.close()
        except (av.FFmpegError, OSError):
            # The caller reports the error that came first, and discards the target.
            return


def _losses(info: VideoInfo, settings: OutputSettings) -> list[str]:
    """Describe what of the shape of a video an output cannot store."""
    lost = []
    if info.sar != 1 and not (settings.format in _SHAPING_FORMATS or settings.codec in _SHAPING_CODECS):
        lost.append(f"the shape of a pixel, {info.sar.numerator}:{info.sar.denominator}")
    if info.rotation and settings.format not in _TURNING_FORMATS:
        lost.append(f"a rotation of {info.rotation}°")
    return lost


def _muxer_options(settings: OutputSettings, piped: bool) -> dict[str, str]:
    """Return the options with which FFmpeg opens the container."""
    options = _INTERLEAVING | _REPEATABLE
    if piped and settings.format == "mp4":
        options |= _STREAMED_MP4
        if settings.fragment_s:
            options["frag_duration"] = str(round(settings.fragment_s * 1e6))
    if settings.format == STILL_FORMAT:
        options["update"] = "1"
    return options


def _turned(info: VideoInfo, turns: int) -> VideoInfo:
    """Return the description of a video after its frames are turned by `turns` quarter turns."""
    if turns % 2:
        info = replace(info, width=info.height, height=info.width, sar=1 / info.sar)
    return replace(info, rotation=0)
