"""FFmpeg's encoders, which vtok models are compared with."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import imageio_ffmpeg

from vtok_codec.errors import SettingError
from vtok_codec.evaluation.clips import SourceClip
from vtok_codec.evaluation.usage import Cost, run_measured
from vtok_codec.media.reader import VideoReader
from vtok_codec.media.types import Pixels

_MATRIX_RGB = 0
"""The code point of RGB among the matrix coefficients of ISO/IEC 23091-2."""
_CHROMA = re.compile(r"Stream #0:(\d+).*?: Video: .*?\b(?:yuvj?|nv|p0)\d+\w*\(?([^)]*)\)?")
"""What FFmpeg says about a video stream: its number, its pixel format, and what is known of its samples."""
_LOCATIONS = ("left", "center", "topleft", "top", "bottomleft", "bottom")
_UNNAMED = "center"
"""Where chroma lies if a file does not say, as FFmpeg's scaler takes it."""
"""Where chroma samples can lie, by FFmpeg's names."""


@dataclass(frozen=True)
class Anchor:
    """One of FFmpeg's encoders with its preset, and the smallest file format that holds its stream."""

    name: str
    """The name that users choose the encoder by."""
    title: str
    """The encoder and its preset, for reports."""
    suffix: str
    """The suffix of a file that holds a bare elementary stream."""
    options: tuple[str, ...]
    """FFmpeg's output options, without the CRF."""
    crfs: tuple[float, ...]
    """The default CRFs, from the largest file to the smallest. On small pictures they span the rates of the models."""
    largest_crf: float = 51
    """The CRF of the smallest file that the encoder can make."""


# Bare elementary streams without the encoder's signature, so that no anchor pays for a container or for text.
ANCHORS = {
    anchor.name: anchor
    for anchor in (
        Anchor(
            "x264",
            "x264, medium",
            ".h264",
            ("-c:v", "libx264", "-preset", "medium", "-bsf:v", "filter_units=remove_types=6"),
            (22, 29, 36, 43, 50),
        ),
        Anchor(
            "x265",
            "x265, medium",
            ".hevc",
            ("-c:v", "libx265", "-preset", "medium", "-x265-params", "log-level=error:info=0"),
            (22, 29, 36, 43, 50),
        ),
        Anchor(
            "av1",
            "SVT-AV1, preset 6",
            ".obu",
            ("-c:v", "libsvtav1", "-preset", "6", "-svtav1-params", "lp=2"),
            (30, 39, 48, 57, 63),
            largest_crf=63,
        ),
    )
}
"""The encoders that models are compared with, by name."""


@dataclass(frozen=True)
class AnchorCodec:
    """One of FFmpeg's encoders at one CRF, in 8-bit 4:2:0."""

    anchor: Anchor
    """The encoder."""
    crf: float
    """The constant rate factor, which sets the quality; a higher value gives a smaller file."""
    is_anchor = True
    """An encoder of FFmpeg is an anchor."""

    @property
    def name(self) -> str:
        """The name of the encoder, which has one curve in a plot."""
        return self.anchor.name

    @property
    def setting(self) -> str:
        """The CRF, such as `crf 29`."""
        return f"crf {self.crf:g}"

    @property
    def description(self) -> str:
        """The encoder, its preset and its output, as one line for reports."""
        return f"{self.name}: {self.anchor.title}, 8-bit 4:2:0, its own keyframe interval, bare elementary stream"

    @property
    def suffix(self) -> str:
        """The suffix of the files that the encoder writes, with its dot."""
        return self.anchor.suffix

    @property
    def identity(self) -> dict[str, str]:
        """Everything that results depend on, apart from the clip and the measures."""
        return {"ffmpeg": ffmpeg_version(), "options": " ".join(self.anchor.options), "crf": f"{self.crf:g}"}

    def encode(self, clip: SourceClip, target: Path) -> Cost:
        """Encode the video of a clip, without audio, into a file.

        Raises:
            OutputError: FFmpeg failed.
        """
        info = clip.info
        # As in a .vtk file, rotation stays metadata, and every frame is coded exactly once, whatever its time.
        source = ["-noautorotate", "-i", str(clip.path.resolve()), "-map", f"0:{clip.stream}"]
        kept = ["-fps_mode", "passthrough", "-pix_fmt", "yuv420p"]
        filters = []
        if info.color.matrix == _MATRIX_RGB:
            filters.append("scale=out_color_matrix=bt601:out_range=tv")
            kept += ["-colorspace", "smpte170m", "-color_range", "tv"]
        right, below = info.width % 2, info.height % 2
        if right or below:
            # 4:2:0 needs even sides. Padding is done in 4:4:4, where the last row and column still have chroma.
            filters += ["format=yuv444p", "pad=ceil(iw/2)*2:ceil(ih/2)*2"]
            filters += [f"fillborders=right={right}:bottom={below}:mode=smear"]
        if filters:
            kept += ["-vf", ",".join(filters)]
        # FFmpeg centres chroma that it converts to 4:2:0, and leaves the rest where it is. An encoder that is not told
        # where chroma lies writes nothing about it, or loses what it knew to a conversion.
        location = "center" if filters else chroma_location(clip.path, clip.stream)
        kept += ["-chroma_sample_location", location]
        coding = [*self.anchor.options, "-crf", f"{self.crf:g}"]
        return run_measured([*_ffmpeg(), *source, *kept, *coding, str(target.resolve())])

    def decode(self, coded: Path) -> Cost:
        """Decode a file to RGB without keeping the frames, to measure the cost.

        Raises:
            OutputError: FFmpeg failed.
        """
        return run_measured(
            [*_ffmpeg(), "-i", str(coded.resolve()), "-pix_fmt", "rgb24", "-f", "rawvideo", "/dev/null"]
        )

    def frames(self, coded: Path) -> Iterator[Pixels]:
        """Yield the decoded frames, uint8 RGB `H W 3`, padded to even sides."""
        with VideoReader(coded, audio=False) as reader:
            for frame in reader.frames():
                yield frame.pixels


def anchor_codecs(name: str, crfs: tuple[float, ...] | None = None) -> list[AnchorCodec]:
    """Make the codecs of an anchor, one for each CRF.

    Args:
        name: The name of the anchor, one of `ANCHORS`.
        crfs: The CRFs; None for the anchor's default ones.

    Raises:
        SettingError: There is no such anchor.
    """
    if name not in ANCHORS:
        raise SettingError(f"no anchor {name!r}; choose from {', '.join(ANCHORS)}")
    anchor = ANCHORS[name]
    return [AnchorCodec(anchor, crf) for crf in crfs or anchor.crfs]


@cache
def chroma_location(path: Path, stream: int) -> str:
    """Return where the chroma of a video lies, by FFmpeg's names.

    If the file does not say, it is where `VideoReader` takes it to lie.

    Args:
        path: The file.
        stream: The number of its video stream.
    """
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-v", "verbose", "-i", str(path.resolve())]
    told = subprocess.run(command, capture_output=True, text=True, errors="replace").stderr
    for number, about in _CHROMA.findall(told):
        if int(number) == stream:
            named = next((word for word in re.split(r"[,\s]+", about) if word in _LOCATIONS), None)
            return named or _UNNAMED
    return _UNNAMED


@cache
def ffmpeg_version() -> str:
    """Return the first line of `ffmpeg -version`."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def _ffmpeg() -> list[str]:
    return [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y"]
