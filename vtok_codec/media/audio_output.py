"""Audio tracks of an output: copied packet by packet, or decoded and encoded anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, Protocol, TypeAlias

import av
from av.audio.codeccontext import AudioCodecContext
from av.audio.stream import AudioStream
from av.container import OutputContainer

from vtok_codec.media.audio import open_full_template
from vtok_codec.media.types import AudioPacket, AudioTrack
from vtok_codec.text import counted

Packet: TypeAlias = "av.Packet[Any]"
"""A packet of FFmpeg."""
_BITS_PER_CHANNEL_S = 80_000
"""The bit rate of sound that is encoded anew, for each channel."""
_LAYOUTS = {"1 channels": "mono", "2 channels": "stereo", "6 channels": "5.1", "8 channels": "7.1"}
"""The layout of tracks that only say how many channels they have."""
_GAP_S = Fraction(40, 1000)
"""The shortest silence in seconds that is kept. Times that differ by less are those of a coarse clock."""
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
    """A track that is decoded and encoded anew.

    Args:
        container: The output.
        track: The track.
        packets: Its first packets.
        codec: FFmpeg's name of the encoder.
        number: The number of the track, for messages.

    Raises:
        av.FFmpegError, ValueError: The encoder does not take such sound.
    """

    def __init__(
        self, container: OutputContainer, track: AudioTrack, packets: Sequence[AudioPacket], codec: str, number: int
    ) -> None:
        self._template = open_full_template(track, packets)
        source = self._template.streams.audio[0]
        decoder = source.codec_context
        assert isinstance(decoder, AudioCodecContext)
        self._time_base = source.time_base or track.time_base
        self._decoder, self._track, self._number = decoder, track, number
        rates = av.Codec(codec, "w").audio_rates
        rate = track.sample_rate if not rates or track.sample_rate in rates else _FALLBACK_RATE
        stream = container.add_stream(codec, rate=rate)
        assert isinstance(stream, AudioStream)
        stream.codec_context.layout = _LAYOUTS.get(track.layout, track.layout)
        stream.codec_context.bit_rate = _BITS_PER_CHANNEL_S * stream.codec_context.layout.nb_channels
        stream.metadata.update(track.tags)
        self._stream = stream
        self._end: Fraction | None = None
        """The time in seconds at which the sound so far ends."""
        self._damaged = 0

    def packets(self, item: AudioPacket, shift: int) -> Iterator[Packet]:
        """Decode a packet, and yield what the encoder makes of it; see `AudioOutput.packets`."""
        try:
            # The decoder counts the samples that it drops in ticks of the template.
            frames = self._decoder.decode(_packet(item, shift, self._track.time_base, self._time_base))
        except av.FFmpegError:
            self._damaged += 1
            return
        for frame in frames:
            yield from self._stream.encode(self._timed(frame))

    def rest(self) -> Iterator[Packet]:
        """Yield what the decoder and the encoder still hold."""
        try:
            for frame in self._decoder.decode(None):
                yield from self._stream.encode(self._timed(frame))
        except av.FFmpegError:
            self._damaged += 1
        yield from self._stream.encode(None)
        self._template.close()

    def losses(self) -> list[str]:
        """Return how many packets could not be decoded."""
        lost = f"{counted(self._damaged, 'packet')} of audio track {self._number}, which cannot be decoded"
        return [lost] if self._damaged else []

    def _timed(self, frame: av.AudioFrame) -> av.AudioFrame:
        """Let a frame begin where the one before it ends, unless there is a gap between them."""
        rate = frame.sample_rate
        end = self._end
        if frame.pts is not None:
            begin = frame.pts * self._time_base
            if end is None or begin > end + _GAP_S:
                end = begin
        frame.time_base = Fraction(1, rate)
        frame.pts = round((end or 0) * rate)
        self._end = Fraction(frame.pts + frame.samples, rate)
        return frame


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
    return packet
