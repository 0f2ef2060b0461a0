"""Copies audio tracks without decoding them: their parameters and packets are carried over unchanged."""

from __future__ import annotations

import io

import av
from av.audio.stream import AudioStream

from vtok_codec.errors import FormatError
from vtok_codec.media.types import AudioTrack

_PROBE = bytes(8)
"""The data of a dummy packet. A NUT file needs one packet for a reader to find the stream."""


def describe_track(stream: AudioStream) -> AudioTrack | None:
    """Return the description of an audio stream, or None if its codec cannot be copied."""
    if stream.codec_context is None or stream.time_base is None:
        return None
    head = io.BytesIO()
    try:
        with av.open(head, "w", format="nut") as container:
            copy = container.add_stream_from_template(stream)
            container.start_encoding()
            packet = av.Packet(_PROBE)
            packet.pts = packet.dts = 0
            packet.time_base, packet.stream = stream.time_base, copy
            container.mux(packet)
        track = AudioTrack(
            codec=stream.codec_context.name,
            time_base=stream.time_base,
            sample_rate=stream.codec_context.sample_rate,
            layout=stream.codec_context.layout.name,
            parameters=head.getvalue(),
        )
        with open_template(track):
            return track
    except (av.FFmpegError, ValueError, FormatError):
        return None


def open_template(track: AudioTrack) -> av.container.InputContainer:
    """Open the parameters of a track as a container, whose only audio stream is a template for output streams.

    Raises:
        FormatError: The parameters are not those of an audio stream.
    """
    try:
        container = av.open(io.BytesIO(track.parameters), "r", format="nut")
        if not container.streams.audio:
            raise FormatError(f"the parameters of the {track.codec} track hold no audio stream")
        return container
    except av.FFmpegError as error:
        raise FormatError(f"the parameters of the {track.codec} track cannot be read: {error}") from error
