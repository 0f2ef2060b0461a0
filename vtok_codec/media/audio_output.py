"""Audio tracks of an output: copied packet by packet, or decoded and encoded anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, Protocol, TypeAlias

import av
from av.audio.codeccontext import AudioCodecContext
from av.audio.stream import AudioStream
from av.container import OutputContainer

from vtok_codec.audio import AudioPacket, AudioTrack
from vtok_codec.media.audio import open_full_template
from vtok_codec.text import counted

Packet: TypeAlias = "av.Packet[Any]"
"""A packet of FFmpeg."""
_BITS_PER_CHANNEL_S = 80_000
"""The bit rate of sound that is encoded anew, for each channel."""
_LAYOUTS = {
    "1 channels": "mono",
    "2 channels": "stereo",
    "3 channels": "2.1",
    "4 channels": "4.0",
    "5 channels": "5.0",
    "6 channels": "5.1",
    "7 channels": "6.1",
    "8 channels": "7.1",
}
"""The layout of tracks that only say how many channels they have; FFmpeg's defaults."""
_MOST_SILENCE_S = 3600
"""The longest gap, in seconds, that silence fills. A false time could otherwise ask for years of it."""
_GAP_S = Fraction(100, 1000)
"""How far the times of a track may differ from its samples, in seconds, before silence fills the gap or sound is left
out. Times that differ by less are those of a coarse clock."""
_FALLBACK_RATE = 48000
"""Samples per second, for encoders that do not take those of the track."""


class AudioOutput(Protocol):
    """A track of an output."""

    def packets(self, item: AudioPacket, shift: int) -> Iterator[Packet]:
        """Yield the packets to mux for a packet of the track, whose times are moved by `shift` ticks."""

    def rest(self) -> Iterator[Packet]:
        """Yield what is left at the end."""

    def losses(self) -> list[str]:
        """Return descriptions of what was lost; complete at the end."""


class CopiedTrack:
    """A track whose packets are copied.

    Args:
        container: The output.
        track: The track.
        packets: Its first packets.
    """

    def __init__(self, container: OutputContainer, track: AudioTrack, packets: Sequence[AudioPacket]) -> None:
        with open_full_template(track, packets) as template:
            self._stream = container.add_stream_from_template(template.streams.audio[0])
        self._stream.time_base = track.time_base
        self._stream.metadata.update(track.tags)
        self._time_base = track.time_base

    def packets(self, item: AudioPacket, shift: int) -> Iterator[Packet]:
        """Yield the packet; see `AudioOutput.packets`."""
        packet = _packet(item, shift, self._time_base, self._time_base)
        packet.stream = self._stream
        yield packet

    def rest(self) -> Iterator[Packet]:
        """Yield nothing."""
        yield from ()

    def losses(self) -> list[str]:
        """Return nothing."""
        return []


