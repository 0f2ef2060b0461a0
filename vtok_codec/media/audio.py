"""Audio tracks, which are copied without re-encoding: their parameters, and whether a container keeps them whole."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Stream

from vtok_codec.audio import AudioPacket, AudioTrack
from vtok_codec.errors import FormatError
from vtok_codec.media.tags import track_tags

_PROBE = bytes(8)
"""The packet of a parameter file, in which a reader finds the stream only if it has a packet."""
_NEED_AVI = ("wma", "adpcm", "atrac", "gsm_ms", "truespeech")
"""The beginnings of the names of codecs that need a block size, which NUT does not store and AVI does."""
_UNEQUAL = ("vorbis",)
"""The codecs whose packets last unequally long, which AVI cannot time."""
_MAX_PROBED_PACKETS = 64
"""How many packets at most are written to a container in order to find out whether it keeps them."""
_TOLERANCE_S = Fraction(40, 1000)
"""How far times may move in a container."""
STARTING_S = Fraction(120, 1000)
"""How much sound containers may hide at the start, where a codec is not in step yet."""


def describe_track(stream: AudioStream) -> AudioTrack | None:
    """Describe the track that a stream becomes.

    Returns:
        The track, or None if its codec cannot be stored.
    """
    if stream.codec_context is None or stream.time_base is None:
        return None
    try:
        track = AudioTrack(
            codec=stream.codec_context.name,
            time_base=stream.time_base,
            sample_rate=stream.codec_context.sample_rate,
            layout=stream.codec_context.layout.name,
            parameters=_parameters(stream, "nut"),
            avi_parameters=_parameters(stream, "avi") if stream.codec_context.name.startswith(_NEED_AVI) else b"",
            tags=track_tags(stream.metadata),
        )
        with open_template(track):
            return track
    except (av.FFmpegError, ValueError, FormatError):
        return None


def _parameters(stream: AudioStream, format_: str) -> bytes:
    """Write a file that holds a stream alone, with one packet of zeros."""
    assert stream.time_base is not None
    head = io.BytesIO()
    with av.open(head, "w", format=format_) as container:
        copy = container.add_stream_from_template(stream)
        container.start_encoding()
        packet = av.Packet(_PROBE)
        packet.pts = packet.dts = 0
        packet.time_base, packet.stream = stream.time_base, copy
        container.mux(packet)
    return head.getvalue()


def open_template(track: AudioTrack) -> InputContainer:
    """Open a container whose only audio stream has the parameters of a track, to make output streams from.

    Raises:
        FormatError: The parameters are not those of an audio stream.
    """
    data, format_ = (track.avi_parameters, "avi") if track.avi_parameters else (track.parameters, "nut")
    try:
        container = av.open(io.BytesIO(data), "r", format=format_)
        if not container.streams.audio:
            raise FormatError(f"the parameters of the {track.codec} track hold no audio stream")
        return container
    except av.FFmpegError as error:
        raise FormatError(f"the parameters of the {track.codec} track cannot be read: {error}") from error


def open_full_template(track: AudioTrack, packets: Sequence[AudioPacket]) -> InputContainer:
    """Open a template as `open_template` does, but with what FFmpeg learns from real packets, such as the frame size.

    AVI needs the number of samples per packet to keep times. The parameters of a track do not hold it.

    Raises:
        FormatError: The parameters are not those of an audio stream.
    """
    template = open_template(track)
    if track.avi_parameters or not packets:
        return template
    try:
        with template:
            data = _muxed(template.streams.audio[0], track, packets, "nut", {})
        full = av.open(io.BytesIO(data), "r", format="nut")
        return full if full.streams.audio else open_template(track)
    except (av.FFmpegError, ValueError):
        return open_template(track)


def keeps(track: AudioTrack, packets: Sequence[AudioPacket], format_: str, options: Mapping[str, str]) -> bool:
    """Whether a container keeps an audio track whole: tried with its first packets, in memory.

    What is written is read back. All packets must be there, decode to as much sound as before, and have their times.
    Without packets, only the header of the container is tried.

    Args:
        track: The track.
        packets: Its first packets.
        format_: FFmpeg's name of the container.
        options: The options with which the container will be written.
    """
    if format_ == "avi" and track.codec in _UNEQUAL:
        return False
    packets = packets[:_MAX_PROBED_PACKETS]
    try:
        with open_full_template(track, packets) as template:
            source = template.streams.audio[0]
            if not packets:
                with av.open(io.BytesIO(), "w", format=format_) as trial:
                    trial.add_stream_from_template(source)
                    trial.start_encoding()
                return True
            wanted = _heard(_muxed(source, track, packets, "avi" if track.avi_parameters else "nut", {}))
            found = _heard(_muxed(source, track, packets, format_, options))
    except (av.FFmpegError, ValueError, FormatError, OSError):
        return False
    # The first packets of some codecs, such as Vorbis, give no sound by themselves.
    return found.is_like(wanted)


@dataclass(frozen=True)
class _Sound:
    """What a decoder makes of a file that holds one audio track."""

    samples: int
    """The number of samples per channel."""
    seconds: Fraction
    """From the start of the first decoded frame to the end of the last."""
    rate: int
    """Samples per second."""

    def is_like(self, other: _Sound) -> bool:
        """Whether it is as long as another, up to the samples that codecs need to start."""
        missing = Fraction(other.samples - self.samples, max(1, other.rate))
        return missing <= STARTING_S and abs(self.seconds - other.seconds) <= STARTING_S + _TOLERANCE_S


def _muxed(
    template: Stream, track: AudioTrack, packets: Sequence[AudioPacket], format_: str, options: Mapping[str, str]
) -> bytes:
    """Write a file that holds some packets of a track alone. The first packet gets the time 0."""
    out = io.BytesIO()
    first = next((packet.pts for packet in packets if packet.pts is not None), 0)
    with av.open(out, "w", format=format_, options=dict(options)) as container:
        stream = container.add_stream_from_template(template)
        stream.time_base = track.time_base
        for each in packets:
            packet = av.Packet(each.data)
            packet.pts = None if each.pts is None else each.pts - first
            packet.dts = None if each.dts is None else each.dts - first
            packet.duration = each.duration
            packet.time_base, packet.stream = track.time_base, stream
            container.mux(packet)
    return out.getvalue()


def _heard(data: bytes) -> _Sound:
    """Decode a file that holds one audio track."""
    samples, start, end = 0, None, Fraction(0)
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.audio[0]
        for frame in container.decode(stream):
            assert isinstance(frame, av.AudioFrame)
            samples += frame.samples
            if frame.pts is not None and frame.time_base is not None:
                time = frame.pts * Fraction(frame.time_base)
                start = time if start is None else start
                end = max(end, time + Fraction(frame.samples, frame.sample_rate))
        rate = stream.codec_context.sample_rate
    return _Sound(samples, end - (start or 0), rate)
