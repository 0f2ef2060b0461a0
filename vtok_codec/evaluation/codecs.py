"""The codecs that are compared, behind one interface: ours at an operating point, and FFmpeg's at a CRF."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import imageio_ffmpeg

from vtok_codec.codec.decoder import decode_events
from vtok_codec.codec.encoder import EncodeSettings, encode_video
from vtok_codec.codec.tokenizer import Tokenizer
from vtok_codec.container.reader import VtkReader
from vtok_codec.errors import InputError
from vtok_codec.evaluation.usage import Cost, measured, run_measured
from vtok_codec.media.reader import VideoReader
from vtok_codec.media.types import Frame, Pixels, VideoInfo

_MATRIX_RGB = 0
"""Of ISO/IEC 23091-2."""


class Codec(Protocol):
    """A codec at one operating point."""

    @property
    def name(self) -> str:
        """The codec: one curve of a plot."""

    @property
    def setting(self) -> str:
        """The operating point: one point of that curve."""

    @property
    def suffix(self) -> str:
        """Of the files that it writes."""

    @property
    def description(self) -> str:
        """What a reader should know of it."""

    @property
    def identity(self) -> dict[str, str]:
        """All that its results depend on, apart from the clip."""

    def encode(self, clip: Path, info: VideoInfo, target: Path) -> Cost:
        """Encode the video of a clip, without audio, into a file."""

    def decode(self, coded: Path) -> Cost:
        """Decode a file to RGB and throw the frames away."""

    def frames(self, coded: Path) -> Iterator[Pixels]:
        """The decoded frames, 8-bit RGB `H W 3`; at least as large as the clip's."""


@dataclass(frozen=True)
class VtokCodec:
    """A model that writes so many tokens a position."""

    tokenizer: Tokenizer
    tokens: int
    gop_seconds: float = EncodeSettings.gop_seconds
    suffix = ".vtk"

    @property
    def name(self) -> str:
        return self.tokenizer.id.name

    @property
    def setting(self) -> str:
        return f"{self.tokens} token{'s' if self.tokens > 1 else ''}"

    @property
    def description(self) -> str:
        placement = self.tokenizer.placement
        weights = self.tokenizer.id.weights_sha256[:12]
        return f"{self.name}: weights {weights}, {placement.device}, {placement.dtype}".replace("torch.", "")

    @property
    def identity(self) -> dict[str, str]:
        placement = self.tokenizer.placement
        return {
            "weights": self.tokenizer.id.weights_sha256,
            "tokens": str(self.tokens),
            "gop_seconds": str(self.gop_seconds),
            "placement": f"{placement.device} {placement.dtype}",
        }

    def encode(self, clip: Path, info: VideoInfo, target: Path) -> Cost:
        settings = EncodeSettings(tokens=self.tokens, gop_seconds=self.gop_seconds)
        with measured() as cost, VideoReader(clip, audio=False) as reader, target.open("wb") as stream:
            summary = encode_video(reader.info, reader.events(), self.tokenizer, settings, stream)
        if summary.failure:
            raise summary.failure
        return cost

    def decode(self, coded: Path) -> Cost:
        with measured() as cost:
            for _ in self.frames(coded):
                pass
        return cost

    def frames(self, coded: Path) -> Iterator[Pixels]:
        with coded.open("rb") as stream:
            for event in decode_events(VtkReader(stream), self.tokenizer):
                if isinstance(event, Frame):
                    yield event.pixels


@dataclass(frozen=True)
class Anchor:
    """An encoder of FFmpeg: its usual preset, and the leanest file that holds its stream."""

    name: str
    title: str
    suffix: str
    options: tuple[str, ...]
    crfs: tuple[float, ...]
    """From the largest file to the smallest: on small pictures they span the models' rates and qualities."""


# Elementary streams, without the encoder's own advertisement in them: no codec pays for a container or a signature.
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
        ),
    )
}


@dataclass(frozen=True)
class AnchorCodec:
    """One of FFmpeg's encoders at a CRF, in 8-bit 4:2:0."""

    anchor: Anchor
    crf: float

    @property
    def name(self) -> str:
        return self.anchor.name

    @property
    def setting(self) -> str:
        return f"crf {self.crf:g}"

    @property
    def description(self) -> str:
        return f"{self.name}: {self.anchor.title}, 8-bit 4:2:0, elementary stream"

    @property
    def suffix(self) -> str:
        return self.anchor.suffix

    @property
    def identity(self) -> dict[str, str]:
        return {"ffmpeg": ffmpeg_version(), "options": " ".join(self.anchor.options), "crf": f"{self.crf:g}"}

    def encode(self, clip: Path, info: VideoInfo, target: Path) -> Cost:
        # The rotation stays a mark, as in a .vtk. A frame is a frame, whatever its time.
        source = ["-noautorotate", "-i", str(clip.resolve())]
        kept = ["-map", "0:V:0", "-an", "-fps_mode", "passthrough", "-pix_fmt", "yuv420p"]
        filters = []
        if info.width % 2 or info.height % 2:
            filters += ["pad=ceil(iw/2)*2:ceil(ih/2)*2", "fillborders=right=1:bottom=1:mode=smear"]
        if info.color.matrix == _MATRIX_RGB:
            filters += ["scale=out_color_matrix=bt601:out_range=tv"]
            kept += ["-colorspace", "smpte170m", "-color_range", "tv"]
        if filters:
            kept += ["-vf", ",".join(filters)]
        coding = [*self.anchor.options, "-crf", f"{self.crf:g}"]
        return run_measured([*_ffmpeg(), *source, *kept, *coding, str(target.resolve())])

    def decode(self, coded: Path) -> Cost:
        return run_measured(
            [*_ffmpeg(), "-i", str(coded.resolve()), "-pix_fmt", "rgb24", "-f", "rawvideo", "/dev/null"]
        )

    def frames(self, coded: Path) -> Iterator[Pixels]:
        with VideoReader(coded, audio=False) as reader:
            for event in reader.events():
                if isinstance(event, Frame):
                    yield event.pixels


def anchor_codecs(name: str, crfs: tuple[float, ...] | None = None) -> list[AnchorCodec]:
    """An anchor at each of its CRFs.

    Raises:
        InputError: it is unknown.
    """
    if name not in ANCHORS:
        raise InputError(f"--against {name}: choose from {', '.join(ANCHORS)}")
    anchor = ANCHORS[name]
    return [AnchorCodec(anchor, crf) for crf in crfs or anchor.crfs]


@cache
def ffmpeg_version() -> str:
    """The first line that FFmpeg says of itself."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def _ffmpeg() -> list[str]:
    return [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y"]