class EncodedTrack:
    """A track that is decoded and encoded anew, without gaps: where the source has none, there is silence.

    Args:
        container: The output.
        track: The track.
        packets: Its first packets.
        codec: FFmpeg's name of the encoder.
        number: The number of the track, for messages.
        from_zero: Whether silence also fills the time before the first sound, for containers without times.

    Raises:
        av.FFmpegError, ValueError: The encoder does not take such sound.
    """

    def __init__(
        self,
        container: OutputContainer,
        track: AudioTrack,
        packets: Sequence[AudioPacket],
        codec: str,
        number: int,
        from_zero: bool,
    ) -> None:
        rates = av.Codec(codec, "w").audio_rates
        rate = track.sample_rate if not rates or track.sample_rate in rates else _FALLBACK_RATE
        layout = _accepted_layout(codec, rate, track.layout)
        self._template = open_full_template(track, packets)
        source = self._template.streams.audio[0]
        decoder = source.codec_context
        assert isinstance(decoder, AudioCodecContext)
        self._given, self._time_base = track.time_base, source.time_base or track.time_base
        self._decoder, self._number = decoder, number
        stream = container.add_stream(codec, rate=rate)
        assert isinstance(stream, AudioStream)
        stream.codec_context.layout = layout
        stream.codec_context.bit_rate = _BITS_PER_CHANNEL_S * stream.codec_context.layout.nb_channels
        stream.metadata.update(track.tags)
        self._stream = stream
        self._end: int | None = 0 if from_zero else None
        """The sample of the output that follows the last one; None before the first."""
        self._shape: tuple[str, str, int] | None = None
        """Format, layout and rate of the frames that are converted."""
        self._converter: av.AudioResampler | None = None
        self._damaged = 0
        self._overlapping_s = Fraction(0)

    def packets(self, item: AudioPacket, shift: int) -> Iterator[Packet]:
        """Decode a packet, and yield what the encoder makes of it; see `AudioOutput.packets`."""
        try:
            # The decoder counts the samples that it drops in ticks of the template.
            frames = self._decoder.decode(_packet(item, shift, self._given, self._time_base))
        except av.FFmpegError:
            self._damaged += 1
            return
        for frame in frames:
            yield from self._encoded(frame)

    def rest(self) -> Iterator[Packet]:
        """Yield what the decoder and the encoder still hold."""
        try:
            for frame in self._decoder.decode(None):
                yield from self._encoded(frame)
        except av.FFmpegError:
            self._damaged += 1
        yield from self._converted(None)
        yield from self._stream.encode(None)
        self._template.close()

    def losses(self) -> list[str]:
        """Return how many packets could not be decoded, and how much sound had no time of its own."""
        track, lost = f"audio track {self._number}", []
        if self._damaged:
            lost.append(f"{counted(self._damaged, 'packet')} of {track}, which cannot be decoded")
        if self._overlapping_s:
            lost.append(f"{float(self._overlapping_s):.2f} s of {track}, for whose time there is other sound")
        return lost

    def _encoded(self, frame: av.AudioFrame) -> Iterator[Packet]:
        """Convert and encode a frame, with silence in front of it if it is late, or not at all if it is early."""
        frame = _with_layout(frame)
        context = self._stream.codec_context
        if frame.pts is not None:
            begin = round(frame.pts * self._time_base * context.sample_rate)
            if self._end is None:
                self._end = begin
            late = begin - self._end
            if late < -_GAP_S * context.sample_rate:
                # The source has two sounds for this time.
                self._overlapping_s += Fraction(frame.samples, frame.sample_rate)
                return
            if late > _GAP_S * context.sample_rate:
                yield from self._gap(begin)
        shape = (frame.format.name, frame.layout.name, frame.sample_rate)
        if shape != self._shape:
            yield from self._converted(None)
            self._shape = shape
            self._converter = av.AudioResampler(context.format, context.layout, context.sample_rate)
        yield from self._converted(frame)

    def _gap(self, begin: int) -> Iterator[Packet]:
        """Encode the rest before a gap, and silence up to the sample where sound begins again."""
        yield from self._converted(None)
        missing = begin - (self._end or 0)
        if missing <= _MOST_SILENCE_S * self._stream.codec_context.sample_rate:
            yield from self._silence(missing)
        else:
            self._end = begin

    def _converted(self, frame: av.AudioFrame | None) -> Iterator[Packet]:
        """Convert a frame to what the encoder takes, or the rest before a break, and encode it where the last ended."""
        if self._converter is None:
            return
        if frame is not None:
            # Times are counted in samples of the output.
            frame.pts = None
        for made in self._converter.resample(frame):
            yield from self._placed(made)
        if frame is None:
            self._shape, self._converter = None, None

    def _silence(self, samples: int) -> Iterator[Packet]:
        """Encode silence."""
        context = self._stream.codec_context
        # Unsigned samples swing about the middle of their range.
        zero = b"\x80" if context.format.name in ("u8", "u8p") else b"\0"
        while samples > 0:
            count = min(samples, context.sample_rate)
            silent = av.AudioFrame(context.format.name, context.layout.name, count)
            for plane in silent.planes:
                plane.update(zero * plane.buffer_size)
            silent.sample_rate = context.sample_rate
            yield from self._placed(silent)
            samples -= count

    def _placed(self, frame: av.AudioFrame) -> Iterator[Packet]:
        """Encode a frame behind the last one."""
        frame.time_base = Fraction(1, frame.sample_rate)
        frame.pts = self._end or 0
        self._end = frame.pts + frame.samples
        yield from self._stream.encode(frame)


def _with_layout(frame: av.AudioFrame) -> av.AudioFrame:
    """Return a frame whose layout is known, so that its channels can be mixed."""
    if frame.layout.name not in _LAYOUTS:
        return frame
    made = av.AudioFrame.from_ndarray(frame.to_ndarray(), frame.format.name, _LAYOUTS[frame.layout.name])
    made.sample_rate, made.pts = frame.sample_rate, frame.pts
    return made


def _accepted_layout(codec: str, rate: int, layout: str) -> str:
    """Return a channel layout that an encoder takes: that of the track, or one like it.

    Raises:
        ValueError: It takes none.
    """
    known = _LAYOUTS.get(layout, layout)
    for candidate in (known, known.partition("(")[0], "stereo", "mono"):
        try:
            trial = av.CodecContext.create(codec, "w")
            assert isinstance(trial, AudioCodecContext)
            trial.sample_rate, trial.layout = rate, candidate
            trial.format = (av.Codec(codec, "w").audio_formats or [av.AudioFormat("s16")])[0]
            trial.open()
            return candidate
        except (av.FFmpegError, ValueError):
            continue
    raise ValueError(f"{codec} takes no sound like it")


def _packet(item: AudioPacket, shift: int, given: Fraction, wanted: Fraction) -> Packet:
    """Return a packet for FFmpeg.

    Args:
        item: The packet.
        shift: What is added to its times, in ticks.
        given: The length of these ticks in seconds.
        wanted: The length of the ticks of the result.
    """
    packet = av.Packet(item.data)
    times = (None if time is None else round((time + shift) * (given / wanted)) for time in (item.pts, item.dts))
    packet.pts, packet.dts = times
    packet.duration, packet.time_base = round(item.duration * (given / wanted)), wanted
    # Sound can start with any packet; FFmpeg's stream copy drops what comes before the first keyframe.
    packet.is_keyframe = True
    return packet
