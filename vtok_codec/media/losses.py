"""What a `.vtk` file does not keep of a video, so that nothing is lost without a word."""

from __future__ import annotations

from collections.abc import Sequence

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from vtok_codec.media.side_data import side_data
from vtok_codec.media.tags import kept_tags
from vtok_codec.media.types import VideoInfo
from vtok_codec.text import counted, printable

_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
"""The names of HDR transfer characteristics, by their code points in ISO/IEC 23091-2."""


_SIDE_LOSSES = {
    "MASTERING_DISPLAY": "HDR metadata",
    "CONTENT_LIGHT": "HDR metadata",
    "DYNAMIC_HDR": "HDR metadata",
    "DOVI": "HDR metadata",
    "A53_CC": "closed captions",
    "SPHERICAL": "the mark of spherical video",
    "STEREO3D": "the mark of stereoscopic video",
    "ICC_PROFILE": "a colour profile",
}
"""What is lost with a kind of side data, by the beginning of its name in PyAV."""


def describe_losses(
    container: InputContainer, stream: VideoStream, info: VideoInfo, first: av.VideoFrame, refused: Sequence[str]
) -> list[str]:
    """Describe what is lost of a video, or kept in a way that may surprise.

    Args:
        container: The open file.
        stream: The video stream that is read.
        info: The description of the video.
        first: Its first frame.
        refused: Names of the audio tracks that cannot be stored.

    Returns:
        One clause per loss.
    """
    told = []
    if info.bit_depth > 8:
        told.append(f"{info.bit_depth} bits per sample are coded with 8")
    if info.color.transfer in _HDR_TRANSFERS:
        transfer = _HDR_TRANSFERS[info.color.transfer]
        told.append(f"HDR video ({transfer}) is coded without tone mapping; its colour tags are kept")
    if first.interlaced_frame:
        told.append("interlaced frames are coded as they are; deinterlace them first for a better picture")
    # WebM stores transparency beside the video, which then has none by itself.
    if _shows_through(first) or stream.metadata.get("alpha_mode") == "1":
        told.append("transparency is left out")
    left_out = [*_side_losses(first), *refused, *_other_streams(container)]
    if refused_tags := kept_tags(container.metadata)[1]:
        names = ", ".join(map(printable, sorted(refused_tags)))
        left_out.append(f"{counted(len(refused_tags), 'tag')} ({names})")
    return told + [f"{name} cannot be stored; left out" for name in left_out]


def _other_streams(container: InputContainer) -> list[str]:
    """Return the numbers of streams and the like that are not read, by kind, such as `2 subtitle tracks`."""
    streams = container.streams
    counts = {
        "subtitle track": len(streams.subtitles),
        "other video stream": len(streams.video) - 1,
        "data track": len(streams.data),
        "attachment": len(streams.attachments),
        "chapter": len(container.chapters()),
    }
    return [counted(count, name) for name, count in counts.items() if count]


def _side_losses(frame: av.VideoFrame) -> list[str]:
    """Return what side data of a frame say that a `.vtk` file does not store."""
    return sorted(
        {text for name, _ in side_data(frame) for sign, text in _SIDE_LOSSES.items() if name.startswith(sign)}
    )


def _shows_through(frame: av.VideoFrame) -> bool:
    """Return whether a frame has transparent pixels."""
    # A palette may hold transparent colours.
    if frame.format.name != "pal8" and not any(component.is_alpha for component in frame.format.components):
        return False
    alpha = frame.reformat(format="rgba").to_ndarray()[..., 3]
    return bool(alpha.min() < 255)
