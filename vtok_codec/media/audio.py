"""Audio tracks are never decoded: their parameters and packets pass through."""

from __future__ import annotations

import io

import av
from av.audio.stream import AudioStream

from vtok_codec.errors import FormatError
from vtok_codec.media.types import AudioTrack

_PROBE = bytes(8)
"""NUT needs one packet before a reader finds the stream."""


def describe_track(stream: AudioStream) -> AudioTrack | None:
    """The track that `stream` becomes, or None where its codec cannot be carried."""
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
    """A container whose only audio stream has the track's parameters, to make output streams from.

    Raises:
        FormatError: the parameters are not those of an audio stream.
    """
    try:
        container = av.open(io.BytesIO(track.parameters), "r", format="nut")
        if not container.streams.audio:
            raise FormatError(f"the parameters of the {track.codec} track hold no audio stream")
        return container
    except av.FFmpegError as error:
        raise FormatError(f"the parameters of the {track.codec} track cannot be read: {error}") from error
